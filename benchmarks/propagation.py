"""Labels carried to one frame of DAVIS: `protocols.vos.affinity` against the reference's algorithm, all pairs at once.

Both get the same tokens of 8 frames of 480 x 832 and are timed in processes of their own, one after the other, so that
each one's peak memory can be told.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import _memory
from protocols.vos import affinity

DIM, CONTEXTS, CHANNELS, SIZE = 64, 8, 4, (480, 832)
RADIUS, TOPK, TEMPERATURE = 12, 5, 0.1
# {patch: (times faster that is wanted, share of the peak memory that is wanted, seconds that each is run for)}
WANTED = {16: (8, 0.25, 8.0), 8: (20, 0.25, 25.0)}


def frames(patch: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Tokens [h, w, D] of the contexts and, last, of the target, and soft labels [h, w, C] of the contexts.

    Neighbours are alike and frames drift, so that ties and thresholds are as in a video.
    """
    draw = torch.Generator().manual_seed(0)
    h, w = SIZE[0] // patch, SIZE[1] // patch
    coarse = torch.randn(1, DIM, h // 3, w // 3 + CONTEXTS, generator=draw)
    scene = torch.nn.functional.interpolate(coarse, size=(h, w + CONTEXTS + 1), mode="bilinear")[0].permute(1, 2, 0)
    tokens = [scene[:, t : t + w] + 0.3 * torch.randn(h, w, DIM, generator=draw) for t in range(CONTEXTS + 1)]
    labels = [torch.rand(h, w, CHANNELS, generator=draw).softmax(dim=2) for _ in range(CONTEXTS)]
    return tokens, labels


def ours(tokens: list[torch.Tensor], labels: list[torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A run of `affinity.propagate_labels`; the contexts are built beforehand, as they are in a video."""
    contexts = affinity.Contexts(tokens[0], labels[0], previous=CONTEXTS - 1)
    for t in range(1, CONTEXTS):
        contexts.push(tokens[t], labels[t])
    config = affinity.AffinityConfig(radius=RADIUS, topk=TOPK, temperature=TEMPERATURE)
    return lambda: affinity.propagate_labels(tokens[-1], contexts, config)


def plain(tokens: list[torch.Tensor], labels: list[torch.Tensor]) -> Callable[[], torch.Tensor]:
    """dino/eval_video_segmentation.py's formulas step by step on all pairs, with one mask for the window."""
    h, w, _ = tokens[0].shape
    row, column = torch.arange(h * w) // w, torch.arange(h * w) % w
    near = ((row[:, None] - row).abs() <= RADIUS) & ((column[:, None] - column).abs() <= RADIUS)
    window = near.float()  # [targets, sources]
    sources = torch.stack([f.reshape(h * w, -1) for f in tokens[:-1]])  # [n, h * w, D]
    values = torch.stack([v.reshape(h * w, -1) for v in labels]).reshape(-1, CHANNELS)  # [n * h * w, C]

    def run() -> torch.Tensor:
        f = torch.nn.functional.normalize(sources, dim=2)
        target = torch.nn.functional.normalize(tokens[-1].reshape(h * w, -1), dim=1)
        a = torch.exp(torch.matmul(target, f.transpose(1, 2)) / TEMPERATURE)  # [n, targets, sources]
        a *= window
        a = a.transpose(1, 2).reshape(-1, h * w)  # [n * sources, targets]
        threshold = torch.topk(a, TOPK, dim=0).values.min(dim=0).values
        a[a < threshold] = 0
        a = a / a.sum(dim=0, keepdim=True)
        return (values.T @ a).T.reshape(h, w, -1)

    return run


def measure(which: str, patch: int, budget: float, out: Path) -> None:
    """Write seconds a frame (the least of all runs in `budget` seconds), MiB at the peak above those before, labels."""
    run = {"ours": ours, "plain": plain}[which](*frames(patch))
    before = _memory.begin()
    found, taken = torch.empty(0), []
    while sum(taken) < budget:
        start = time.perf_counter()
        found = run()
        taken.append(time.perf_counter() - start)
    peak = _memory.peak() - before
    torch.save({"seconds": min(taken), "peak": peak, "labels": found}, out)


def main() -> None:
    """Print times, ratios, peak memories and the largest difference for both patch sizes."""
    print(f"   {CONTEXTS} contexts of {SIZE[0]} x {SIZE[1]}, {DIM} dimensions, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as place:
        for patch, (faster, share, budget) in WANTED.items():
            found = {}
            for which in ("ours", "plain"):
                out = Path(place) / f"{which}.pt"
                code = (
                    f"from benchmarks.propagation import *; measure({which!r}, {patch}, {budget}, Path({str(out)!r}))"
                )
                subprocess.run([sys.executable, "-c", code], check=True)
                found[which] = torch.load(out, weights_only=True)
            quick, slow = found["ours"], found["plain"]
            difference = float((quick["labels"] - slow["labels"]).abs().max())
            ratio, memory = slow["seconds"] / quick["seconds"], quick["peak"] / slow["peak"]
            print(
                f"   patch {patch}: ours {quick['seconds'] * 1e3:.0f} ms, plain {slow['seconds'] * 1e3:.0f} ms a frame"
            )
            print(f"      {ratio:.1f} times faster (wanted: at least {faster}); largest difference {difference:.1e}")
            print(
                f"      peak {quick['peak']:.0f} MiB, plain {slow['peak']:.0f} MiB: "
                f"{memory:.3f} (wanted: at most {share})"
            )
