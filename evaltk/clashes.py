"""evaltk's packages `protocols`, `reports` and `pretrain` have names that others may use, too: a clash is named.

The wheel's metadata declare them (Import-Name, PEP 794); pip does not look at that and lets one distribution overwrite
the files of another, so what was installed is compared with what the wheel recorded.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from importlib import metadata
from pathlib import Path

from evaltk.errors import SettingsError

ROOT = Path(__file__).resolve().parents[1]
OURS = {"protocols": "knn.py", "reports": "table.py", "pretrain": "recipe_names.py"}  # {package: a file of it}
ALONE = "install evaltk in an environment of its own"
ELSEWHERE = "run `evaltk` from another folder (`python -m evaltk` looks in the current one first)"


def check(root: Path = ROOT) -> None:
    """Check that each package is ours. Raises: SettingsError: another distribution's, or another folder's."""
    recorded = _recorded(root)
    for name, file in OURS.items():
        place = _place(name)
        if place == root / name and (root / name / file).is_file():
            first = root / name / "__init__.py"
            if recorded.get(name, "") in ("", _digest(first)):
                continue
            raise _clash(root, name, f"{first} that was overwritten by {_owner(name) or 'something else'}", ALONE)
        owner = _owner(name)
        got = f"{place}{owner and f' of {owner}'}" if place else "none"
        raise _clash(root, name, got, ALONE if owner or not place else ELSEWHERE)


def _clash(root: Path, name: str, got: str, do: str) -> SettingsError:
    return SettingsError(wanted=f"evaltk's own package {name} in {root}", got=got, where="Python's import path", do=do)


def _place(name: str) -> Path | None:
    """The folder of a package, the file of a module, None where there is neither."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None


def _owner(name: str) -> str:
    """The other distributions that have a package of this name; reads the records of all that are installed."""
    return ", ".join(dict.fromkeys(one for one in metadata.packages_distributions().get(name, ()) if one != "evaltk"))


def _recorded(root: Path) -> dict[str, str]:
    """{package: the sha256 of its __init__.py in the wheel's RECORD}; empty for a checkout."""
    wanted = {f"{name}/__init__.py": name for name in OURS}
    for one in metadata.distributions(name="evaltk", path=[str(root)]):
        return {wanted[str(file)]: file.hash.value for file in one.files or () if str(file) in wanted and file.hash}
    return {}


def _digest(path: Path) -> str:
    try:
        found = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return ""
    return base64.urlsafe_b64encode(found).decode().rstrip("=")
