"""L2-regularised softmax regression solved to convergence: one strength, a path of strengths, or cross-validation."""

from evaltk.logistic.regression import LogisticModel, cross_validate, fit, fit_path

__all__ = ["LogisticModel", "cross_validate", "fit", "fit_path"]
