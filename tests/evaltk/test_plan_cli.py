"""`evaltk plan`: what `run` would do and take, without doing it: nothing written, the same errors, the same images."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tyro
from command_line import SMALL, readings, said, told
from huggingface_hub import constants
from PIL import Image

from evaltk import files, machine, results
from evaltk.checkpoints.families import timm
from evaltk.cli import _flags
from evaltk.data.transforms import Transform
from evaltk.errors import DataError, EvaltkError
from evaltk.features import extraction as features
from evaltk.features import passes
from evaltk.running import benching, cells, estimates, measuring, runner

NET = "random:vit_patch4_dim32_depth2_heads2_img16"
Build = Callable[..., Path]
PLAIN = Transform(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))


@pytest.fixture
def folders(folders: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measuring takes next to no time."""
    monkeypatch.setattr(measuring, "PATIENCE", 0.02)
    return folders


@pytest.fixture
def pictures(image_tree: Build) -> Path:
    return image_tree({"train/a": 12, "train/b": 8, "test/a": 2, "test/b": 3})


def states(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(r["split"], f["recipe"], f["state"]) for r in readings(found) for f in r["features"]]


def tree(root: Path) -> dict[str, str]:
    """Every folder and file below a folder, with its content and when it was last written."""
    return {
        str(path): f"{path.stat().st_mtime_ns} " + (files.sha256(path) if path.is_file() else "folder")
        for path in sorted([root, *root.rglob("*")])
    }


def test_nothing_is_written(tmp_path: Path, pictures: Path, folders: list[str], capsys: Any) -> None:
    before = tree(tmp_path)
    asked = ["pixels:8", NET, "--data", f"pics:imagefolder={pictures}", "--protocols", "knn", "linear"]
    code, out, _ = said(capsys, "plan", *asked, *SMALL, *folders)
    assert code == 0 and "total    4 of 4 results to do" in out and tree(tmp_path) == before
    assert said(capsys, "run", "pixels:8", *asked[2:4], *SMALL, *folders)[0] == 0
    before = tree(tmp_path)
    assert said(capsys, "plan", *asked, *SMALL, *folders, "--again")[0] == 0 and tree(tmp_path) == before


def test_bytes_are_those_that_a_run_stores(tmp_path: Path, pictures: Path, folders: list[str], capsys: Any) -> None:
    asked = [NET, "--data", f"pics:imagefolder={pictures}", "--protocols", "knn", "fewshot", "linear"]
    asked += ["--linear.epochs", "1", "--linear.lr", "0.01", "--linear.holdout", "0.2", *SMALL, *folders]
    found = told(capsys, *asked)
    assert said(capsys, "run", *asked)[0] == 0
    entries = [p.parent for p in (tmp_path / "cache" / "features").rglob("x.npy")]
    stored = sum(file.stat().st_size for entry in entries for file in entry.iterdir())
    planned = [f["num_bytes"] for r in readings(found) for f in r["features"] if f["state"] == "missing"]
    assert found["num_bytes"] == sum(planned) == stored and len(planned) == len(entries) > 5
    assert found["room"] > stored and found["fits"] is True
    done = told(capsys, *asked, "--again")  # the jobs are to do, their features are there
    assert (done["to_do"], done["num_bytes"], done["room"], done["memory"]) == (3, 0, 0, None)
    assert {state for _, _, state in states(done)} == {"cached"} and done["seconds"] == 0
    assert not [r for r in readings(done) if r["left"] != 0]


def test_what_is_done_and_what_is_to_do(tmp_path: Path, folders: list[str], capsys: Any) -> None:
    assert said(capsys, "run", "pixels:8", "--data", "digits", *SMALL, *folders)[0] == 0
    found = told(capsys, "pixels:8", "--protocols", "knn", "transfer", "--data", "digits", *SMALL, *folders)
    (pair,) = found["pairs"]
    assert [(job["protocol"], job["done"], job["covers"]) for job in pair["jobs"]] == [
        ("knn", True, "nothing"), ("transfer", False, "extraction"),
    ]  # fmt: skip
    assert all(Path(job["path"]).exists() == job["done"] for job in pair["jobs"])
    # For 8 px k-NN's and transfer's preprocessing are the same, so that the features are there.
    assert states(found) == [("train", "cls/last1/normed", "cached"), ("test", "cls/last1/normed", "cached")]
    assert (found["jobs"], found["to_do"], pair["checkpoint"], pair["kind"]) == (2, 1, "pixels:8", "images")
    code, out, _ = said(capsys, "plan", "pixels:8", "--data", "digits", "--knn.k", "3", *folders)
    assert code == 0 and "in the cache" in out and "none to extract" in out and "  then     knn: " in out


def test_a_run_that_was_stopped_goes_on_as_planned(
    pictures: Path, folders: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["pixels:8", "--data", f"pics:imagefolder={pictures}", *SMALL, *folders]
    whole, real, passed = features.Extraction, passes.forward, [0]
    monkeypatch.setattr(features, "Extraction", lambda **given: whole(**given, shard=4))

    def counted(*given: Any) -> Any:
        passed.append(len(given[2]))
        if sum(passed) > 11 and passed[0] == 0:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(passes, "forward", counted)
    assert said(capsys, "run", *asked)[0] == 130
    monkeypatch.setattr(passes, "forward", real)
    found = told(capsys, *asked)
    assert [(r["split"], r["images"], r["left"]) for r in readings(found)] == [("train", 20, 12), ("test", 5, 5)]
    assert [state for _, _, state in states(found)] == ["begun", "missing"]
    # Another batch size asked for by a flag drops the shards, as in `run`.
    assert [r["left"] for r in readings(told(capsys, *asked, "--batch-size", "3"))] == [20, 5]
    passed[:] = [1]
    monkeypatch.setattr(passes, "forward", counted)
    assert said(capsys, "run", *asked)[0] == 0 and sum(passed) - 1 == 12 + 5


def test_a_pass_that_serves_a_later_one_is_told_once(folders: list[str], capsys: Any) -> None:
    found = told(capsys, "pixels:8", "--data", "digits", "same:digits", *SMALL, *folders)
    assert [state for _, _, state in states(found)] == ["missing", "missing", "earlier", "earlier"]
    assert [r["left"] for r in readings(found)] == [1000, 797, 0, 0]
    assert found["num_bytes"] == sum(f["num_bytes"] for r in readings(found)[:2] for f in r["features"])


def test_what_training_reads_is_listed_and_estimated(
    folders: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [NET, "--protocols", "linear", "--data", "digits", *folders]
    found = readings(told(capsys, *asked))
    assert [(r["split"], r["left"]) for r in found] == [("test", 797), ("train, 10 held out", 10), ("train", None)]
    assert [len(r["features"]) for r in found] == [2, 2, 0] and found[2]["seconds"] is None
    fast = readings(told(capsys, *asked, "--linear.fast"))
    assert [(r["split"], r["left"]) for r in fast] == [("test", 797), ("train", 1000)]
    assert told(capsys, *asked, "--linear.epochs", "1")["own_seconds"] > 0
    monkeypatch.setattr("protocols.linear.training.pace", lambda *args, **kwargs: (0.25, 0.125))
    few, many = (
        told(capsys, *asked, "--linear.fast", "--linear.epochs", epochs)["own_seconds"] for epochs in ("1", "100")
    )
    assert few == 0.25 * -(-990 // 256) + 0.125 * (797 + 10) and many == 100 * few
    code, out, _ = said(capsys, "plan", *asked)
    assert code == 0 and "read   train, 1,000 images, by the protocol itself" in out
    assert "then     linear: about" in out and "not estimated" not in out


def test_too_little_room_is_refused(
    tmp_path: Path, folders: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=500_000))
    asked = ["pixels:8", "--data", "digits", *SMALL, *folders]
    code, out, err = said(capsys, "plan", *asked)
    assert code == 2 and "total    1 of 1 results to do" in out
    assert "500 kB free" in err.splitlines()[-1] and "--cache" in err.splitlines()[-1]
    code, out, _ = said(capsys, "plan", *asked, "--json")
    found = json.loads(out)
    assert code == 2 and found["free"] == 500_000 and found["fits"] is False
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=found["room"]))
    assert said(capsys, "plan", *asked)[0] == 0
    monkeypatch.setattr(machine, "spare_memory", lambda: 1000)
    code, _, err = said(capsys, "plan", *asked)
    assert code == 2 and "1.00 kB that this process could have" in err.splitlines()[-1]


def retrieval_tree(root: Path) -> Path:
    """gnd_roxford5k.pkl as the official file has it, six photographs and two queries."""
    names, queries = [f"all_souls_{i:06d}" for i in range(6)], [f"query_{i:06d}" for i in range(2)]
    (root / "jpg").mkdir(parents=True)
    for name in (*names, *queries):
        Image.new("RGB", (40, 30), (int(name[-1]) * 20, 9, 9)).save(root / "jpg" / f"{name}.jpg")
    gnd = [{"bbx": [1.0, 1.0, 30.0, 20.0], "easy": [0], "hard": [1], "junk": [2]} for _ in queries]
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({"imlist": names, "qimlist": queries, "gnd": gnd}))
    return root


def sequence_tree(root: Path) -> Path:
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("dog\ncat\n")
    for name, frames in (("cat", 3), ("dog", 4)):
        for folder, ending in (("JPEGImages", "jpg"), ("Annotations", "png")):
            (root / folder / "480p" / name).mkdir(parents=True)
            for t in range(frames):
                Image.new("L", (8, 6), 1).save(root / folder / "480p" / name / f"{t:05d}.{ending}")
    return root


def test_other_kinds_are_listed(tmp_path: Path, folders: list[str], capsys: Any) -> None:
    data = [f"roxford5k={retrieval_tree(tmp_path / 'ox')}", f"davis2017={sequence_tree(tmp_path / 'davis')}"]
    before = tree(tmp_path)
    found = told(capsys, NET, "--protocols", "retrieval", "vos", "--vos.size", "64", "--data", *data, *folders)
    assert tree(tmp_path) == before
    assert [(p["kind"], [(r["split"], r["images"], r["left"]) for r in p["readings"]]) for p in found["pairs"]] == [
        ("retrieval", [("database", 6, None), ("queries", 2, None)]), ("sequences", [("2 sequences", 7, None)]),
    ]  # fmt: skip
    assert {job["covers"] for pair in found["pairs"] for job in pair["jobs"]} == {"nothing"}
    assert (found["seconds"], found["memory"], found["num_bytes"]) == (0, None, 0)
    seconds = [job["seconds"] for pair in found["pairs"] for job in pair["jobs"]]
    assert seconds[0] is None and seconds[1] > 0 and found["own_seconds"] == seconds[1]
    code, out, _ = said(
        capsys, "plan", NET, "--protocols", "retrieval", "vos", "--vos.size", "64", "--data", *data, *folders
    )
    assert code == 0 and "not estimated: anything of retrieval" in out and "then     vos: " in out


ERRORS = {
    "no checkpoints": "--data digits",
    "no data": "pixels:8",
    "a protocol that is none": "pixels:8 --data digits --protocols kn",
    "a dataset that is none": "pixels:8 --data digit",
    "a dataset without a path": "pixels:8 --data imagenet",
    "no such folder": "pixels:8 --data imagefolder={tmp}/none",
    "an empty class folder": "pixels:8 --data {pics}",
    "another kind of data": "pixels:8 --data digits --protocols vos",
    "no such file": "no/such.pth --data digits",
    "a name mistyped": "dino_vits61 --data digits",
    "a name not fetched": "dino_vits16 --data digits",
    "a folder for a file": "{tmp} --data digits",
    "a damaged weight file": "{tmp}/net.pth --data digits",
    "a net that is none": "random:vit_patch3_dim32_depth2_heads5_img16 --data digits",
    "a timm net that is none": "timm:vit_tinny --data digits",
    "a net without a head": "{net} --data digits --protocols prototypes",
    "more blocks than there are": "{net} --data digits --protocols linear --linear.blocks 9",
    "too large a k": "pixels:8 --data digits --knn.k 2000",
    "a crop that does not fit": "pixels:8 --data digits --crop 9 --resize 8",
    "a crop that is not the net's": "pixels:8 --data digits --crop 4",
    "a device that is none": "pixels:8 --data digits --device gpu",
    "no images a batch": "pixels:8 --data digits --batch-size 0",
    "an empty image": "pixels:8 --data {pics} --knn.k 1",
    "an image that cannot be read": "pixels:8 --data {pics} --knn.k 1",
    "results below a file": "pixels:8 --data digits --out {tmp}/file/x",
    "a cache below a file": "pixels:8 --data digits --cache {tmp}/file/x",
    "no distractors": "{net} --protocols retrieval --retrieval.distractors {tmp}/none --data roxford5k={tmp}/ox",
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_those_of_run(case: str, tmp_path: Path, pictures: Path, folders: list[str]) -> None:
    if case == "a damaged weight file":
        (tmp_path / "net.pth").write_bytes(b"nothing of the kind")
    elif case == "an empty class folder":
        (pictures / "train" / "empty").mkdir()
    elif case.startswith("an ") and "image" in case:
        (pictures / "test/b/001.png").write_bytes(b"" if "empty" in case else b"broken")
    elif case.endswith("below a file"):
        (tmp_path / "file").write_text("")
    elif case == "no distractors":
        retrieval_tree(tmp_path / "ox")
    argv = ERRORS[case].format(tmp=tmp_path, pics=f"pics:imagefolder={pictures}", net=NET).split()
    options = tyro.cli(_flags.options_type(), args=[*folders, *argv])
    before = tree(tmp_path)
    with pytest.raises(EvaltkError) as planned:
        estimates.forecast(cells.of_plan(_flags.plan_of(options)))
    assert tree(tmp_path) == before
    with pytest.raises(EvaltkError) as ran:
        runner.run(_flags.plan_of(options), report=lambda *given: None)
    assert (type(planned.value), str(planned.value)) == (type(ran.value), str(ran.value))


def test_an_error_is_one_line(folders: list[str], capsys: Any) -> None:
    code, out, err = said(capsys, "plan", "pixels:8", "--data", "digits", "--knn.k", "2000", *folders)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("evaltk: wanted k <= 1000")
    assert said(capsys, "plan", "pixels:8", "--data", "digits", "--precision", "fp16")[0] == 2


def test_damaged_files_are_told_and_stay_where_they_are(tmp_path: Path, folders: list[str], capsys: Any) -> None:
    asked = ["pixels:8", "--data", "digits", *SMALL, *folders]
    assert said(capsys, "run", *asked)[0] == 0
    ((path, _),) = results.find(tmp_path / "runs")
    path.write_text("{}")
    entry = next((tmp_path / "cache" / "features").rglob("y.npy"))
    entry.write_bytes(b"no array")
    before = tree(tmp_path)
    code, _, err = said(capsys, "plan", *asked)
    assert code == 0 and tree(tmp_path) == before
    assert "a damaged result is made anew" in err and "y.npy: 8 bytes of" in err and "`run` makes it anew" in err
    code, _, err = said(capsys, "run", *asked)
    assert code == 0 and "a damaged result is made anew" in err and "y.npy: 8 bytes of" in err
    assert said(capsys, "run", *asked)[2].count("done before") == 1


def test_a_catalogued_file_that_changed_stays_where_it_is(tmp_path: Path, folders: list[str], capsys: Any) -> None:
    from evaltk.checkpoints import catalog

    path = catalog.local_path(catalog.find("dino_vits16"))
    files.write_text(path, "other bytes")
    pin = {"url": "", "sha256": hashlib.sha256(b"pinned").hexdigest(), "bytes": 6, "date": ""}
    files.write_text(tmp_path / "home" / "pins.json", json.dumps({"dino_vits16": pin}))
    before = tree(tmp_path)
    code, _, err = said(capsys, "plan", "dino_vits16", "--data", "digits", *folders)
    assert code == 2 and pin["sha256"] in err and "evaltk fetch dino_vits16" in err and tree(tmp_path) == before


def test_weights_are_not_downloaded(folders: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "vit_tiny_patch16_224"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file, revision: None)
    assert not timm.at_hand(name)
    (pair,) = told(capsys, f"timm:{name}", "--data", "digits", *SMALL, *folders)["pairs"]
    assert pair["readings"] == [] and "`run` downloads them" in pair["notes"][0]
    assert pair["jobs"][0]["covers"] == "nothing"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file, revision: "/a/file")
    seen: list[bool] = []

    def refused(options: Any, left: Any) -> Any:
        seen.append(constants.HF_HUB_OFFLINE)
        raise DataError(wanted="a", got="b")

    before = constants.HF_HUB_OFFLINE
    monkeypatch.setattr(benching, "checkpoint_of", refused)
    assert timm.at_hand(name) and said(capsys, "plan", f"timm:{name}", "--data", "digits", *SMALL, *folders)[0] == 2
    assert seen == [True] and constants.HF_HUB_OFFLINE is before


QUICK = """
import json, sys
from evaltk import cli
code = cli.main(json.loads(sys.argv[1]))
heavy = [name for name in ("torch", "torchvision", "timm", "matplotlib") if name in sys.modules]
if code or heavy:
    sys.exit(f"code {code}, imported {heavy}")
"""


def test_nothing_to_do_is_told_without_torch(pictures: Path, tmp_path: Path, folders: list[str], capsys: Any) -> None:
    asked = ["pixels:4", "--data", f"more:imagefolder={pictures}", f"pics:imagefolder={pictures}", *SMALL, *folders]
    assert said(capsys, "run", *asked)[0] == 0
    before = tree(tmp_path)
    ended = subprocess.run([sys.executable, "-c", QUICK, json.dumps(["plan", *asked])], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("total    nothing to do: all 2 results are there")
    assert ended.stdout.count("  done   knn: ") == 2 and not ended.stderr and tree(tmp_path) == before
