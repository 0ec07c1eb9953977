"""Score external outputs: features, rankings, masks or prototypes.

Examples:
    evaltk score retrieval --ranks ranks.npy --gnd gnd_roxford5k.pkl
    evaltk score vos --results masks/ --davis DAVIS/ --csv-out .
    evaltk score knn --bank X.npy --labels y.npy --queries Q.npy --query-labels q.npy
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

from evaltk.errors import SettingsError, nearest


def subjects() -> dict[str, str]:
    """{subject: its one-line help}, read from the files' docstrings without importing them."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            source = (Path(__path__[0]) / f"{module.name}.py").read_text(encoding="utf-8")
            found[module.name] = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
    return found


def main(argv: list[str]) -> int:
    """Score a subject. Raises: SettingsError: no such subject; what the subject raises."""
    known = subjects()
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, known))
        print("usage: evaltk score SUBJECT ...   (evaltk score SUBJECT --help for options)\n")
        print("\n".join(f"  {name:<{width}}  {line}" for name, line in sorted(known.items())))
        return 0 if argv else 2
    if argv[0] not in known:
        raise SettingsError(
            wanted="a subject to score", got=repr(argv[0]), where="evaltk score", do=nearest(argv[0], known)
        )
    return int(importlib.import_module(f"evaltk.cli.score.{argv[0]}").main(argv[1:]))
