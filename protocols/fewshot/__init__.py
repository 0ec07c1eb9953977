"""Few-shot classification as in MSN: softmax regression on 1, 2 and 5 images per class, and on 1 % of the images."""

from protocols.fewshot.protocol import KIND, TITLE, VERSION, Settings, centred, check, choose, fit, needs, run, splits

__all__ = ["KIND", "TITLE", "VERSION", "Settings", "centred", "check", "choose", "fit", "needs", "run", "splits"]
