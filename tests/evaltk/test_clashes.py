"""Another package of the name of one of ours is named, with its distribution."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from evaltk import clashes
from evaltk.errors import SettingsError

ROOT = Path(__file__).parents[2]


def test_ours_are_ours() -> None:
    clashes.check()


def test_a_folder_of_the_same_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path.insert(1, {str(ROOT)!r}); from evaltk import cli; sys.exit(cli.main(['ls', 'tables']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "wanted evaltk's own package reports" in ended.stderr
    assert str(tmp_path / "reports") in ended.stderr and "run `evaltk` from another folder" in ended.stderr


def test_a_module_of_the_same_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "protocols.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "protocols", raising=False)
    with pytest.raises(SettingsError, match=r"got \S+protocols\.py; .*from another folder"):
        clashes.check()


def test_another_distribution_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        clashes.metadata, "packages_distributions", lambda: {"protocols": ["other-protocols", "evaltk"]}
    )
    with pytest.raises(SettingsError, match=r"of other-protocols; .*an environment of its own"):
        clashes.check(tmp_path)


def wheel(site: Path, name: str, files: dict[str, str]) -> None:
    """Install as pip does: write over what is there, and record it."""
    (site / f"{name}-1.dist-info").mkdir(parents=True)
    rows = []
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        rows.append(f"{path},sha256={digest},{len(text)}\n")
    (site / f"{name}-1.dist-info" / "RECORD").write_text("".join(rows))
    (site / f"{name}-1.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")


def test_a_distribution_that_wrote_over_ours_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{name}/{file}": "# ours" for name, one in clashes.OURS.items() for file in ("__init__.py", one)}
    wheel(tmp_path, "evaltk", files)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in clashes.OURS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    clashes.check(tmp_path)
    wheel(tmp_path, "quarterly", {"reports/__init__.py": "# theirs"})
    with pytest.raises(SettingsError, match=r"package reports in .*overwritten by quarterly; .*environment of its own"):
        clashes.check(tmp_path)


def test_the_wheels_metadata_declare_all_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(project["project"]["import-names"]) == sorted(packages) == sorted(["evaltk", *clashes.OURS])
