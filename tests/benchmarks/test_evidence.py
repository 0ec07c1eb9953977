"""The evidence: cells resumed, diverged and never mixed; means over seeds; the page made of result files alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.evidence import __main__ as evidence
from benchmarks.evidence import cells, claims, page, seeds, suite
from evaltk.errors import SettingsError, StorageError

SUITE = """
recipe = "digits_dino"
data = "digits"
seeds = [1, 2]
chosen = "by nobody"
settings = [
  "net.arch=vit_patch8_dim16_depth1_heads2_img8", "views.global_size=8", "views.local_size=8", "method.hidden=16",
  "method.bottleneck=8", "method.num_prototypes=32", "optim.batch=250", "optim.epochs=2", "optim.warmup_epochs=1",
  "run.keep_every=1", "run.knn=0", "run.log_every=2", "run.monitor_every=100",
]
[[group]]
name = "table1"
measures = ["knn", "precision", "prototypes", "centre"]
[group.axes]
"method.scoring" = ["cosine", "vmf"]
"method.centering" = ["probability"]
[[group]]
name = "stability"
measures = []
[group.axes]
"optim.lr" = [1e30]
"method.scoring" = ["linear"]
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SUITE, encoding="utf-8")
    return str(path)


def run(small: str, tmp_path: Path, *more: str) -> int:
    options = evidence._parser().parse_args(
        [small, "--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs"), "--device", "cpu", *more]
    )
    return evidence._run(options)


def test_cells_resume_count_divergence_and_never_mix(small: str, tmp_path: Path) -> None:
    assert run(small, tmp_path, "--slice", "2/2", "--group", "table1") == 0  # vmf of both seeds
    folder = tmp_path / "results" / "small"
    vmf = sorted(folder.glob("table1_scoring=vmf*.json"))
    assert len(vmf) == 2 and not list(folder.glob("*cosine*"))
    found = cells.read(vmf[0])
    assert found["diverged"] is None and 0 < found["knn"] < 1
    assert [point["step"] for point in found["course"]] == [4, 8]
    assert found["centre"]["eaten"] is None or np.isfinite(found["centre"]["eaten"])
    before = [path.stat().st_mtime_ns for path in vmf]

    assert run(small, tmp_path, "--group", "stability") == 0
    (diverged, _) = (cells.read(path) for path in sorted(folder.glob("stability*.json")))
    assert "step" in diverged["diverged"] and diverged["log"]["steps"] >= 0 and "knn" not in diverged
    assert [path.stat().st_mtime_ns for path in vmf] == before  # done cells are left alone
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert [line["diverged"] for line in lines] == [False, False, True, True]

    changed = Path(small)
    changed.write_text(SUITE.replace("optim.epochs=2", "optim.epochs=3"), encoding="utf-8")
    with pytest.raises(StorageError, match="one of other settings"):
        run(small, tmp_path, "--group", "table1")


def test_a_killed_training_goes_on(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = next(c for c in suite.load(small).cells if c.group == "table1")
    recipe, folder = cell.load(), tmp_path / "runs" / cell.suite / cell.name
    monkeypatch.setattr(cells.loop, "run", lambda *args, **kwargs: 75)
    with pytest.raises(cells.Interrupted) as stop:
        cells.run(cell, results=tmp_path / "results", runs=tmp_path / "runs", device="cpu")
    assert stop.value.code == 75 and not cells.done(tmp_path / "results", cell)
    monkeypatch.undo()
    # One epoch of the two, as a run that was killed leaves it.
    real = cells.loop.checkpoint.Saver.save

    def killed(saver: object, state: object, *, keep: str | None = None, wait: bool = False) -> None:
        real(saver, state, keep=keep, wait=True)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(cells.loop.checkpoint.Saver, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        cells.loop.run(recipe, out=folder, device="cpu")
    monkeypatch.undo()
    with (folder / "log.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')  # the line it was writing
    resumed = cells.run(cell, results=tmp_path / "results", runs=tmp_path / "runs", device="cpu")
    whole = cells.run(cell, results=tmp_path / "again", runs=tmp_path / "others", device="cpu")
    same = ("knn", "course", "precision", "identity", "diverged")
    assert {key: resumed[key] for key in same} == {key: whole[key] for key in same}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("recipe =", "recipes =", "KeyError"),
        ('"knn", "precision"', '"speed"', "unknown measure speed"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "cells of the same name"),
    ],
)
def test_bad_suites(small: str, old: str, new: str, told: str) -> None:
    path = Path(small)
    path.write_text(SUITE.replace(old, new), encoding="utf-8")
    with pytest.raises(SettingsError, match=told):
        suite.load(small)
    with pytest.raises(SettingsError, match="an evidence suite"):
        suite.load("no-such")


def test_bundled_suites_load() -> None:
    for name in suite.names():
        known = suite.load(name)
        assert len({cell.identity() for cell in known.cells}) == len(known.cells)
        assert {cell.seed for cell in known.cells} >= {1, 2, 3}


def made(scoring: str, centering: str, seed: int, knn: float, unique: float) -> dict:
    point = {"step": 10, "unique_share": unique, "largest_share": 1 - unique, "void_cosine": -0.95, "used_share": 0.1}
    return {
        "group": "table1",
        "values": {"method.scoring": scoring, "method.centering": centering},
        "seed": seed,
        "diverged": None,
        "log": {"steps": 10, "kappa_max": 30.0, "grad_norm_max": 1.0, "last_loss": 2.0},
        "course": [point | {"void_share": 1 - unique if scoring == "cosine" else 0.0}],
        "knn": knn,
        "precision": [[1, 0.5, 400], [4, 0.5 + knn / 10, 397]],
        "fewshot": {"1": knn - 0.3, "2": knn - 0.2, "5": knn - 0.1},
        "centre": {"eaten": 1.0, "changed": 0.0, "constant_std": 0.5},
        "seconds": {"cpu": 36.0, "wall": 40.0},
    }


CELLS = [
    made(scoring, centering, seed, 0.7 + 0.01 * seed + (0.1 if scoring == "vmf" else 0.0), u + 0.001 * seed)
    for scoring, u in (("cosine", 0.2), ("linear", 0.3), ("vmf", 0.8))
    for centering in ("logit", "probability")
    for seed in (1, 2, 3)
]


def test_means_and_pairs_over_seeds() -> None:
    values = [0.3, 0.5, 0.4]
    found = seeds.mean(values)
    assert found is not None and found.value == pytest.approx(0.4) and found.n == 3
    wanted = stats.t.interval(0.95, 2, loc=0.4, scale=stats.sem(values))
    assert found.interval == pytest.approx(wanted)
    assert seeds.mean([]) is None and seeds.mean([0.1]).interval is None  # type: ignore[union-attr]
    dino = seeds.where(CELLS, scoring="cosine", centering="logit")
    vmf = seeds.where(CELLS, scoring="vmf", centering="probability")
    gain = seeds.paired(dino, vmf, lambda f: f["knn"] + 0.001 * f["seed"])
    assert gain is not None and gain.n == 3 and gain.value == pytest.approx(0.1)
    assert seeds.verdict(gain) == seeds.SEEN
    fewer = seeds.paired(dino[1:], vmf, lambda f: f["knn"])
    assert fewer is not None and fewer.n == 2 and seeds.verdict(fewer) == seeds.UNTOLD
    assert seeds.verdict(seeds.paired(vmf, dino, lambda f: f["knn"])) == seeds.CONTRADICTED
    assert seeds.verdict(seeds.Mean(value=0.1, interval=(-0.1, 0.3), n=3)) == seeds.UNTOLD
    assert seeds.verdict(None) == seeds.verdict(seeds.Mean(value=0.1, interval=None, n=1)) == seeds.UNTOLD


def test_claims_say_what_the_cells_say() -> None:
    by_key = {claim.key: claim for claim in claims.all_claims(CELLS, [])}
    assert "DINO-vMF over DINO (cosine, logit): seen at this scale: +10.0 points" in by_key["a"].verdict
    assert by_key["b"].verdict.startswith("DINO's void set: seen at this scale in 3 of 3 seeds.")
    assert "cannot be told: not run" in by_key["e"].verdict and by_key["e"].ran == "Not run."
    turned = [c | {"knn": 1 - c["knn"], "course": [c["course"][0] | {"void_share": 0.0}]} for c in CELLS]
    by_key = {claim.key: claim for claim in claims.all_claims(turned, [])}
    assert "DINO-vMF over DINO (cosine, logit): contradicted: -10.0 points" in by_key["a"].verdict
    assert by_key["b"].verdict.startswith("DINO's void set: not seen (3 seeds).")
    lost = [c | {"diverged": "the loss", "knn": None, "course": []} if c["seed"] == 3 else c for c in CELLS]
    told = {claim.key: claim for claim in claims.all_claims(lost, [])}["a"]
    assert "6 diverged" in told.ran and "+10.0 points over 2 seeds, too few for an interval" in told.verdict


def test_the_page_is_made_of_result_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "digits"
    folder.mkdir(parents=True)
    for n, one in enumerate(CELLS):
        (folder / f"table1_{n}_seed={one['seed']}.json").write_text(json.dumps(one | {"format": cells.FORMAT}))
    (folder / "cost.json").write_text(
        json.dumps([{"K": 1024, "rows": 8, "dim": 16, "linear": [0.1, 0.2, 0.1], "vmf": [0.101, 0.202, 0.101]}])
    )
    written = page.write(tmp_path / "results", tmp_path / "docs")
    text = (tmp_path / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert "| vmf " in text and "ratios of medians 1.010" in text and "stability (0 of 18)" in text
    assert "![Prototypes against training step" in text
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in page.write(tmp_path / "results", tmp_path / "docs")] == first
    html = (tmp_path / "docs" / "evidence.html").read_text(encoding="utf-8")
    assert "<svg" in html and "Appendix: all trials" in html
    (folder / "table1_0_seed=1.json").write_text('{"format": 1, "gro')
    with pytest.raises(StorageError, match="its cell is run again"):
        page.write(tmp_path / "results", tmp_path / "docs")


def test_the_committed_page_is_that_of_the_committed_results(tmp_path: Path) -> None:
    results, docs = evidence.HERE / "results", evidence.HERE.parents[1] / "docs"
    page.write(results, tmp_path)
    assert (tmp_path / "evidence.md").read_text(encoding="utf-8") == (docs / "evidence.md").read_text(encoding="utf-8")
