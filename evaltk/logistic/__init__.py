"""L2-regularised softmax regression to the optimum: one strength, a path of strengths, or cross-validation over one."""

from evaltk.logistic.regression import LogisticModel, cross_validate, fit, fit_path

__all__ = ["LogisticModel", "cross_validate", "fit", "fit_path"]
