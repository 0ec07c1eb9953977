"""evaltk's packages `protocols`, `reports` and `pretrain` have names that others may use, too: a clash is named."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from evaltk.errors import SettingsError

ROOT = Path(__file__).resolve().parents[1]
OURS = {"protocols": "knn.py", "reports": "table.py", "pretrain": "recipe_names.py"}  # {package: a file of it}


def check(root: Path = ROOT) -> None:
    """Check that each package is ours. Raises: SettingsError: another distribution's, or another folder's."""
    for name, file in OURS.items():
        spec = importlib.util.find_spec(name)
        places = [Path(place).resolve() for place in (spec.submodule_search_locations or ()) if spec] if spec else []
        if root / name in places[:1] and (root / name / file).is_file():
            continue
        owners = [one for one in metadata.packages_distributions().get(name, ()) if one != "evaltk"]
        by = f" of {', '.join(dict.fromkeys(owners))}" if owners else ""
        got = f"{places[0]}{by}" if places else "none"
        do = "install evaltk in an environment of its own"
        if not owners and places:
            do = "run `evaltk` from another folder (`python -m evaltk` looks in the current one first)"
        raise SettingsError(
            wanted=f"evaltk's own package {name} in {root}", got=got, where="Python's import path", do=do
        )
