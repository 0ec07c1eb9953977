"""Thresholds at which duplicate prototypes are counted by default; no torch, so that settings and help are quick."""

from __future__ import annotations

THRESHOLD = 0.9  # cosine above which two are duplicates (DINO-vMF, Table 4)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # Figures 6 and 7, whose grid is not printed
DISTANCE = 0.025  # cosine distance of the follow-up literature's share of unique prototypes
VOID_COSINE = -0.9  # largest cosine of a void set with the data mean; the paper reports "exactly -1" (section 5.2)
VOID_SHARE = 0.01  # smallest share of the prototypes that a void set holds
