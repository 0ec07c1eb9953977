"""Result files: whole or not at all, read back as they were, and told from what else lies in the folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaltk import files, results
from evaltk.errors import StorageError
from evaltk.types import (
    Deviation,
    DeviationKind,
    OriginProof,
    PixelView,
    Preprocessing,
    Result,
    ResultData,
    Score,
    canonical,
)

RESULT = Result(
    checkpoint={"name": "net", "sha256": "0" * 64, "family": "dino"},
    protocol="knn",
    version=1,
    settings={"k": [5, 10]},
    data=ResultData(name="digits", fingerprint="f", sizes={"train": 20, "test": 7}),
    preprocessing=Preprocessing(
        precision="fp32",
        position="dino",
        overrides={"resize": 9},
        views={"eval": PixelView(text="resize 9", resize=9, crop=8, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 0.5))},
    ),
    scores=(
        Score(dataset="digits", split="test", metric="top1", value=0.1, n=7, at={"k": 5}, interval=(0.0, 1 / 3)),
        Score(dataset="digits", split="test", metric="top5", value=1.0, n=7),
    ),
    seed=3,
    request="ab" * 32,
    made={"seconds": {"scoring": 0.1}, "git": None},
    origin_proof=OriginProof.LAYOUT,
    deviations=(Deviation(kind=DeviationKind.SPLIT_SIZE, text="test has 7 images"),),
    notes=("a note: ½",),
)
PREDICTIONS = {"target": np.arange(7), "k5_t0.07": np.zeros(7, np.int32)}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "knn-digits-abababababab.json"
    results.write(path, RESULT, PREDICTIONS)
    assert results.read(path) == RESULT
    found = results.read_predictions(path)
    assert sorted(found) == sorted(PREDICTIONS) and all(np.array_equal(found[k], v) for k, v in PREDICTIONS.items())
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "knn-digits-abababababab.json", "knn-digits-abababababab.predictions.npz",
    ]  # fmt: skip
    assert json.loads(path.read_text())["format"] == 2


def test_numbers_keep_their_last_digit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(50)
    scores = tuple(Score(dataset="d", split="s", metric=str(i), value=float(v), n=1) for i, v in enumerate(values))
    results.write(tmp_path / "x.json", replace(RESULT, scores=scores), {})
    assert [s.value for s in results.read(tmp_path / "x.json").scores] == values.tolist()
    assert results.read_predictions(tmp_path / "x.json") == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_a_bug(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="top1 is"):
        results.write(tmp_path / "x.json", replace(RESULT, scores=(replace(RESULT.scores[0], value=value),)), {})
    assert list(tmp_path.iterdir()) == []


def test_names_of_files() -> None:
    def at(checkpoint: str, dataset: str = "digits") -> str:
        return str(results.path_of(Path("runs"), checkpoint, "knn", dataset, "0123456789abcdef"))

    assert at("dino_vits16") == "runs/dino_vits16/knn-digits-0123456789ab.json"
    assert at("timm:vit_small.dino") == "runs/timm-vit_small.dino/knn-digits-0123456789ab.json"
    assert at("../../etc/x", "a/../b") == "runs/etc-x/knn-a-..-b-0123456789ab.json"  # one folder down, never up
    assert at("...") == "runs/unnamed/knn-digits-0123456789ab.json"
    assert len(at("x" * 300)) < 200


@pytest.mark.parametrize("step", range(6))
def test_a_kill_while_writing_leaves_no_mixture(tmp_path: Path, step: int) -> None:
    """Killed after n changes on disk: the old result with the old predictions, or no result."""
    path = tmp_path / "knn-digits-abababababab.json"
    results.write(path, RESULT, PREDICTIONS)
    new = {"target": np.arange(9)}
    pid = os.fork()
    if not pid:
        left = [step]

        def counted(real):
            def change(*given: object, **named: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*given, **named)

            return change

        Path.replace, Path.unlink = counted(Path.replace), counted(Path.unlink)  # type: ignore[method-assign]
        results.write(path, replace(RESULT, seed=4), new)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    found = [result for _, result in results.find(tmp_path)]
    if found:
        same = found == [RESULT]
        assert same or found[0].seed == 4
        assert len(results.read_predictions(path)["target"]) == (7 if same else 9)
    results.write(path, replace(RESULT, seed=4), new)
    assert results.read(path).seed == 4 and len(results.read_predictions(path)["target"]) == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, results.predictions_path(path).name]


def test_a_full_disk_keeps_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    results.write(path, RESULT, PREDICTIONS)
    real = files.temporary

    def temporary(where: Path, fill: object) -> object:
        def full(stream: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return real(where, full if "predictions" in where.name else fill)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "temporary", temporary)
    with pytest.raises(StorageError, match="no space left on the disk"):
        results.write(path, replace(RESULT, seed=9), PREDICTIONS)
    assert results.read(path) == RESULT and len(results.read_predictions(path)["target"]) == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.predictions.npz"]


def test_predictions_of_an_older_run_do_not_stay(tmp_path: Path) -> None:
    results.write(tmp_path / "x.json", RESULT, PREDICTIONS)
    results.write(tmp_path / "x.json", RESULT, {})
    assert results.read_predictions(tmp_path / "x.json") == {}


def test_what_else_lies_in_the_folder_is_passed_over(tmp_path: Path) -> None:
    results.write(results.path_of(tmp_path, "b", "knn", "digits", "b" * 64), RESULT, PREDICTIONS)
    results.write(results.path_of(tmp_path, "a", "knn", "digits", "a" * 64), replace(RESULT, seed=1), {})
    results.write(tmp_path / "renamed.json", replace(RESULT, seed=2), {})
    (tmp_path / "cache" / "features" / "0").mkdir(parents=True)
    (tmp_path / "cache" / "features" / "0" / "key.json").write_text('{"sha256": "0"}')
    for name, text in (("list.json", "[1]"), ("broken.json", "{"), ("binary.json", "\0"), ("other.json", '{"a": 1}')):
        (tmp_path / name).write_text(text)
    (tmp_path / "folder.json").mkdir()
    found = [str(path.relative_to(tmp_path)) for path, _ in results.find(tmp_path)]
    assert found == ["a/knn-digits-aaaaaaaaaaaa.json", "b/knn-digits-bbbbbbbbbbbb.json", "renamed.json"]


def test_of_copies_one_counts(tmp_path: Path) -> None:
    """A second column would stand in tables for a folder that was copied into another."""
    path, skipped = results.path_of(tmp_path, "b", "knn", "digits", "b" * 64), []
    results.write(path, RESULT, PREDICTIONS)
    shutil.copy(path, path.with_name("a copy.json"))  # without its predictions
    shutil.copytree(path.parent, tmp_path / "c")
    found = list(results.find(tmp_path, skip=lambda path, why: skipped.append((path.name, why))))
    assert [path for path, _ in found] == [path]
    assert [why for _, why in skipped] == [f"a copy of {path}"] * 3
    changed = json.loads(path.read_text())
    changed["scores"][0].update(metric="top1", value=74.5)
    del changed["crc32"]
    path.write_text(json.dumps(changed))
    with pytest.raises(StorageError, match=r"74\.5 for top1, a fraction"):
        results.read(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.pop("scores"),
        lambda tree: tree.pop("made"),
        lambda tree: tree.update(format=0),
        lambda tree: tree.update(format="2"),
        lambda tree: tree.pop("preprocessing"),
        lambda tree: tree["preprocessing"].pop("precision"),
        lambda tree: tree["preprocessing"]["views"]["eval"].update(text=3),
        lambda tree: tree.update(data="digits"),
        lambda tree: tree["data"].update(name=None),
        lambda tree: tree.update(origin_proof="hearsay"),
        lambda tree: tree["deviations"][0].update(kind="of no kind"),
        lambda tree: tree["deviations"][0].update(text=None),
        lambda tree: tree.update(notes=[3]),
        lambda tree: tree.update(unknown=1),
        lambda tree: tree["scores"][0].update(value="0.5"),
        lambda tree: tree["scores"][0].update(value=None),
        lambda tree: tree["scores"][0].pop("metric"),
        lambda tree: tree.update(scores=3),
        lambda tree: tree.update(settings=[1]),
        lambda tree: tree["scores"][0].update(at=["k"]),
        lambda tree: tree["scores"][0].update(interval=[0.1, 0.2, 0.3]),
        lambda tree: tree["scores"][0].update(n="797"),
        lambda tree: tree["scores"][0].update(metric=3),
    ],
)
def test_damaged_results_are_named(tmp_path: Path, change) -> None:
    path = results.path_of(tmp_path, "net", "knn", "digits", "c" * 64)
    results.write(path, RESULT, {})
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(StorageError, match=r"format 2 or earlier.*knn-digits-cccccccccccc\.json.*remove it"):
        list(results.find(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3"])
def test_files_that_are_no_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "knn-digits-abababababab.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="a result file of format 2"):
        results.read(path)


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    results.write(tmp_path / "x.json", RESULT, PREDICTIONS)
    beside = results.predictions_path(tmp_path / "x.json")
    for content in (b"", b"PK\3\4 cut", beside.read_bytes()[:200]):
        beside.write_bytes(content)
        with pytest.raises(StorageError, match=r"x\.predictions\.npz.*--again"):
            results.read_predictions(tmp_path / "x.json")


def test_no_folder_of_results(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such folder"):
        list(results.find(tmp_path / "nothing"))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a folder to write into"):
        results.prepare(tmp_path / "file" / "net" / "x.json")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match="permission denied"):
        results.prepare(tmp_path / "net" / "x.json")


def test_canonical_text_does_not_depend_on_order() -> None:
    assert canonical({"b": (1, 2), "a": {"y": None, "x": 0.1}}) == '{"a":{"x":0.1,"y":null},"b":[1,2]}'


def test_files_that_are_no_results_can_be_told_of_instead(tmp_path: Path) -> None:
    results.write(results.path_of(tmp_path, "a", "knn", "digits", "a" * 64), RESULT, {})
    cut = results.path_of(tmp_path, "a", "knn", "digits", "b" * 64)
    cut.write_text('{"format": 1, ')
    newer = results.path_of(tmp_path, "a", "knn", "digits", "c" * 64)
    newer.write_text('{"format": 3}')
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "key.json").write_text("{}")  # of the feature cache
    told: dict[str, str] = {}
    found = [path.name for path, _ in results.find(tmp_path, skip=lambda path, why: told.update({path.name: why}))]
    assert found == ["knn-digits-aaaaaaaaaaaa.json"]
    assert list(told) == [cut.name, newer.name, "other.json"]
    assert "JSONDecodeError" in told[cut.name] and "format 3" in told[newer.name]
    assert told["other.json"] == "no result of evaltk"


def test_predictions_by_name(tmp_path: Path) -> None:
    results.write(tmp_path / "x.json", RESULT, PREDICTIONS)
    name = next(iter(PREDICTIONS))
    assert list(results.read_predictions(tmp_path / "x.json", [name, "not there"])) == [name]
