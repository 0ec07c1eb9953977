"""Spans of time in words."""

from __future__ import annotations


def in_words(seconds: float) -> str:
    """Two units at most.

    >>> in_words(45), in_words(11_520), in_words(183_600)
    ('45 s', '3 h 12 min', '2 d 3 h')
    """
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86_400, whole % 86_400 // 3600, whole % 3600 // 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes >= 2 else f"{whole} s"
