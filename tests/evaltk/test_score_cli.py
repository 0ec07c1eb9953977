"""`evaltk score`: masks, rankings and features made elsewhere, and the official code beside ours.

The official checkouts here are folders that have the official functions' names and signatures, written from the
definitions of the measures: what is tested is how they are called and compared.
"""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaltk import cli
from evaltk.data import frames
from evaltk.metrics import retrieval, segmentation

GOLDEN = Path(__file__).parents[1] / "golden"
OFFICIAL_DAVIS = """
import json, os
class DAVISEvaluation:
    def __init__(self, davis_root, task, gt_set):
        assert task == "semi-supervised" and os.path.isabs(davis_root)
        assert gt_set in open(os.path.join(davis_root, "ImageSets", "2017", gt_set + ".txt")).name
    def evaluate(self, res_path):
        assert os.path.isabs(res_path)
        print("some words, as the official code has")
        return json.load(open(os.path.join(os.path.dirname(__file__), "known.json")))
"""
OFFICIAL_REVISITOP = """
def compute_map(ranks, gnd, kappas=[]):
    aps, precisions = [], []
    for q, one in enumerate(gnd):
        if not one["ok"]:
            aps.append(float("nan")); continue
        row = [i for i in ranks[:, q].tolist() if i not in one["junk"]]
        at = sorted(row.index(i) for i in one["ok"])
        aps.append(sum((j / r if r else 1.0) + (j + 1) / (r + 1) for j, r in enumerate(at)) / (2 * len(at)) + SHIFT)
        depths = [min(at[-1] + 1, k) for k in kappas]
        precisions.append([sum(r < d for r in at) / d for d in depths])
    known = [ap for ap in aps if ap == ap]
    return sum(known) / len(known), aps, [sum(p) / len(known) for p in zip(*precisions)], None
"""


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """The recorded OSVOS masks of two sequences in DAVIS's layout."""
    root = tmp_path / "davis"
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("bike-packing\nblackswan\n")
    shutil.copytree(GOLDEN / "davis_masks" / "osvos", root / "Annotations" / "480p")
    return root


@pytest.fixture
def results(davis: Path, tmp_path: Path) -> Path:
    """Masks of the same objects, shifted by three rows; the first and last frames, which are not scored, lack."""
    for sequence in sorted((davis / "Annotations" / "480p").iterdir()):
        for path in sorted(sequence.iterdir())[1:-1]:
            frames.write_ids(tmp_path / "masks" / sequence.name / path.name, np.roll(frames.read_ids(path), 3, axis=0))
    return tmp_path / "masks"


def scored(davis: Path, results: Path) -> list[segmentation.ObjectScores]:
    """By the metrics, without the command."""
    objects: list[segmentation.ObjectScores] = []
    for sequence in sorted((davis / "Annotations" / "480p").iterdir()):
        truth = frames.read_masks(sorted(sequence.iterdir()))
        found = truth.copy()
        for t, path in enumerate(sorted((results / sequence.name).iterdir()), start=1):
            found[t] = frames.read_ids(path)
        objects += segmentation.evaluate_sequence(truth, found, sequence=sequence.name)
    return objects


def test_masks_are_scored_and_the_official_tables_written(
    davis: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", "vos", "--results", str(results), "--davis", str(davis)]
    assert cli.main([*words, "--csv-out", str(tmp_path / "csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    objects = scored(davis, results)
    means = segmentation.summarise(objects)
    assert found["mean"] == pytest.approx(means)
    assert found["per_object"]["bike-packing_1"]["J-Mean"] == pytest.approx(float(objects[0].region.mean()))
    with (tmp_path / "csv" / "global_results-val.csv").open() as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]
    assert rows[1] == [f"{means[column]:.3f}" for column in rows[0]]
    with (tmp_path / "csv" / "per-sequence_results-val.csv").open() as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["Sequence", "J-Mean", "F-Mean"]
    assert [row[0] for row in rows[1:]] == [one.name for one in objects]
    assert cli.main(words) == 0
    assert "J&F-Mean" in capsys.readouterr().out


def test_several_processes_score_the_same(davis: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", "vos", "--results", str(results), "--davis", str(davis), "--json", "--workers"]
    texts = []
    for workers in ("1", "2"):
        assert cli.main([*words, workers]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_bad_masks_are_named(davis: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", "vos", "--results", str(results), "--davis", str(davis)]
    path = results / "blackswan" / "00027.png"
    ids = frames.read_ids(path)

    def told() -> str:
        assert cli.main(words) == 2
        captured = capsys.readouterr()
        assert not captured.out
        assert captured.err.count("\n") == 1
        return captured.err

    high = ids.copy()
    high[5, 5] = 4
    frames.write_ids(path, high)
    error = told()
    assert "id 4" in error
    assert "blackswan/00027.png" in error
    frames.write_ids(path, ids[:-1])
    assert "00027.png" in told()
    Image.fromarray(ids).convert("RGB").save(path)
    assert "mode RGB" in told()
    path.unlink()
    (results / "bike-packing" / "00014.png").unlink()
    error = told()
    assert "2 missing: bike-packing/00014.png, blackswan/00027.png" in error


def test_the_official_davis_code_runs_beside_ours(
    davis: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "checkout" / "davis2017"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "evaluation.py").write_text(OFFICIAL_DAVIS)
    known: dict[str, dict[str, object]] = {}
    objects = scored(davis, results)
    for measure in "JF":
        of = [one.columns() for one in objects]
        known[measure] = {
            short: [o[f"{measure}-{word}"] for o in of]
            for short, word in zip("MRD", ("Mean", "Recall", "Decay"), strict=True)
        }
        known[measure]["M_per_object"] = {one.name: o[f"{measure}-Mean"] for one, o in zip(objects, of, strict=True)}
    (package / "known.json").write_text(json.dumps(known))
    words = ["score", "vos", "--results", str(results), "--davis", str(davis)]
    words += ["--official", str(tmp_path / "checkout")]
    assert cli.main(words) == 0
    assert "largest difference 0" in capsys.readouterr().err
    known["F"]["R"][1] += 1e-5  # type: ignore[index]
    (package / "known.json").write_text(json.dumps(known))
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "F-Recall" in error
    assert objects[1].name in error
    (package / "evaluation.py").write_text("import a_module_that_nobody_has")
    assert cli.main(words) == 2
    assert "a_module_that_nobody_has" in capsys.readouterr().err
    assert cli.main([*words[:-1], str(tmp_path)]) == 2
    assert "davis2017-evaluation" in capsys.readouterr().err


@pytest.fixture
def rankings(tmp_path: Path) -> tuple[Path, np.ndarray, list[dict[str, list[int]]]]:
    """(folder with gnd.pkl and ranks.npy, ranks [Q, N], ground truth)."""
    rng = np.random.default_rng(0)
    ranks = np.stack([rng.permutation(30) for _ in range(4)])
    gnd = [
        {"easy": [1, 2] if q else [], "hard": [3, 9], "junk": [4, 5, q + 20], "bbx": [0.0, 0.0, 9.0, 9.0]}
        for q in range(4)
    ]
    names = {"imlist": [f"i{i}" for i in range(30)], "qimlist": [f"q{q}" for q in range(4)]}
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps({**names, "gnd": gnd}))
    np.save(tmp_path / "ranks.npy", ranks)
    return tmp_path, ranks, gnd  # type: ignore[return-value]


def test_rankings_are_scored(
    rankings: tuple[Path, np.ndarray, list[dict[str, list[int]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, ranks, gnd = rankings
    np.savez(root / "ranks.npz", ranks=ranks, other=ranks[:1])
    (root / "ranks.json").write_text(json.dumps(ranks.tolist()))
    for name in ("ranks.npy", "ranks.npz", "ranks.json"):
        words = ["score", "retrieval", "--ranks", str(root / name), "--gnd", str(root / "gnd.pkl")]
        assert cli.main([*words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        for difficulty, values in retrieval.evaluate(ranks, gnd).items():
            assert found["mean"][difficulty] == pytest.approx(values)
        assert found["per_query"]["easy"]["ap"][0] is None
    assert cli.main(words) == 0
    assert "mP@10" in capsys.readouterr().out


def test_rankings_with_distractors(
    rankings: tuple[Path, np.ndarray, list[dict[str, list[int]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, gnd = rankings
    wide = np.stack([np.random.default_rng(q).permutation(50) for q in range(4)])
    np.save(root / "wide.npy", wide)
    words = ["score", "retrieval", "--ranks", str(root / "wide.npy"), "--gnd", str(root / "gnd.pkl"), "--json"]
    assert cli.main(words) == 2
    assert "--distractors" in capsys.readouterr().err
    assert cli.main([*words, "--distractors", "20"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mean"]["hard"] == pytest.approx(retrieval.evaluate(wide, gnd, num_database=50)["hard"])


def test_rankings_that_are_none_are_refused(
    rankings: tuple[Path, np.ndarray, list[dict[str, list[int]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, ranks, _ = rankings
    words = ["score", "retrieval", "--ranks", str(root / "bad.npy"), "--gnd", str(root / "gnd.pkl")]
    twice = ranks.copy()
    twice[2, 0] = twice[2, 1]
    for bad, told in (
        (twice, "twice"),
        (ranks[:, :20], "all 30 images"),
        (ranks.T, "transpose"),
        (ranks + 1, "30"),
        (ranks.astype(np.float32), "integer ranks"),
    ):
        np.save(root / "bad.npy", bad)
        assert cli.main(words) == 2
        assert told in capsys.readouterr().err
    (root / "bad.npy").write_bytes(b"nothing")
    assert cli.main(words) == 2
    assert "bad.npy" in capsys.readouterr().err


def test_the_official_retrieval_code_runs_beside_ours(
    rankings: tuple[Path, np.ndarray, list[dict[str, list[int]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, _ = rankings
    (root / "revisitop" / "python").mkdir(parents=True)
    script = root / "revisitop" / "python" / "evaluate.py"
    script.write_text(OFFICIAL_REVISITOP.replace("SHIFT", "0"))
    words = ["score", "retrieval", "--ranks", str(root / "ranks.npy"), "--gnd", str(root / "gnd.pkl")]
    words += ["--official", str(root / "revisitop")]
    assert cli.main(words) == 0
    assert "official code: largest difference" in capsys.readouterr().err
    script.write_text(OFFICIAL_REVISITOP.replace("SHIFT", "2e-6"))
    assert cli.main(words) == 2
    assert "at most 1e-06" in capsys.readouterr().err


def test_features_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 8))
    bank_y, query_y = np.arange(60) % 3, np.arange(12) % 3
    bank, queries = (centres[y] + 0.01 * rng.standard_normal((len(y), 8)) for y in (bank_y, query_y))
    query_y[0] = 1 if query_y[0] == 0 else 0  # one wrong label
    for name, array in (("x", bank), ("y", bank_y), ("q", queries), ("z", query_y)):
        np.save(tmp_path / f"{name}.npy", array)
    files = {"bank": "x", "labels": "y", "queries": "q", "query-labels": "z"}
    words = ["score", "knn", *(w for k, v in files.items() for w in (f"--{k}", str(tmp_path / f"{v}.npy")))]
    assert cli.main([*words, "--k", "1", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"n": 12, "top1": {"1": 11 / 12, "5": 11 / 12}}
    assert cli.main([*words, "--k", "5"]) == 0
    assert "91.67" in capsys.readouterr().out
    assert cli.main(words) == 0  # with the default k
    assert "k = 100 200 left out: the bank has 60 rows" in capsys.readouterr().out
    assert cli.main([*words, "--k", "61"]) == 2
    assert "k <= 60" in capsys.readouterr().err
    np.save(tmp_path / "y.npy", bank_y[:, None].astype(np.float64))  # as MATLAB and pandas have them
    assert cli.main([*words, "--k", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == {"5": 11 / 12}
    wrong = {
        "z": (query_y[:-1], "integer labels [12]; got int64 [11]"),
        "y": (bank_y + 0.5, "integer labels [60]; got float64 [60]"),
        "x": (np.ones_like(bank), "identical features for all images"),
    }
    wrong_ids = {"z": (query_y + 1, "got none of class 3"), "y": (bank_y * 0, "got a single class")}
    for name, (array, says) in (*wrong.items(), *wrong_ids.items()):
        before = np.load(tmp_path / f"{name}.npy")
        np.save(tmp_path / f"{name}.npy", array)
        for subject in (["knn", "--bank"], ["fewshot", "--train"]):
            asked = [subject[1] if word == "--bank" else word for word in words[2:]]
            assert cli.main(["score", subject[0], *asked, *(["--k", "5"] if subject[0] == "knn" else [])]) == 2
            assert says in capsys.readouterr().err
        np.save(tmp_path / f"{name}.npy", before)
    np.save(tmp_path / "q.npy", np.concatenate([queries[:11], bank[:1]]))
    for subject in (["knn", "--bank", "--k", "5"], ["fewshot", "--train"]):
        asked = [subject[1] if word == "--bank" else word for word in words[2:]]
        assert cli.main(["score", subject[0], *asked, *subject[2:], "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["notes"] == [
            "1 of 12 queries are rows of x.npy too: are they the same images?"
        ]


def test_subjects_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(subject in out for subject in ("knn", "retrieval", "vos"))
    assert cli.main(["score", "vso"]) == 2
    assert "did you mean 'vos'" in capsys.readouterr().err
    assert "score" in cli.commands()
    assert not any(name.startswith("_") for name in cli.commands())
