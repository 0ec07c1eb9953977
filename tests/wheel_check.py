"""`make wheel`: wheel and sdist are built, and the wheel works where the checkout is not.

The wheel is installed into a new environment outside the checkout. What it depends on is seen through a path to this
environment's packages, in which an editable install of evaltk itself does not count.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("evaltk", "pretrain", "protocols", "reports")
SMOKE = ("tests/reports/test_view.py", "tests/reports/test_terminal.py", "tests/protocols/test_knn.py")


def main() -> int:
    """Build, look inside, install and try. Returns: 0, or 1 after saying what is wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, sdist = build(folder)
        faults = [*wheel_faults(wheel), *sdist_faults(sdist)]
        for fault in faults:
            print(fault, file=sys.stderr)
        if faults:
            return 1
        try_out(wheel, folder)
    print(f"{wheel.name} and {sdist.name}: whole, and the wheel works")
    return 0


def run(command: list[str], folder: Path) -> str:
    """Run a command outside the checkout; its output. Raises: SystemExit: it failed."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"EVALTK_HOME": str(folder / "home")}
    ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}: {ended.returncode}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return ended.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """(wheel, sdist)."""
    tools = folder / "tools"
    venv.create(tools, with_pip=True)
    run([str(tools / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "build", "hatchling"], folder)
    run([str(tools / "bin" / "python"), "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def tracked() -> set[str]:
    """The files of the packages that git has."""
    said = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(said.splitlines())


def wheel_faults(wheel: Path) -> list[str]:
    """What the wheel lacks, and what it has without need."""
    there = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    needed = {name for name in tracked() if not name.endswith(".md")}
    lacking, odd = sorted(needed - there), sorted(there - needed)
    opened = zipfile.ZipFile(wheel)
    (about,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
    said = opened.read(about).decode().splitlines()
    undeclared = [f"the wheel's metadata lack Import-Name: {p}" for p in PACKAGES if f"Import-Name: {p}" not in said]
    return undeclared + [f"the wheel lacks {name}" for name in lacking] + [f"the wheel has {name}" for name in odd]


def sdist_faults(sdist: Path) -> list[str]:
    """What a build from the sdist would lack."""
    with tarfile.open(sdist) as opened:
        there = {name.partition("/")[2] for name in opened.getnames()}
    needed = {*tracked(), "pyproject.toml", "README.md", "LICENSE", "tests/conftest.py", "docs/index.md", "mkdocs.yml"}
    return [f"the sdist lacks {name}" for name in sorted(needed - there)]


def try_out(wheel: Path, folder: Path) -> None:
    """Install the wheel apart from the checkout, evaluate, print, write a page, train, and run the smoke tests."""
    clean = folder / "clean"
    venv.create(clean, with_pip=True)
    python, command = str(clean / "bin" / "python"), str(clean / "bin" / "evaltk")
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", str(wheel)], folder)
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run([python, "-c", "import evaltk, reports; print(evaltk.__file__, reports.__file__)"], folder)
    if str(clean) not in where or str(ROOT) in where:
        raise SystemExit(f"imported from {where}")
    first = site / "reports" / "__init__.py"
    ours = first.read_bytes()
    first.write_text("# another distribution's\n")
    ended = subprocess.run([command, "ls", "tables"], cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode != 2 or "overwritten" not in ended.stderr:
        raise SystemExit(f"an overwritten package is not told: {ended.stderr}")
    first.write_bytes(ours)
    run([command, "run", "pixels:8", "--data", "digits", "--limit", "100"], folder)
    if "pixels:8" not in run([command, "table"], folder):
        raise SystemExit("no table")
    run([command, "report"], folder)
    run([command, "demo", "--epochs", "1", "--protocols", "knn", "prototypes"], folder)
    run([command, "ls", "checkpoints"], folder)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SMOKE], folder)


if __name__ == "__main__":
    raise SystemExit(main())
