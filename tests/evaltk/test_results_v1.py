"""Results of format 1: read as they were meant, with their verdicts, and recognised as done; what is wrong is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaltk import cli, results
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.deviations import NOT_COMPARABLE
from evaltk.errors import StorageError
from evaltk.results import format1
from evaltk.running import planning, runner
from evaltk.types import DeviationKind, OriginProof, PixelView, Result
from protocols import knn, linear
from reports.table import in_unit
from reports.tables.beside_published import compare_with_published

GOLDEN = Path(__file__).parents[1] / "golden" / "results_v1"
FILES = sorted(str(path.relative_to(GOLDEN)) for path in GOLDEN.glob("*/*.json"))
VERDICTS = json.loads((GOLDEN / "verdicts.json").read_text())
DIGITS = GOLDEN / "pixels-8" / "knn-digits-0292cc5f220a.json"
FLAT = GOLDEN / "flat" / "knn-imagenet-bad55ea7be49.json"
K = DeviationKind


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without pins."""
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def verdicts(result: Result) -> list[list[Any]]:
    table = compare_with_published([result]).table
    rows = [cells for _, cells in table.rows] if table else []
    return [[c[0].note, in_unit(c[1].value, c[1].unit), c[2].value, c[3].verdict, c[3].why] for c in rows]


def test_there_is_one_of_each_protocol() -> None:
    there = {results.read(GOLDEN / name).protocol for name in FILES}
    assert there == {"fewshot", "finetune", "knn", "linear", "precision", "prototypes", "retrieval", "transfer", "vos"}
    assert set(FILES) == set(VERDICTS)


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("flat/")])
def test_old_results_keep_their_verdicts(name: str) -> None:
    assert verdicts(results.read(GOLDEN / name)) == VERDICTS[name]


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_lost_and_format_2_says_the_same(name: str, tmp_path: Path) -> None:
    old, result = json.loads((GOLDEN / name).read_text()), results.read(GOLDEN / name)
    said = old["settings"]
    assert {d.words() for d in result.deviations} | {*result.notes} == {*said["notes"]}
    assert {name: view.text for name, view in result.preprocessing.views.items()} == said["transforms"]
    for view in result.preprocessing.views.values():
        assert view.crop == 8 * (4 if "imagenet" in name or "cifar" in name else 1) and view.mean and view.std
    assert not set(result.settings) & {*format1.AROUND}
    assert result.settings == {k: v for k, v in said.items() if k not in format1.AROUND}
    assert (result.data.name, result.data.fingerprint) == (said["dataset"]["name"], said["dataset"]["fingerprint"])
    assert (result.preprocessing.precision, result.preprocessing.overrides) == (said["precision"], said["images"])
    results.write(tmp_path / "new.json", result, {})
    assert json.loads((tmp_path / "new.json").read_text())["format"] == 2
    assert results.read(tmp_path / "new.json") == result


def kinds(name: str) -> list[str]:
    (path,) = GOLDEN.glob(f"{name}*.json")
    return [deviation.kind.value for deviation in results.read(path).deviations]


def test_kinds_of_what_the_notes_said() -> None:
    assert kinds("pixels-8/knn") == [] and kinds("pixels-8/linear") == ["no-augmentation", "epochs"]
    assert kinds("full/linear") == ["split-size", "split-size", "epochs"]
    assert kinds("full/fewshot") == ["split-size", "split-size", "own-draws"]
    assert kinds("full/finetune") == ["reencoded-images", "split-size", "split-size", "recipe", "held-out"]
    assert kinds("full/retrieval-roxford5k") == ["unknown-images", "ground-truth"]
    assert kinds("full/retrieval-rparis6k") == ["original-images", "ground-truth"]
    assert kinds("full/vos") == ["split-size"]


@pytest.mark.parametrize(
    ("note", "kind"),
    [
        ("102 classes, Food-101 has 101: not comparable with published figures", K.CLASS_COUNT),
        ("a wording nobody knows: not comparable with published figures", K.UNCLASSIFIED),
        ("3 queries have no box to be cropped to", K.QUERY_BOXES),
        ("split: the lists train.txt and test.txt", K.OWN_SPLIT),
        ("images from parquet files; whether they are the official ones of DTD cannot be told", K.UNVERIFIED_IMAGES),
        ("2 unreadable images left out of test", K.UNREADABLE_IMAGES),
        ("1 unreadable images of train, in whose place others of their batch were learnt", K.UNREADABLE_IMAGES),
        ("no training images of 2 classes: a, b", K.EMPTY_CLASSES),
        ("1 test images are byte for byte in train too: 30 = 0", K.SHARED_IMAGES),
        ("frames normalised by the net's own mean (0, 0, 0) and std (1, 1, 1), not by those of", K.PREPROCESSING),
        ("images: blurred v1, 9 bytes in 3 database files; papers since 2022 use blurred v1", None),
        ("masks in somewhere", None),
        ("val has 1,000 images, ImageNet-1K 50,000", None),  # the end of the note decided, not what came before it
        ("split: mine: not comparable with published figures", K.UNCLASSIFIED),
    ],
)
def test_wordings(note: str, kind: DeviationKind | None) -> None:
    deviations, notes = format1.told([note])
    assert ([d["kind"] for d in deviations], notes) == (([kind], []) if kind else ([], [note]))
    assert not kind or note.endswith(format1.END) == (kind in NOT_COMPARABLE)


def test_preprocessing_that_is_drawn_or_in_words_nobody_knows() -> None:
    of = {path.split("/")[1].split("-")[0]: results.read(GOLDEN / path) for path in FILES if path.startswith("full/")}
    crops, padded = (of[name].preprocessing.views["train"] for name in ("linear", "finetune"))
    assert (crops.augmented, crops.crop, crops.resize, crops.interpolation) == (True, 32, None, "bilinear")
    assert (padded.augmented, padded.crop, padded.resize, padded.interpolation) == (True, 32, 32, None)
    assert PixelView(**format1.view("squeezed")) == PixelView(text="squeezed")


def test_a_flat_file_of_anyone_is_no_longer_taken_for_dinos() -> None:
    result = results.read(FLAT)
    assert result.origin_proof is OriginProof.NONE and result.checkpoint["family"] == "dino"
    assert VERDICTS["flat/knn-imagenet-bad55ea7be49.json"] and verdicts(result) == []


def test_a_flat_file_that_was_fetched_keeps_its_verdict(home: Path) -> None:
    sha256 = json.loads(FLAT.read_text())["checkpoint"]["sha256"]
    home.mkdir()
    (home / "pins.json").write_text(json.dumps({"dino_vits16": {"sha256": sha256}}))
    result = results.read(FLAT)
    assert result.origin_proof is OriginProof.SHA256
    assert verdicts(result) == VERDICTS["flat/knn-imagenet-bad55ea7be49.json"]
    (home / "pins.json").write_text(json.dumps({"ibot_vits16": {"sha256": sha256}}))  # of another family
    assert results.read(FLAT).origin_proof is OriginProof.NONE
    (home / "pins.json").write_text("{")
    assert results.read(FLAT).origin_proof is OriginProof.NONE


def test_what_was_done_is_done(tmp_path: Path) -> None:
    """Names of files, request digests and names of cache entries are those of the commit that wrote format 1."""
    shutil.copytree(GOLDEN / "pixels-8", tmp_path / "runs" / "pixels-8")
    settings = {
        "knn": knn.Settings(k=(1, 5), choose=20),
        "linear": linear.Settings(fast=True, lr=(0.01, 0.1), epochs=2),
    }
    plan = runner.Plan(
        checkpoints=("pixels:8",),
        protocols=settings,
        data=("digits",),
        out=tmp_path / "runs",
        cache=tmp_path / "cache",
        workers=0,
    )
    seen: list[tuple[Result, bool]] = []

    def report(job: object, result: Result, skipped: bool) -> None:
        seen.append((result, skipped))

    runner.run(plan, report=report)
    # The first weights of linear heads are drawn otherwise since version 2: they are trained anew, beside the old file.
    assert [skipped for _, skipped in seen] == [True, False]
    assert len(list((tmp_path / "runs" / "pixels-8").glob("linear-*.json"))) == 2
    old_linear = results.read(next((GOLDEN / "pixels-8").glob("linear-*.json")))
    assert old_linear.version == 1 and seen[1][0].version == 2 and seen[1][0].request != old_linear.request
    runner.run(dataclasses.replace(plan, again=True), report=report)
    keys = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "cache").rglob("key.json")}
    trained = {name for name, key in keys.items() if key["recipe"].startswith("linear heads")}
    features = {*keys} - trained
    assert features and features <= {*json.loads((GOLDEN / "cache.json").read_text())}
    assert [keys[name]["version"] for name in trained] == [2]
    for old, new in ((seen[0][0], seen[2][0]), (old_linear, seen[3][0])):
        kept = [s.metric for s in new.scores if "ece" not in s.metric]  # calibration errors are younger
        assert [s.metric for s in old.scores] == kept
        assert [s.value for s in old.scores if s.metric == "top1"][:2] == pytest.approx(
            [s.value for s in new.scores if s.metric == "top1"][:2], abs=0.02
        )
        assert [d.kind for d in old.deviations] == [d.kind for d in new.deviations]  # their wording may improve
        assert len(old.notes) == len(new.notes) and old.origin_proof == new.origin_proof
        assert old.preprocessing == new.preprocessing
    assert seen[0][0].request == seen[2][0].request


def test_the_weights_of_random_nets_are_part_of_a_request() -> None:
    _, identity = planning.identify("random:vit_small_patch16", ReadOptions())
    assert identity["draws"] == 2
    assert "draws" not in planning.identify("pixels:8", ReadOptions())[1]


LACKING: list[tuple[Callable[[dict], object], str]] = [
    (lambda tree: tree.pop("made"), "no made"),
    (lambda tree: (tree.pop("scores"), tree.pop("seed")), "no scores, seed"),
    (lambda tree: tree.pop("settings"), "no settings"),
    (lambda tree: tree["settings"].pop("dataset"), r"no settings\.dataset\.name, settings\.dataset\.fingerprint"),
    (lambda tree: tree["settings"]["dataset"].pop("fingerprint"), r"no settings\.dataset\.fingerprint"),
    (lambda tree: tree.update(settings=[1]), "a field of another kind"),
    (lambda tree: tree["checkpoint"].pop("name"), "a field of another kind"),
    (lambda tree: tree.update(format=3), "format 3, of a later evaltk"),
]


@pytest.mark.parametrize(("change", "got"), LACKING)
def test_what_is_missing_is_named(tmp_path: Path, change: Callable[[dict], object], got: str) -> None:
    tree = json.loads(DIGITS.read_text())
    change(tree)
    path = tmp_path / DIGITS.name
    path.write_text(json.dumps(tree))
    with pytest.raises(StorageError, match=rf"a result file of format 2 or earlier; got .*{got}; where") as raised:
        results.read(path)
    assert str(path) in raised.value.where and raised.value.do.endswith("remove it and run again")
    assert raised.value.do.startswith("install a newer evaltk") == (tree["format"] == 3)


def test_a_damaged_result_is_made_anew_and_a_newer_one_ends_a_run_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "runs" / "pixels-8" / DIGITS.name
    place.parent.mkdir(parents=True)
    command = ["run", "pixels:8", "--data", "digits", "--knn.k", "1", "5", "--knn.choose", "20"]
    command += ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    tree = json.loads(DIGITS.read_text())
    place.write_text(json.dumps(tree | {"format": 3}))
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    assert not out and "format 3" in err and DIGITS.name in err and "do: " in err and err.count("\n") == 1
    LACKING[0][0](tree)
    place.write_text(json.dumps(tree))
    assert cli.main(command) == 0
    assert "no made" in capsys.readouterr().err
    assert results.read(place).scores and place.with_name(place.name + ".damaged").exists()


def test_what_older_runs_did_not_say_is_not_recorded(tmp_path: Path) -> None:
    tree = json.loads((GOLDEN / "full" / "knn-imagenet-350275ed53da.json").read_text())
    for name in ("images", "transforms", "precision", "position", "notes"):
        del tree["settings"][name]
    (tmp_path / "old.json").write_text(json.dumps(tree))
    result = results.read(tmp_path / "old.json")
    assert (result.preprocessing.precision, result.preprocessing.views, result.notes) == (None, {}, ())
    ((*_, verdict, why),) = verdicts(result)
    assert verdict == "not comparable"
    assert why.startswith("precision not recorded; position not recorded; n = 1,000 for 50,000; preprocessing not rec")
