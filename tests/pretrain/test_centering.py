"""Centres against hand values, plain float64 loops and the original's recorded steps; two processes against one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F

from evaltk.errors import SettingsError
from pretrain import centering, prototypes
from pretrain.methods import dino, msn

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.npz"


def loop_center(center: list[float], logits: np.ndarray, kind: str, momentum: float, eps: float = 0.0) -> list[float]:
    """One step of the recursion from its formula, number by number."""
    rows, num_prototypes = logits.shape
    out = []
    for k in range(num_prototypes):
        if kind == "logit":
            batch = sum(float(logits[b, k]) for b in range(rows)) / rows
        else:
            mean = 0.0
            for b in range(rows):
                mean += math.exp(logits[b, k]) / sum(math.exp(x) for x in logits[b]) / rows
            batch = math.log(mean + eps)
        out.append(momentum * center[k] + (1 - momentum) * batch)
    return out


def test_example_of_the_specification() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    wanted = torch.tensor([-0.69367375, -1.93099750, -1.03490613])
    got = centering.update(torch.zeros(3), logits, kind="probability", momentum=0.0)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-7)
    step = centering.update(torch.zeros(3), logits, kind="probability")
    torch.testing.assert_close(step, 0.1 * wanted, rtol=0, atol=2e-8)
    p = dino.teacher_probabilities(logits, wanted, temperature=1.0)
    torch.testing.assert_close(p[0], torch.tensor([0.04816430, 0.45121408, 0.50062162]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_recursion_of_four_rows_and_eight_prototypes(kind: centering.Kind) -> None:
    table = np.array(
        [
            [0.0, 1.0, -2.0, 3.0, 0.5, 0.0, 7.0, -1.0],
            [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0],
            [-9.0, 4.0, 0.0, 0.0, 1.5, 6.0, -3.0, 0.0],
            [5.0, -5.0, 5.0, -5.0, 5.0, -5.0, 5.0, -5.0],
        ]
    )
    center, plain = torch.zeros(8), [0.0] * 8
    for step in range(4):
        logits = np.roll(table, step, axis=1) * (1.0 + step)
        plain = loop_center(plain, logits, kind, 0.9)
        center = centering.update(center, torch.from_numpy(logits).float(), kind=kind)
        np.testing.assert_allclose(center.numpy(), plain, rtol=1e-5, atol=1e-6)


def test_original_steps() -> None:
    golden = np.load(GOLDEN)
    runs = [
        ("dino_teacher", "dino_center", 1),
        ("ibot_teacher_cls", "ibot_center", 1),
        ("ibot_teacher_patch", "ibot_center2", -1),
    ]
    for teacher, name, drift in runs:
        logits = torch.from_numpy(golden[teacher])
        center = torch.zeros(golden[f"{name}_0"].shape)  # [1, K] or [1, 1, K], as the original keeps it
        for step in range(3):
            center = centering.update(center, logits + drift * step, kind="logit")
            wanted = golden[f"{name}_{step}"]
            assert center.shape == wanted.shape
            np.testing.assert_allclose(center.numpy(), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_chunks_and_accumulation_change_nothing(kind: centering.Kind) -> None:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(6, 49, 80, generator=generator) * 20
    whole = centering.update(torch.zeros(80), patches, kind=kind)
    chunked = centering.update(torch.zeros(80), patches, kind=kind, chunk_elements=7 * 80)
    sums = None
    for view in patches.split(2):
        sums = centering.accumulate(view, kind=kind, previous=sums)
    assert sums is not None
    assert sums.rows == 6 * 49
    accumulated = centering.update(torch.zeros(80), sums, kind=kind)
    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(accumulated, whole, rtol=1e-6, atol=1e-6)


def test_stays_finite_where_the_plain_formula_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 60 * torch.randn(8, 65536, generator=generator)
    naive = torch.softmax(logits, dim=-1).mean(0).log()
    assert torch.isinf(naive).sum() > 30000
    got = centering.update(torch.zeros(65536), logits, kind="probability", momentum=0.0)
    wide = logits.double().numpy()
    exact = np.log(np.mean(np.exp(wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)), axis=0))
    assert np.isfinite(exact).all()
    np.testing.assert_allclose(got.double().numpy(), exact, atol=1e-4)


def test_eps_bounds_the_centre_from_below() -> None:
    logits = np.array([[0.0, 100.0, 0.0], [50.0, 90.0, 1.0]])
    got = centering.update(torch.zeros(3), torch.from_numpy(logits), kind="probability", momentum=0.0, eps=1e-6)
    np.testing.assert_allclose(got.numpy(), loop_center([0.0] * 3, logits, "probability", 0.0, eps=1e-6), rtol=1e-6)
    assert float(got[2]) == pytest.approx(math.log(1e-6), abs=1e-3)


def test_a_constant_added_to_a_row_does_not_move_the_probability_centre() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(10, 16, generator=generator)
    moved = logits + torch.arange(10.0).unsqueeze(1)
    a, b = (centering.update(torch.zeros(16), x, kind="probability") for x in (logits, moved))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_input_is_left_alone_and_no_gradient_flows() -> None:
    center, logits = torch.zeros(4), torch.randn(3, 4, requires_grad=True)
    before = logits.detach().clone()
    new = centering.update(center, logits, kind="probability")
    assert not new.requires_grad
    assert torch.equal(center, torch.zeros(4))
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_widened(dtype: torch.dtype) -> None:
    logits = (torch.randn(6, 32, generator=torch.Generator().manual_seed(2)) * 8).to(dtype)
    for kind in ("logit", "probability"):
        got = centering.update(torch.zeros(32), logits, kind=kind)
        torch.testing.assert_close(got, centering.update(torch.zeros(32), logits.float(), kind=kind), rtol=0, atol=1e-7)
        assert got.dtype == torch.float32


def test_wrong_arguments() -> None:
    center = torch.zeros(4)
    with pytest.raises(SettingsError, match="did you mean 'logit'"):
        centering.update(center, torch.zeros(2, 4), kind="logits")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="momentum"):
        centering.update(center, torch.zeros(2, 4), kind="logit", momentum=1.5)
    with pytest.raises(SettingsError, match="eps"):
        centering.update(center, torch.zeros(2, 4), kind="probability", eps=0.0)
    with pytest.raises(SettingsError, match="at least 2 prototypes"):
        centering.update(torch.zeros(1), torch.zeros(2, 1), kind="logit")
    with pytest.raises(ValueError, match="at least one row"):
        centering.update(center, torch.zeros(0, 4), kind="logit")
    with pytest.raises(ValueError, match="centre of 5 elements"):
        centering.update(center, torch.zeros(2, 5), kind="logit")
    sums = centering.accumulate(torch.zeros(2, 4), kind="logit")
    with pytest.raises(ValueError, match="sums of kind"):
        centering.update(center, sums, kind="probability")
    with pytest.raises(ValueError, match="start anew"):
        centering.accumulate(torch.zeros(2, 4), kind="probability", previous=sums)


def _step(images: slice) -> dict[str, Tensor]:
    """One step of everything that talks to other processes, on some of eight images."""
    generator = torch.Generator().manual_seed(0)
    y = F.normalize(torch.randn(4, 8, 16, generator=generator), dim=-1)[:, images]  # [views, images, p]
    patches = torch.randn(2, 8, 9, 20, generator=generator)[:, images] * 20
    z = torch.randn(3, 8, 16, generator=generator)[:, images]
    layer = prototypes.PrototypeLayer(16, 20, "vmf", generator=generator)
    vectors = torch.randn(12, 16, generator=generator).requires_grad_()
    with torch.no_grad():
        layer.weight_g.uniform_(0.5, 3.0, generator=generator)
    center = torch.linspace(-1, 1, 20)
    out: dict[str, Tensor] = {}
    teacher = layer(y[:2].flatten(0, 1), temperature=0.04).detach()
    loss = dino.loss(
        layer(y.flatten(0, 1), temperature=0.1), teacher, center, student_temperature=1.0, teacher_temperature=1.0
    )
    loss.backward()
    out["mean dino"] = loss.detach()
    out["mean dino g"], out["mean dino v"] = layer.weight_g.grad, layer.weight_v.grad  # type: ignore[assignment]
    for kind in ("logit", "probability"):
        out[f"same {kind} centre"] = centering.update(center, teacher, kind=kind)
        out[f"same {kind} patch centre"] = centering.update(center, patches, kind=kind, chunk_elements=100)
    parts = msn.loss(z[:2].flatten(0, 1), z[2], vectors)
    parts.total.backward()
    out["mean msn"], out["same me-max"], out["mean msn prototypes"] = (
        parts.total.detach(),
        parts.me_max.detach(),
        vectors.grad,
    )  # type: ignore[assignment]
    out["rows targets"] = parts.targets
    return out


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(_step(slice(4 * rank, 4 * rank + 4)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one_on_the_joined_batch(tmp_path: Path) -> None:
    mp.spawn(_work, args=(str(tmp_path),), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    joined = _step(slice(0, 8))
    for name, wanted in joined.items():
        first, second = both[0][name], both[1][name]
        if name.startswith("same"):
            assert torch.equal(first, second), name
            got = first
        else:
            got = torch.cat([first, second]) if name.startswith("rows") else (first + second) / 2
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}")
