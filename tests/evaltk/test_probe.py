"""Batched linear heads against separate torch.optim.SGD runs, torch's own schedule, and heads that diverge."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaltk.types import FeatureKey, Features
from protocols.linear import heads as probe
from protocols.linear import pieces

KEY = FeatureKey(
    sha256="0", dataset="0", split="x", transform="", recipe="", precision="fp32", position="dino", version=1
)
LRS = [digit * 10.0**power for power in range(-4, 1) for digit in range(1, 10)]
CLASSES, DIM, BATCH, EPOCHS, STEPS = 7, 12, 16, 4, 5


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
    stream = drawn(3)
    sizes = [BATCH] * (STEPS - 1) + [BATCH // 2]  # the last batch of an epoch is smaller
    return [
        (torch.randn(n, DIM, generator=stream, dtype=dtype) * 3, torch.randint(CLASSES, (n,), generator=stream))
        for n in sizes
    ]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_forty_five_heads_equal_forty_five_runs_of_sgd(dtype: torch.dtype, close: float) -> None:
    heads = probe.begin(len(LRS), CLASSES, DIM, generator=drawn(), dtype=dtype)
    first = heads.weight[0].clone()
    singles = []
    for lr in LRS:
        linear = torch.nn.Linear(DIM, CLASSES, dtype=dtype)
        with torch.no_grad():
            linear.weight.copy_(first)
            linear.bias.zero_()
        optimizer = torch.optim.SGD(linear.parameters(), lr * BATCH / 256, momentum=0.9, weight_decay=0)
        singles.append((linear, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS, eta_min=0)))
    for epoch in range(EPOCHS):
        rates = torch.tensor(probe.rates(LRS, BATCH, epoch, EPOCHS), dtype=dtype)
        for x, y in data(dtype):
            losses = probe.step(heads, x, y, rates)
            for h, (linear, optimizer, _) in enumerate(singles):
                optimizer.zero_grad()
                loss = F.cross_entropy(linear(x), y)
                loss.backward()
                optimizer.step()
                assert float(losses[h]) == pytest.approx(float(loss.detach()), rel=1e3 * close, abs=1e3 * close)
        for _, _, schedule in singles:
            schedule.step()
    for h, (linear, _, _) in enumerate(singles):
        scale = float(linear.weight.detach().abs().max())
        assert float((heads.weight[h] - linear.weight.detach()).abs().max()) <= close * scale
        assert float((heads.bias[h] - linear.bias.detach()).abs().max()) <= close * scale


def test_one_step_by_hand() -> None:
    heads = probe.begin(1, 2, 1, generator=drawn(), dtype=torch.float64)
    heads.weight.zero_()
    x, y = torch.tensor([[2.0], [1.0]], dtype=torch.float64), torch.tensor([0, 1])
    for number in (1, 2):
        loss = probe.step(heads, x, y, torch.tensor([0.5], dtype=torch.float64))
        if number == 1:
            # p = 1/2 everywhere: dL/dw0 = ((1/2 - 1) 2 + (1/2) 1) / 2 = -1/4, db0 = 0; the step is lr times that.
            assert float(loss) == pytest.approx(np.log(2))
            assert heads.weight.flatten().tolist() == pytest.approx([0.125, -0.125])
            assert heads.bias.flatten().tolist() == pytest.approx([0, 0])
    p = 1 / (1 + np.exp(-0.25 * np.array([2.0, 1.0])))  # of class 0 after the first step
    gradient = ((p[0] - 1) * 2 + p[1]) / 2
    assert float(heads.weight[0, 0, 0]) == pytest.approx(0.125 - 0.5 * (0.9 * -0.25 + gradient))


def test_the_schedule_falls_by_a_cosine_to_zero() -> None:
    assert probe.rates([1.0, 3.0], 256, 0, 100) == [1.0, 3.0]
    assert probe.rates([1.0], 256, 50, 100) == pytest.approx([0.5])
    assert probe.rates([1.0], 256, 99, 100) == pytest.approx([2.4671981713422e-4])
    assert probe.rates([0.001], 1024, 25, 100) == pytest.approx([0.004 * 0.8535533905932737])
    assert probe.rates([2.0], 128, 0, 1) == [1.0]


def test_heads_begin_alike_whatever_stands_beside_them() -> None:
    one, many = (probe.begin(n, CLASSES, DIM, generator=drawn(5)) for n in (1, 45))
    assert torch.equal(one.weight[0], many.weight[17]) and not many.bias.any() and not many.weight_momentum.any()
    wide = probe.begin(1, 1000, 400, generator=drawn(5)).weight
    assert float(wide.std()) == pytest.approx(0.01, rel=0.01) and abs(float(wide.mean())) < 1e-4


def test_a_head_that_diverges_leaves_the_others_as_they_were() -> None:
    lrs = torch.tensor([0.1, 1e39, 0.3])
    heads, alone = (probe.begin(n, CLASSES, DIM, generator=drawn()) for n in (3, 2))
    for _ in range(3):
        for x, y in data(torch.float32):
            probe.step(heads, x, y, lrs)
            probe.step(alone, x, y, lrs[[0, 2]])
    assert probe.finite(heads).tolist() == [True, False, True]
    # A product of other sizes may round otherwise.
    torch.testing.assert_close(heads.weight[[0, 2]], alone.weight, rtol=1e-4, atol=1e-6)
    before = heads.weight[[0, 2]].clone()
    probe.deactivate(heads, ~probe.finite(heads))
    assert torch.equal(heads.weight[[0, 2]], before) and probe.finite(heads).all()
    (x, y), *_ = data(torch.float32)
    losses = probe.step(heads, x, y, torch.tensor([0.1, 0.0, 0.3]))
    assert not heads.weight[1].any() and float(losses[1]) == pytest.approx(np.log(CLASSES), rel=1e-5)


def trained(num_heads: int = 5) -> probe.LinearClassifiers:
    heads = probe.begin(num_heads, CLASSES, DIM, generator=drawn())
    for x, y in data(torch.float32):
        probe.step(heads, x, y, torch.linspace(0.01, 0.5, num_heads))
    return heads


def test_what_is_measured_is_what_one_counts() -> None:
    heads, stream = trained(), drawn(9)
    x, y = torch.randn(101, DIM, generator=stream), torch.randint(CLASSES, (101,), generator=stream)
    correct, loss = probe.measure(heads, x, y)
    assert correct.shape == loss.shape == (5,) and loss.dtype == torch.float64
    for h in range(5):
        logits = (x.double() @ heads.weight[h].double().T + heads.bias[h].double()).numpy()
        assert int(correct[h]) == int((logits.argmax(1) == y.numpy()).sum())
        assert float(loss[h]) == pytest.approx(float(F.cross_entropy(torch.from_numpy(logits), y)), rel=1e-5)
        rank, predicted, confidence = probe.classify(heads, h, x, y)
        assert int((rank == 0).sum()) == int(correct[h])
        assert predicted.tolist() == logits.argmax(1).tolist()
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(confidence.numpy(), p.max(1), rtol=1e-5)
        own = logits[np.arange(101), y.numpy()]
        assert rank.tolist() == (logits > own[:, None]).sum(1).tolist()


def test_threads_and_blocks_change_no_prediction() -> None:
    heads, stream = trained(45), drawn(9)
    x, y = torch.randn(500, DIM, generator=stream), torch.randint(CLASSES, (500,), generator=stream)
    wanted = probe.classify(heads, 7, x.numpy(), y)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for block in (41, 500, None):
                rank, predicted, _ = probe.classify(heads, 7, x.numpy(), y, block=block)
                assert torch.equal(rank, wanted[0]) and torch.equal(predicted, wanted[1])
                correct, _ = probe.measure(heads, x.numpy(), y, block=block)
                assert int(correct[7]) == int((rank == 0).sum())
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_heads() -> None:
    on_cpu, on_gpu = (probe.begin(45, CLASSES, DIM, generator=drawn(), device=d) for d in ("cpu", "cuda"))
    rates = torch.tensor(LRS)
    for x, y in data(torch.float32):
        probe.step(on_cpu, x, y, rates)
        probe.step(on_gpu, x.cuda(), y.cuda(), rates.cuda())
    scale = on_cpu.weight.flatten(1).abs().amax(dim=1)
    assert float(((on_gpu.weight.cpu() - on_cpu.weight).abs().flatten(1).amax(dim=1) / scale).max()) < 1e-5
    x, y = data(torch.float32)[0]
    assert torch.equal(probe.measure(on_gpu, x, y)[0], probe.measure(on_cpu, x, y)[0])


@pytest.mark.parametrize(
    ("correct", "loss", "best"),
    [
        ([3, 5, 4], [0.1, 0.9, 0.2], 1),  # most right, whatever the loss
        ([5, 5, 4], [0.3, 0.2, 0.1], 1),  # then the least loss
        ([5, 5, 5], [3e-7, 1e-9, 0.0], 0),  # losses that only rounding tells apart: the first
        ([5, 5, 5], [0.7 + 3e-5, 0.7, 0.7 - 1e-6], 1),
        ([5, 5], [40.0003, 40.0], 0),
        ([5], [0.0], 0),
    ],
)
def test_the_best_of_several_heads(correct: list[float], loss: list[float], best: int) -> None:
    assert probe.choose(correct, loss) == best


def test_pieces_of_heads_are_all_of_them(threads: Callable[[int], None]) -> None:
    lrs = torch.linspace(0.01, 0.5, 70)
    whole, apart = (probe.begin(70, CLASSES, DIM, generator=drawn()) for _ in range(2))
    losses = torch.zeros(70)
    threads(3)

    def work(piece: pieces.Piece) -> None:
        which = piece[1]
        losses[which] = probe.step(pieces.some(apart, which), x, y, lrs[which])

    for x, y in data(torch.float32):
        expected = probe.step(whole, x, y, lrs)
        pieces.each(work, [apart], len(x))
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)
    for found, expected in zip(apart.tensors(), whole.tensors(), strict=True):  # wider vectors may round sums otherwise
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    features = Features(x=x.numpy(), y=y.numpy(), ids=tuple(map(str, range(len(x)))), key=KEY)
    ((correct, loss),) = pieces.measure([apart], [features])
    right, mean = probe.measure(apart, features.x, y)
    assert torch.equal(correct, right)
    torch.testing.assert_close(loss, mean, rtol=1e-12, atol=0)
