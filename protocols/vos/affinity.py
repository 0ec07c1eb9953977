"""Labels carried along a video by the likeness of tokens: windowed, a block of tokens at a time, exact.

A token takes the labels of its most similar tokens within a window of the context frames. Similarities outside the
window are never made, and those inside exist for one block of targets at a time.

A matrix product rounds as the processor and the shape of the block have it, and may tell equal tokens apart. So it only
proposes neighbours; those that decide and weigh are made again, in an order that hangs on the two tokens alone.
Source: dino/eval_video_segmentation.py:85-150 at 7c446df.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from evaltk import fixed_order, spread
from protocols.vos.unit_tokens import PRODUCTS, doubt, first_equal, unit

SCRATCH = {"cpu": 9 << 20, "cuda": 256 << 20}  # bytes of similarities at a time and thread; it changes no result
TILE = 20  # target rows at a time at most: more make better products, fewer waste less on rows outside the window
PIECES, NARROW = 4, 8  # blocks a thread, so that none waits long for the last; but none of fewer target columns
MANY = 1024  # pairs of tokens from which it pays to look for equal ones among them
NOWHERE = torch.iinfo(torch.int64).max  # the source of no neighbour


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a token looks at.

    Attributes:
        radius: of the square window, in tokens (12: 25 x 25). topk: neighbours kept; those equal to the last stay too.
        temperature: a neighbour weighs exp(cosine / temperature).
        scratch: bytes of similarities a thread holds at a time, None: by the device. tile: target rows a block at most.
    """

    radius: int = 12
    topk: int = 5
    temperature: float = 0.1
    scratch: int | None = None
    tile: int = TILE


class Contexts:
    """The first frame and the last few, as a queue: their unit tokens [w, h, S, D] and soft labels [w, h, S, C].

    Columns come first and frames next to last, so that a window over all frames is one run of memory for each column.
    """

    def __init__(self, tokens: torch.Tensor, labels: torch.Tensor, *, previous: int) -> None:
        """Of the first frame: tokens [h, w, D], labels [h, w, C]; `previous` later frames are kept beside it."""
        self.previous, self.seen = previous, 0
        with spread.one_thread():
            self.tokens = unit(tokens).transpose(0, 1).unsqueeze(2).contiguous()
        self.labels = labels.float().transpose(0, 1).unsqueeze(2).contiguous()

    def push(self, tokens: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a frame, tokens [h, w, D] and labels [h, w, C]; the oldest but the first leaves a full queue."""
        if not self.previous:
            return
        with spread.one_thread():
            columns, values = unit(tokens).transpose(0, 1), labels.float().transpose(0, 1)
            if self.seen < self.previous:
                self.tokens = torch.cat([self.tokens, columns.unsqueeze(2)], dim=2)
                self.labels = torch.cat([self.labels, values.unsqueeze(2)], dim=2)
            else:
                slot = 1 + self.seen % self.previous  # where the oldest lies; the order of frames does not matter
                self.tokens[:, :, slot], self.labels[:, :, slot] = columns, values
        self.seen += 1


def carry(target: torch.Tensor, contexts: Contexts, rules: Rules) -> torch.Tensor:
    """Soft labels [h, w, C] of a frame from its tokens [h, w, D] and its contexts.

    a = exp(cosine / temperature) where |source - target| <= radius in both directions; below the topk-th largest of a
    target's a it becomes 0 (equal ones stay), the rest are divided by their sum and weigh the sources' labels.
    """
    h, w, _ = target.shape
    found = torch.empty(h, w, contexts.labels.shape[3], device=target.device, dtype=contexts.labels.dtype)
    tile, step = _block_size(target, contexts, rules)

    def work(corner: tuple[int, int]) -> None:
        rows, columns = (slice(at, at + size) for at, size in zip(corner, (tile, step), strict=True))
        block = _Block(unit(target[rows, columns]).transpose(0, 1).contiguous(), contexts, rules, *corner)
        found[rows, columns] = block.labels().transpose(0, 1)

    corners = itertools.product(range(0, h, tile), range(0, w, step))
    with _plain_products(target.device):
        spread.each(work, corners, target.device)
    return found


def _block_size(target: torch.Tensor, contexts: Contexts, rules: Rules) -> tuple[int, int]:
    """(rows, columns) of targets at a time; the last blocks of a frame may be smaller."""
    h, w, _ = target.shape
    tiles = math.ceil(h / rules.tile)
    tile = math.ceil(h / tiles)
    num_frames, span = contexts.tokens.shape[2], 2 * rules.radius + 1
    held = min(h, tile + 2 * rules.radius) * num_frames * tile * min(span, w) * contexts.tokens.element_size()
    step = max(1, min(w, (rules.scratch or SCRATCH.get(target.device.type, SCRATCH["cpu"])) // held))
    threads = torch.get_num_threads() if target.is_cpu else 1
    if threads > 1:
        step = min(step, max(NARROW, math.ceil(w * tiles / (PIECES * threads))))
    return tile, math.ceil(w / math.ceil(w / step))


@contextmanager
def _plain_products(device: torch.device) -> Iterator[None]:
    """Products inside are of float32 numbers as they are, as `doubt` has it: not rounded to TF32 or bfloat16 first."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Block:
    """Targets of a few rows and columns, and their similarities to all that lies in their windows.

    Similarities [c, O, R * S, t]: target column, source column counted from the left of its window, source row and
    frame, target row. Their largest over O comes first, which is cheap: a target's best neighbours can only lie
    in the (source row, frame) groups whose largest is best.
    """

    def __init__(self, targets: torch.Tensor, contexts: Contexts, rules: Rules, top: int, left: int) -> None:
        """Of unit tokens [c, t, D] of which the first is that of row `top` and column `left`."""
        self.rules, self.contexts, self.targets, device = rules, contexts, targets, targets.device
        self.width, self.height, self.num_frames, dim = contexts.tokens.shape
        num, bottom = len(targets), top + targets.shape[1]
        self.first_row, self.last_row = max(0, top - rules.radius), min(self.height, bottom + rules.radius)
        self.groups = (self.last_row - self.first_row) * self.num_frames
        self.span, self.left = 2 * rules.radius + 1, left
        # Windows lie side by side in memory, each one column further: one product makes all. Columns that the frame
        # does not have are zeros there, and masked.
        right = left + num
        sources = contexts.tokens[max(0, left - rules.radius) : right + rules.radius, self.first_row : self.last_row]
        before, after = max(0, rules.radius - left), max(0, right + rules.radius - self.width)
        self.sources = F.pad(sources, (0, 0, 0, 0, 0, 0, before, after)).contiguous()  # [c + 2 * radius, R, S, D]
        step = self.groups * dim
        windows = self.sources.as_strided((num, self.span * self.groups, dim), (step, dim, 1))
        self.similarity = torch.bmm(windows, targets.mT).view(num, self.span, self.groups, -1)
        column = torch.arange(left, right, device=device)[:, None]
        column = column + torch.arange(-rules.radius, rules.radius + 1, device=device)  # [c, O]
        missing = (column < 0) | (column >= self.width)
        for part in (slice(0, before), slice(max(before, num - after), None)):
            self.similarity[part].masked_fill_(missing[part, :, None, None], -torch.inf)
        rows = torch.arange(self.first_row, self.last_row, device=device)
        far = (rows[:, None] - torch.arange(top, bottom, device=device)).abs() > rules.radius  # [R, t]
        self.far = far.repeat_interleave(self.num_frames, dim=0)  # [R * S, t]
        self.maxima = self.similarity.amax(dim=1).masked_fill_(self.far, -torch.inf)  # [c, R * S, t]
        self.equals: torch.Tensor | None = None

    def labels(self) -> torch.Tensor:
        """Soft labels [c, t, C] of the targets."""
        k = self.rules.topk
        best, group = self.maxima.transpose(1, 2).topk(min(k + 1, self.groups), dim=2)  # [c, t, k + 1]
        kept, missed = group[..., :k], best[..., k:]
        index = kept.transpose(1, 2).unsqueeze(1).expand(-1, self.span, -1, -1)
        values = self.similarity.gather(2, index).permute(0, 3, 1, 2)  # [c, t, O, k]
        values = values.masked_fill(best[:, :, None, :k] == -torch.inf, -torch.inf).flatten(2)  # [c, t, O * k]
        top, at = values.topk(min(k + 1, values.shape[2]), dim=2)
        last = top[..., min(k, top.shape[2]) - 1 :][..., :1]  # -inf where the window holds fewer than k
        limit = last - (2 * doubt(self.targets.shape[2]) + 2.0**-23)  # 2^-23: of this difference itself
        open_ = ((torch.cat([missed, top[..., k:]], dim=2) >= limit) & (last > -torch.inf)).any(dim=2)  # [c, t]
        top, at = top[..., :k], at[..., :k]
        offset, which = at // kept.shape[2], at % kept.shape[2]
        column = torch.arange(len(at), device=at.device)[:, None, None] + offset
        source = (column * self.groups + kept.gather(2, which)).flatten(0, 1)  # among the block's, [c * t, k]
        source = source.masked_fill_(top.flatten(0, 1) == -torch.inf, NOWHERE).sort(dim=1).values
        found = self._weighed(source, self._exact(source)).view(*at.shape[:2], -1)
        for c in open_.any(dim=1).nonzero().flatten().tolist():
            one = open_[c].nonzero().flatten()
            found[c, one] = self._decided(c, one, limit[c, one, 0])
        return found

    def _decided(self, c: int, one: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
        """Soft labels [n, C] of a column's targets `one` [n], from all sources whose product is at least `limit`."""
        k, device = self.rules.topk, one.device
        near = self.similarity[c].index_select(2, one).permute(2, 0, 1)  # [n, O, R * S]
        near = (near >= limit[:, None, None]) & ~self.far[:, one].mT[:, None]
        which, offset, group = near.nonzero().unbind(1)  # by target, then as sources lie
        source = (c + offset) * self.groups + group
        similarity = self._similar(which, c * self.targets.shape[1] + one, source)

        def rows(values: torch.Tensor, fill: float) -> torch.Tensor:
            """[n, most of a target], filled up at the end, from one value for each of `which`."""
            counts = which.bincount(minlength=len(one))
            place = torch.arange(len(which), device=device) - (counts.cumsum(0) - counts)[which]
            dense = torch.full((len(one), int(counts.max())), fill, device=device, dtype=values.dtype)
            dense[which, place] = values
            return dense

        threshold = rows(similarity, -torch.inf).topk(k, dim=1).values[:, -1]
        stays = similarity >= threshold[which]
        which, source, similarity = which[stays], source[stays], similarity[stays]
        return self._weighed(rows(source, NOWHERE), rows(similarity, -torch.inf))

    def _weighed(self, source: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
        """Soft labels [n, C] from ascending sources [n, m] and their similarities, NOWHERE and -inf at the end."""
        flat = self.contexts.labels.flatten(0, 2)  # [w * h * S, C]
        weights = ((similarity - similarity.amax(dim=1, keepdim=True)) / self.rules.temperature).exp_()
        weights /= fixed_order.dot(weights, torch.ones_like(weights[:1])).unsqueeze(1)
        source = source.clamp(max=len(self.sources) * self.groups - 1)
        column = (self.left - self.rules.radius + source // self.groups).clamp_(0, self.width - 1)
        source = (column * self.height + self.first_row) * self.num_frames + source % self.groups
        size = max(1, PRODUCTS // (source.shape[1] * flat.shape[1]))
        parts = zip(weights.split(size), source.split(size), strict=True)
        return torch.cat([fixed_order.dot(a.unsqueeze(1), flat[at].mT) for a, at in parts]).float()

    def _exact(self, source: torch.Tensor) -> torch.Tensor:
        """Similarities [c * t, m] of all targets to their sources [c * t, m], -inf where that is NOWHERE."""
        targets, sources = self.targets.flatten(0, 1).unsqueeze(1), self.sources.flatten(0, 2)
        away = source == NOWHERE
        size = max(1, PRODUCTS // (source.shape[1] * targets.shape[2]))
        pairs = zip(targets.split(size), source.masked_fill(away, 0).split(size), strict=True)
        found = torch.cat([fixed_order.dot(some, sources[at]) for some, at in pairs])
        return found.masked_fill_(away, -torch.inf)

    def _similar(self, which: torch.Tensor, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Similarities [p] of the targets target[which] to the sources [p]; of equal sources one is worked out."""
        if len(source) < MANY:
            return self._products(target[which], source)
        if self.equals is None:
            self.equals = first_equal(self.sources.flatten(0, 2))
        num = len(self.equals)
        pair = which * num + self.equals[source]
        wanted = torch.zeros(len(target) * num, device=pair.device, dtype=torch.bool)
        wanted[pair] = True
        wanted = wanted.nonzero().flatten()
        found = torch.empty(len(target) * num, device=pair.device, dtype=torch.float64)
        found[wanted] = self._products(target[wanted // num], wanted % num)
        return found[pair]

    def _products(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Dot products [p], float64, of the targets and sources that two lists [p] name."""
        targets, sources = self.targets.flatten(0, 1), self.sources.flatten(0, 2)
        size = max(1, PRODUCTS // targets.shape[1])
        pairs = zip(target.split(size), source.split(size), strict=True)
        return torch.cat([fixed_order.dot(targets[i], sources[j]) for i, j in pairs])
