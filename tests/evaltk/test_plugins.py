"""Plug-in files and entry points: what docs/extending.md shows runs as it stands, and what is wrong is refused."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import protocols
from evaltk import cli, datasets, load_checkpoint, plugins, results
from evaltk.bench import Outcome, Protocol
from evaltk.checkpoints import families
from evaltk.errors import SettingsError
from evaltk.plugins import Registry

ROOT = Path(__file__).parents[2]
NET = "random:vit_patch4_dim32_depth2_heads2_img16"


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    yield
    plugins.use(())


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    """The file that the document shows."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/extending.md").read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path / "extra.py"
    path.write_text("\n\n".join(blocks))
    return path


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.pth"
    torch.save({"my_encoder": dict(load_checkpoint(NET).weights)}, path)
    return path


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    """`write(text, name=...)`: a plug-in file."""

    def write(text: str, name: str = "my_plugin.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line on stderr of a command that exits with 2."""
    capsys.readouterr()
    assert cli.main([str(a) for a in argv]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert not captured.out and all(part in line for part in ("wanted ", "got ", "where: ", "do: "))
    return line


def test_the_document_runs(extra: Path, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = "evaltk run net.pth --plugin extra.py --protocols centroid --data stripes"
    assert shown in (ROOT / "docs/extending.md").read_text()
    argv = [str(tmp_path / word) if word in ("net.pth", "extra.py") else word for word in shown.split()[1:]]
    argv += ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert "### Results on stripes" in out and "| net " in out and "centroid top1" in out and "wrote" in err
    (path,) = (tmp_path / "runs").rglob("*.json")
    result = results.read(path)
    assert result.checkpoint["family"] == "mine" and result.protocol == "centroid" and result.data.name == "stripes"
    assert result.scores[0].value > 0.5 and set(result.made["plugins"]) == {"extra.py"}
    assert cli.main(argv) == 0 and "done before" in capsys.readouterr().err
    assert cli.main([*argv, "--centroid.power", "2"]) == 0 and len([*(tmp_path / "runs").rglob("*.json")]) == 2
    assert "--centroid.power" in refused(capsys, *argv, "--centroid.power", "-1")
    extra.write_text(extra.read_text() + "\n# another text\n")
    assert cli.main(argv) == 0 and "done before" not in capsys.readouterr().err
    assert cli.main(["plan", *argv[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to_do"] == 0


def test_the_other_commands_see_a_plugin(extra: Path, net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(net), "--plugin", str(extra)]) == 0
    assert "mine, branch encoder" in capsys.readouterr().out
    assert cli.main(["ls", "protocols", "--plugin", str(extra)]) == 0
    assert "Nearest class mean on frozen features." in capsys.readouterr().out
    assert cli.main(["ls", "datasets", f"--plugin={extra}"]) == 0
    assert "Horizontal and vertical lines." in capsys.readouterr().out
    assert cli.main(["ls", "protocols"]) == 0
    assert "centroid" not in capsys.readouterr().out


def test_pretraining_sees_a_plugins_dataset(extra: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["pretrain", "digits_dino", "--data", "stripes", "--out", tmp_path / "out", "--set", "run.seed=no"]
    assert "wanted int; got 'no'" in refused(capsys, *argv, "--plugin", extra)
    assert "stripes" in datasets.registry()


def test_two_plugins_and_what_a_spawned_worker_needs(extra: Path, plugin: Callable[..., Path]) -> None:
    other = plugin(
        "from evaltk.datasets import DatasetSpec\n"
        "def load(root, label):\n    return label\n"
        'DATASET = DatasetSpec(name="other", where="PATH", load=load)\n'
    )
    assert [p.path for p in plugins.use([extra, other, extra])] == [extra, other]
    assert {"stripes", "other", "digits"} <= set(datasets.registry())
    assert "centroid" in protocols.registry() and "mine" in families.load()
    worker = multiprocessing.get_context("spawn").Process(target=datasets.registry()["other"].load, args=(None, "x"))
    worker.start()  # it gets this process's sys.path, and imports by name what it unpickles
    worker.join()
    assert worker.exitcode == 0
    plugins.use(())
    assert str(extra.parent) not in sys.path and "my_plugin" not in sys.modules
    assert "other" not in datasets.registry()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import numpy\n\nx = 1 / 0\n", ("ZeroDivisionError", "my_plugin.py, line 3")),
        ("x = 1\nif x\n", ("SyntaxError", "my_plugin.py, line 2")),
        ("import nothing_of_this_name\n", ("ModuleNotFoundError", "line 1")),
        ("x = 1\n", ("PROTOCOL, DATASET, FAMILY, METHOD", "none of them")),
        (
            "class P:\n    name = 'p'\n    kind = 'images'\nPROTOCOL = P()\n",
            ("type P, without version, settings, run",),
        ),
        ("PROTOCOL = {'name': 'p'}\n", ("type dict, without name, version, kind, settings, run",)),
        (
            "from evaltk.bench import Protocol\nPROTOCOL = Protocol(name='p', kind='images', version=1)\n",
            ("missing 2 required keyword-only arguments: 'settings' and 'run'", "line 2"),
        ),
        (
            "from evaltk.bench import Protocol\nPROTOCOL = Protocol(name='p', kind='sound', version=1, settings=int, "
            "run=print)\n",
            ("one of images, retrieval, sequences", "line 2"),
        ),
        (
            "import dataclasses\nfrom protocols import knn\nPROTOCOL = dataclasses.replace(knn.PROTOCOL, version=2)\n",
            ("'knn' in both evaltk (protocols.knn) and", "my_plugin.py"),
        ),
    ],
)
def test_bad_plugins_are_refused(
    text: str, said: tuple[str, ...], plugin: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "ls", "protocols", "--plugin", plugin(text))
    assert all(words in line for words in said), line
    assert "my_plugin" not in sys.modules or plugins._plugins


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "from evaltk.datasets import DatasetSpec\nDATASET = DatasetSpec(name='digits', where='x', load=print)\n",
            "'digits' in both evaltk (evaltk.datasets.digits) and",
        ),
        ("from evaltk.datasets import DatasetSpec\nDATASET = DatasetSpec(name='a', where='', load=print)\n", "where"),
        ("from evaltk.datasets import DatasetSpec\nDATASET = DatasetSpec(name='a', where='x', load=1)\n", "load"),
        ("DATASET = 1\n", "type int, without name, where, load"),
    ],
)
def test_bad_datasets_are_refused(
    text: str, said: str, plugin: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "ls", "datasets", "--plugin", plugin(text))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("name='dino', scheme='a', from_name=print", "'dino' in both evaltk (evaltk.checkpoints.families.dino) and"),
        ("name='a', scheme='timm', from_name=print", "scheme 'timm'"),
        ("name='a', claims=print", "claims goes with Family.convert"),
        ("name='a', scheme='a'", "scheme goes with Family.from_name"),
        ("name='a'", "needs claims and convert, or scheme and from_name"),
    ],
)
def test_bad_families_are_refused(
    fields: str, said: str, plugin: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = plugin(f"from evaltk.checkpoints.families import Family\nFAMILY = Family({fields})\n")
    assert said in refused(capsys, "inspect", "pixels:8", "--plugin", path)


def test_files_that_cannot_be_plugins(
    tmp_path: Path, plugin: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file" in refused(capsys, "ls", "protocols", "--plugin", tmp_path / "none.py")
    assert "NAME.py" in refused(capsys, "ls", "protocols", "--plugin", plugin("", "notes.txt"))
    assert "NAME.py" in refused(capsys, "ls", "protocols", "--plugin", plugin("", "not-a-name.py"))
    line = refused(capsys, "ls", "protocols", "--plugin", plugin("", "json.py"))
    assert "a file name that no other module has" in line and "my_json.py" in line


def installed(folder: Path, text: str, group: str, value: str) -> None:
    """A package in `folder` that offers one entry point."""
    (folder / "added_package.py").write_text(text)
    info = folder / "added_package-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: added-package\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nadded = {value}\n")


class Method:
    """As pretrain's: no dataclass, and each method is a subclass of its own."""

    name = ""


def test_records_need_not_be_dataclasses() -> None:
    registry = Registry(record=Method, constant="METHOD", package="pretrain.methods")
    with pytest.raises(SettingsError, match="got type int; "):
        registry.checked(1, "here")
    assert registry.checked(type("Mine", (Method,), {"name": "mine"})(), "here").name == "mine"
    assert registry.group == "evaltk.methods"


def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from evaltk.datasets import DatasetSpec\n"
        'DATASET = DatasetSpec(name="added", where="PATH", load=lambda root, label: label)\n'
    )
    installed(tmp_path, text, "evaltk.datasets", "added_package:DATASET")
    monkeypatch.syspath_prepend(tmp_path)
    assert "added" in datasets.registry()
    assert datasets.REGISTRY.identity("added") == {"dataset": "added-package 1.2"}
    assert datasets.REGISTRY.identity("digits") == {}
    monkeypatch.undo()
    sys.modules.pop("added_package", None)
    assert "added" not in datasets.registry()


@pytest.mark.parametrize(
    ("text", "said"), [("x = 1 / 0\n", "ZeroDivisionError"), ("DATASET = 1\n", "type int, without name, where, load")]
)
def test_bad_entry_points(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, text, "evaltk.datasets", "added_package:DATASET")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=said) as caught:
        datasets.registry()
    assert "added-package 1.2" in str(caught.value) and caught.value.do
    sys.modules.pop("added_package", None)


@pytest.mark.parametrize(
    ("text", "said"), [("def run():\n    pass\n", "got none in helper"), ("PROTOCOL = 1\n", "type int, without name")]
)
def test_a_file_without_a_record_in_a_registrys_folder(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "folder_" + ("a" if "def" in text else "b")
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "helper.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=said) as caught:
        Registry(record=Protocol, constant="PROTOCOL", package=name).records()
    assert "helper.py" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "no name"}, "identifier"),
        ({"version": 0}, "version"),
        ({"version": "1"}, "version"),
        ({"kind": "sound"}, "kind"),
        ({"settings": int}, "settings"),
        ({"settings": dataclasses.make_dataclass("Settings", ["k"], frozen=True)}, "a default, not so k"),
        ({"settings": dataclasses.make_dataclass("Settings", [])}, "not frozen"),
        ({"run": None}, "run"),
        ({"check": 1}, "check"),
    ],
)
def test_a_protocol_that_breaks_its_contract(change: dict[str, object], said: str) -> None:
    from protocols.knn import Settings

    fields: dict[str, object] = {"name": "p", "version": 1, "kind": "images", "settings": Settings}
    fields |= {"run": lambda bench, dataset, settings: Outcome(scores=())}
    Protocol(**fields)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError), match=said):
        Protocol(**(fields | change))  # type: ignore[arg-type]
