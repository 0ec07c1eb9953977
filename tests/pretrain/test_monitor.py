"""A run that says how it is: what the log holds, and collapse named while it happens."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from evaltk import load_checkpoint
from evaltk.datasets import digits
from pretrain import collapse, loop, methods, monitor, recipe

LOG_K = math.log(512)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"loss": 6.2, "teacher_entropy": 6.0, "won_share": 0.4, "largest_duplicate_set": 20}, None),
        ({"loss": 6.238, "teacher_entropy": 6.237, "won_share": 0.002}, "the teacher is uniform"),
        ({"loss": 0.01, "teacher_entropy": 0.002, "won_share": 1 / 512}, "one prototype takes every image"),
        ({"loss": 5.0, "teacher_entropy": 4.0, "largest_duplicate_set": 300}, "void set: 300 of 512"),
        ({"largest_duplicate_set": 257}, "void set: 257 of 512"),
    ],
)
def test_collapse_is_named(line: dict[str, float], said: str | None) -> None:
    alarms = [sign.text for sign in collapse.signs({"step": 100, "log_k": LOG_K} | line)]
    assert (said is None and not alarms) or (len(alarms) == 1 and str(said) in alarms[0])


def test_a_run_that_collapses_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # A teacher without sharpening, hotter than the student: nothing holds it from becoming uniform.
    made = recipe.load("digits_dino_vmf", [*SMALL, "method.teacher_temp=0.5", "method.teacher_temp_end=0.5"])
    loop.run(made, out=tmp_path, device="cpu")
    lines = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert any("the teacher is uniform" in alarm for line in lines for alarm in line["alarms"])
    assert "the teacher is uniform" in caplog.text


def test_the_log_against_what_it_speaks_of(tmp_path: Path) -> None:
    made = recipe.load("digits_dino_vmf", SMALL)
    loop.run(made, out=tmp_path, device="cpu")
    *steps, last = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    for line in steps:
        assert line["kl"] == pytest.approx(line["loss"] - line["teacher_entropy"])
        assert 0 < line["teacher_entropy"] < line["log_k"] == pytest.approx(math.log(64))
        assert 0 < line["won_share"] <= 1 and line["images_per_second"] > 0
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pth")
    assert checkpoint.head is not None
    g = checkpoint.head.tensors["prototypes.weight_g"].abs().numpy()
    tau = made.method.teacher_temp_end
    wanted = [g.min() / tau, np.sort(g.ravel())[(len(g) - 1) // 2] / tau, g.max() / tau]
    assert [last["kappa_min"], last["kappa_median"], last["kappa_max"]] == pytest.approx(wanted, rel=1e-5)
    assert 1 <= last["unique_prototypes"] <= 64 - last["largest_duplicate_set"] + 1


def test_the_watching_knn_is_scikit_learns() -> None:
    made = recipe.load("digits_dino_vmf", [*SMALL, "run.knn=200"])
    source = digits.load(None).train
    arch = loop.nets.parse(made.net.arch)
    method = methods.get(made.method.name)
    state = loop.init_state(made, method, arch, torch.device("cpu"))
    seen: list[torch.Tensor] = []
    state.teacher.backbone.register_forward_hook(lambda *_: None)
    real = state.teacher.tokens
    object.__setattr__(state.teacher, "tokens", lambda x: seen.append(real(x)) or seen[-1])
    watching = monitor.Monitor(made, method, arch, source, out=Path(), device=torch.device("cpu"))
    told = watching._evaluate_features(state.teacher)
    x = torch.nn.functional.normalize(torch.cat(seen)[:, 0], dim=1).numpy()
    draw = monitor.generator(made.run.seed, "watch")
    labels = source.labels[torch.randperm(len(source), generator=draw)[:200].numpy()]
    theirs = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    wanted = theirs.fit(x[50:], labels[50:]).score(x[:50], labels[:50])
    assert told["knn"] == pytest.approx(wanted)
    assert 1 <= told["feature_rank"] <= 32


SMALL = [
    "net.arch=vit_patch4_dim32_depth1_heads2_img16",
    "method.num_prototypes=64",
    "method.hidden=32",
    "method.bottleneck=16",
    "views.num_local=1",
    "optim.batch=50",
    "optim.epochs=2",
    "optim.warmup_epochs=0.5",
    "run.workers=0",
    "run.knn=0",
    "run.log_every=10",
    "run.monitor_every=20",
]
