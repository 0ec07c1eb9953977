"""Clustering by the real command, and the matching against a search of all of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from small_inputs import DEIT, one_colour_per_class

from evaltk import cli, results
from evaltk.metrics.clustering import hungarian_accuracy


@pytest.mark.parametrize("clusters", [3, 4, 5])
def test_the_best_of_all_matchings(clusters: int) -> None:
    rng = np.random.default_rng(clusters)
    labels, assigned = rng.integers(0, 4, 60), rng.integers(0, clusters, 60)
    best = 0
    for chosen in itertools.permutations([*range(4), *[-1] * clusters], clusters):
        best = max(best, sum(chosen[c] == y for c, y in zip(assigned, labels, strict=True)))
    accuracy, label_of = hungarian_accuracy(assigned, labels)
    assert accuracy == best / 60 == (label_of[assigned] == labels).mean()


def test_the_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_colour_per_class(tmp_path, train=5, test=4)
    argv = ["run", DEIT, "--num-heads", "3", "--protocols", "clustering", "--out", str(tmp_path / "runs"), "--quiet"]
    argv += ["--data", f"x:imagefolder={tmp_path / 'data'}", "--cache", str(tmp_path / "cache")]
    assert cli.main([*argv, "--clustering.fit", "train"]) == 0
    ((path, result),) = results.find(tmp_path / "runs")
    arrays = results.read_predictions(path)
    value = {s.metric: s.value for s in result.scores}
    assert value["cluster_accuracy"] == 1 == np.mean(arrays["predicted"] == arrays["target"])  # colours are far apart
    printed = capsys.readouterr().out
    assert "on x test, n = 24" in printed and "clustering accuracy" in printed and "100.00" in printed
    assert cli.main([*argv, "--clustering.clusters", "4"]) == 0
    path, result = next(found for found in results.find(tmp_path / "runs") if found[1].settings["clusters"] == 4)
    arrays, value = results.read_predictions(path), {s.metric: s.value for s in result.scores}
    cluster, target = arrays["cluster"], arrays["target"]
    assert value["adjusted_rand"] == pytest.approx(adjusted_rand_score(target, cluster))
    assert value["nmi"] == pytest.approx(normalized_mutual_info_score(target, cluster))
    assert value["cluster_accuracy"] == np.mean(arrays["predicted"] == target) <= 4 / 6
    assert cli.main([*argv, "--clustering.clusters", "25"]) == 2
    assert "2 to 24, the images of test" in capsys.readouterr().err
