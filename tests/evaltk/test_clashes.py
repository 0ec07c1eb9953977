"""Another package of the name of one of ours is named, with its distribution."""

from __future__ import annotations

import subprocess
import sys
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


def test_overwritten_by_another_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        clashes.metadata, "packages_distributions", lambda: {"protocols": ["other-protocols", "evaltk"]}
    )
    with pytest.raises(SettingsError, match=r"of other-protocols; .*an environment of its own"):
        clashes.check(tmp_path)
