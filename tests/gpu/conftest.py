"""A budget of time: what it does not suffice for is skipped, and so named, instead of cut off."""

from __future__ import annotations

import os
import time

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """EVALTK_GPU_UNTIL: seconds since the epoch after which no test begins."""
    if time.time() > float(os.environ.get("EVALTK_GPU_UNTIL", "inf")):
        pytest.skip("not begun: out of time")
