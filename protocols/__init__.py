"""Evaluation protocols, one file each. The folder is the registry.

A protocol module has `VERSION`, a frozen `Settings` with the paper's defaults, `needs(settings)` (the features it will
ask for) and `run(bench, dataset, settings) -> Outcome`; also `check(dataset, settings)` where settings can be refused
before any work, `check_checkpoint(checkpoint)` where it needs more of a file than the net,
`splits(dataset, settings, seed)` where it looks at a part of the images alone, `identity(settings)` where settings name
files whose content is part of what was asked ({name: sha256}), and `prepare(bench, dataset, settings)`
where its data sets have no splits: every process calls it before `run`, to share the extraction, and
`extracts(bench, dataset, settings)` where the net decides what is asked for: ((split, needs), ...), without needs where
`prepare` or `run` read the images themselves. It imports torch only inside functions, so that help and settings are
quick.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType


@functools.cache
def registry() -> dict[str, ModuleType]:
    """{name: module} of every protocol in this folder."""
    found = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
    return {name: module for name, module in found.items() if hasattr(module, "run")}
