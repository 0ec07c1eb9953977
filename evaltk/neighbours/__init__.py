"""Exact blockwise nearest neighbours; results are the same on every processor, device and backend."""

from evaltk.neighbours.blocks import prepare, rows, top
from evaltk.neighbours.exact import best_in_block, search

__all__ = ["best_in_block", "prepare", "rows", "search", "top"]
