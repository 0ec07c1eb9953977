"""The examples in the docstrings of the metrics give the numbers they state."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("classification", "clustering", "retrieval", "segmentation", "statistics", "sums")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"evaltk.metrics.{name}"))
    assert outcome.attempted and not outcome.failed
