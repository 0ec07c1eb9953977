"""Few-shot classification as MSN does it: softmax regression on 1, 2 and 5 images per class and on 1 %."""

from protocols.fewshot.protocol import KIND, TITLE, VERSION, Settings, centred, check, choose, fit, needs, run, splits

__all__ = ["KIND", "TITLE", "VERSION", "Settings", "centred", "check", "choose", "fit", "needs", "run", "splits"]
