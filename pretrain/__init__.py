"""Pretraining of DINO, DINO-vMF, iBOT, iBOT-vMF and MSN."""
