"""Where recipes are found, without torch: a mistyped name is answered at once."""

from __future__ import annotations

from pathlib import Path

from evaltk.errors import SettingsError, nearest

FOLDER = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """The bundled recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def path_of(name: str) -> Path:
    """The file of a bundled recipe, or a ``.toml`` file. Raises: SettingsError: there is none."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        with path.open("rb"):
            return path
    except (OSError, ValueError) as error:
        raise SettingsError(
            wanted="a bundled recipe or a .toml file", got=repr(name), where=path, do=nearest(name, names())
        ) from error
