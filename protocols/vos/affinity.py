"""Label propagation by windowed token affinity, blockwise and exact.

A token receives the labels of its most similar tokens within a window of the context frames. Similarities outside the
window are never computed, and those inside only for one block of targets at a time.

The rounding of a matrix product depends on processor and block shape and may make equal tokens differ, so it only
selects candidates; the similarities that decide or weigh are recomputed in a fixed order.
Source: dino/eval_video_segmentation.py:85-150 at 7c446df.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from evaltk import fixed_order, precise, spread
from protocols.vos.unit_tokens import PRODUCTS, doubt, first_equal, unit

SCRATCH = {"cpu": 9 << 20, "cuda": 256 << 20}  # bytes of similarities per thread; does not affect results
TILE = 20  # most target rows per block: more are faster per product, but waste work on rows outside the window
PIECES, NARROW = 4, 8  # blocks per thread, for load balance; least target columns per block
MANY = 1024  # number of token pairs above which deduplicating them pays off
NOWHERE = torch.iinfo(torch.int64).max  # index of a missing neighbour


@dataclass(frozen=True, slots=True, kw_only=True)
class AffinityConfig:
    """Weights of context tokens.

    Attributes:
        radius: of the square window, in tokens (12: 25 x 25). topk: neighbours kept, plus ties with the last one.
        temperature: the weight of a neighbour is exp(cosine / temperature).
        scratch: bytes of similarities per thread; None: by device. tile: most target rows per block.
    """

    radius: int = 12
    topk: int = 5
    temperature: float = 0.1
    scratch: int | None = None
    tile: int = TILE


class Contexts:
    """Context frames, the first and a queue of the last few: unit tokens [w, h, S, D] and soft labels [w, h, S, C].

    The axes are (column, row, frame, channel), so that a window over all frames is contiguous per column.
    """

    def __init__(self, tokens: torch.Tensor, labels: torch.Tensor, *, previous: int) -> None:
        """Start with the first frame: tokens [h, w, D], labels [h, w, C]; up to `previous` later frames are kept."""
        self.previous, self.seen = previous, 0
        with spread.one_thread():
            self.tokens = unit(tokens).transpose(0, 1).unsqueeze(2).contiguous()
        self.labels = labels.float().transpose(0, 1).unsqueeze(2).contiguous()

    def push(self, tokens: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a frame, tokens [h, w, D] and labels [h, w, C]; a full queue drops its oldest frame but the first."""
        if not self.previous:
            return
        with spread.one_thread():
            columns, values = unit(tokens).transpose(0, 1), labels.float().transpose(0, 1)
            if self.seen < self.previous:
                self.tokens = torch.cat([self.tokens, columns.unsqueeze(2)], dim=2)
                self.labels = torch.cat([self.labels, values.unsqueeze(2)], dim=2)
            else:
                slot = 1 + self.seen % self.previous  # of the oldest; the order of frames does not matter
                self.tokens[:, :, slot], self.labels[:, :, slot] = columns, values
        self.seen += 1


def propagate_labels(target: torch.Tensor, contexts: Contexts, config: AffinityConfig) -> torch.Tensor:
    """Soft labels [h, w, C] of a frame from its tokens [h, w, D] and its contexts.

    a = exp(cosine / temperature) where |source - target| <= radius in both directions. Values below the topk-th largest
    of a target are set to 0 (ties stay); the others, divided by their sum, weigh the sources' labels.
    """
    h, w, _ = target.shape
    soft = torch.empty(h, w, contexts.labels.shape[3], device=target.device, dtype=contexts.labels.dtype)
    tile, step = _block_size(target, contexts, config)

    def work(corner: tuple[int, int]) -> None:
        rows, columns = (slice(at, at + size) for at, size in zip(corner, (tile, step), strict=True))
        block = _Block(unit(target[rows, columns]).transpose(0, 1).contiguous(), contexts, config, *corner)
        soft[rows, columns] = block.labels().transpose(0, 1)

    corners = itertools.product(range(0, h, tile), range(0, w, step))
    with precise.products(target.device):
        spread.each(work, corners, target.device)
    return soft


def _block_size(target: torch.Tensor, contexts: Contexts, config: AffinityConfig) -> tuple[int, int]:
    """(rows, columns) of a block of targets; the last blocks of a frame may be smaller."""
    h, w, _ = target.shape
    tiles = math.ceil(h / config.tile)
    tile = math.ceil(h / tiles)
    num_frames, span = contexts.tokens.shape[2], 2 * config.radius + 1
    column_bytes = min(h, tile + 2 * config.radius) * num_frames * tile * min(span, w) * contexts.tokens.element_size()
    step = max(1, min(w, (config.scratch or SCRATCH.get(target.device.type, SCRATCH["cpu"])) // column_bytes))
    threads = torch.get_num_threads() if target.is_cpu else 1
    if threads > 1:
        step = min(step, max(NARROW, math.ceil(w * tiles / (PIECES * threads))))
    return tile, math.ceil(w / math.ceil(w / step))


class _Block:
    """A block of targets (a few rows and columns) and their similarities to all tokens in their windows.

    Similarities [c, O, R * S, t]: target column, source column from the left of its window, source row and frame,
    target row. Their maximum over O is computed first: a target's best neighbours can only be in the (source row,
    frame) groups with the highest maxima.
    """

    def __init__(self, targets: torch.Tensor, contexts: Contexts, config: AffinityConfig, top: int, left: int) -> None:
        """targets: unit tokens [c, t, D], the first of which is at row `top` and column `left`."""
        self.config, self.contexts, self.targets, device = config, contexts, targets, targets.device
        self.width, self.height, self.num_frames, dim = contexts.tokens.shape
        num, bottom = len(targets), top + targets.shape[1]
        self.first_row, self.last_row = max(0, top - config.radius), min(self.height, bottom + config.radius)
        self.groups = (self.last_row - self.first_row) * self.num_frames
        self.span, self.left = 2 * config.radius + 1, left
        # Consecutive windows overlap in memory, each one column further, so one batched product computes all of them.
        # Columns outside the frame are zero-padded and masked.
        right = left + num
        sources = contexts.tokens[max(0, left - config.radius) : right + config.radius, self.first_row : self.last_row]
        before, after = max(0, config.radius - left), max(0, right + config.radius - self.width)
        self.sources = F.pad(sources, (0, 0, 0, 0, 0, 0, before, after)).contiguous()  # [c + 2 * radius, R, S, D]
        step = self.groups * dim
        windows = self.sources.as_strided((num, self.span * self.groups, dim), (step, dim, 1))
        self.similarity = torch.bmm(windows, targets.mT).view(num, self.span, self.groups, -1)
        column = torch.arange(left, right, device=device)[:, None]
        column = column + torch.arange(-config.radius, config.radius + 1, device=device)  # [c, O]
        missing = (column < 0) | (column >= self.width)
        for edge in (slice(0, before), slice(max(before, num - after), None)):
            self.similarity[edge].masked_fill_(missing[edge, :, None, None], -torch.inf)
        rows = torch.arange(self.first_row, self.last_row, device=device)
        far = (rows[:, None] - torch.arange(top, bottom, device=device)).abs() > config.radius  # [R, t]
        self.far = far.repeat_interleave(self.num_frames, dim=0)  # [R * S, t]
        self.maxima = self.similarity.amax(dim=1).masked_fill_(self.far, -torch.inf)  # [c, R * S, t]
        self.equals: torch.Tensor | None = None

    def labels(self) -> torch.Tensor:
        """Soft labels [c, t, C] of the targets."""
        k = self.config.topk
        best, group = self.maxima.transpose(1, 2).topk(min(k + 1, self.groups), dim=2)  # [c, t, k + 1]
        kept, missed = group[..., :k], best[..., k:]
        index = kept.transpose(1, 2).unsqueeze(1).expand(-1, self.span, -1, -1)
        values = self.similarity.gather(2, index).permute(0, 3, 1, 2)  # [c, t, O, k]
        values = values.masked_fill(best[:, :, None, :k] == -torch.inf, -torch.inf).flatten(2)  # [c, t, O * k]
        top, at = values.topk(min(k + 1, values.shape[2]), dim=2)
        last = top[..., min(k, top.shape[2]) - 1 :][..., :1]  # -inf where the window has fewer than k tokens
        limit = last - (2 * doubt(self.targets.shape[2]) + 2.0**-23)  # 2^-23: rounding of this difference
        open_ = ((torch.cat([missed, top[..., k:]], dim=2) >= limit) & (last > -torch.inf)).any(dim=2)  # [c, t]
        top, at = top[..., :k], at[..., :k]
        offset, which = at // kept.shape[2], at % kept.shape[2]
        column = torch.arange(len(at), device=at.device)[:, None, None] + offset
        source = (column * self.groups + kept.gather(2, which)).flatten(
            0, 1
        )  # index into the block's sources [c * t, k]
        source = source.masked_fill_(top.flatten(0, 1) == -torch.inf, NOWHERE).sort(dim=1).values
        soft = self._weighed(source, self._exact(source)).view(*at.shape[:2], -1)
        for c in open_.any(dim=1).nonzero().flatten().tolist():
            subset = open_[c].nonzero().flatten()
            soft[c, subset] = self._resolve(c, subset, limit[c, subset, 0])
        return soft

    def _resolve(self, c: int, subset: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
        """Soft labels [n, C] of targets `subset` [n] of column c, from all sources with a product of at least `limit`.

        For targets whose top k are not certain from the products.
        """
        k, device = self.config.topk, subset.device
        near = self.similarity[c].index_select(2, subset).permute(2, 0, 1)  # [n, O, R * S]
        near = (near >= limit[:, None, None]) & ~self.far[:, subset].mT[:, None]
        which, offset, group = near.nonzero().unbind(1)  # sorted by target, then source
        source = (c + offset) * self.groups + group
        similarity = self._similar(which, c * self.targets.shape[1] + subset, source)

        def rows(values: torch.Tensor, fill: float) -> torch.Tensor:
            """[n, most values of a target], padded with `fill`, from one value per element of `which`."""
            counts = which.bincount(minlength=len(subset))
            slot = torch.arange(len(which), device=device) - (counts.cumsum(0) - counts)[which]
            dense = torch.full((len(subset), int(counts.max())), fill, device=device, dtype=values.dtype)
            dense[which, slot] = values
            return dense

        threshold = rows(similarity, -torch.inf).topk(k, dim=1).values[:, -1]
        stays = similarity >= threshold[which]
        which, source, similarity = which[stays], source[stays], similarity[stays]
        return self._weighed(rows(source, NOWHERE), rows(similarity, -torch.inf))

    def _weighed(self, source: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
        """Soft labels [n, C] from ascending sources [n, m] and their similarities, padded with NOWHERE and -inf."""
        flat = self.contexts.labels.flatten(0, 2)  # [w * h * S, C]
        weights = ((similarity - similarity.amax(dim=1, keepdim=True)) / self.config.temperature).exp_()
        weights /= fixed_order.dot(weights, torch.ones_like(weights[:1])).unsqueeze(1)
        source = source.clamp(max=len(self.sources) * self.groups - 1)
        column = (self.left - self.config.radius + source // self.groups).clamp_(0, self.width - 1)
        source = (column * self.height + self.first_row) * self.num_frames + source % self.groups
        size = max(1, PRODUCTS // (source.shape[1] * flat.shape[1]))
        parts = zip(weights.split(size), source.split(size), strict=True)
        return torch.cat([fixed_order.dot(a.unsqueeze(1), flat[at].mT) for a, at in parts]).float()

    def _exact(self, source: torch.Tensor) -> torch.Tensor:
        """Similarities [c * t, m] of all targets to their sources [c * t, m], -inf where these are NOWHERE."""
        targets, sources = self.targets.flatten(0, 1).unsqueeze(1), self.sources.flatten(0, 2)
        missing = source == NOWHERE
        size = max(1, PRODUCTS // (source.shape[1] * targets.shape[2]))
        pairs = zip(targets.split(size), source.masked_fill(missing, 0).split(size), strict=True)
        similarity = torch.cat([fixed_order.dot(target, sources[at]) for target, at in pairs])
        return similarity.masked_fill_(missing, -torch.inf)

    def _similar(self, which: torch.Tensor, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Similarities [p] of targets target[which] to sources [p], computed once per group of equal sources."""
        if len(source) < MANY:
            return self._products(target[which], source)
        if self.equals is None:
            self.equals = first_equal(self.sources.flatten(0, 2))
        num = len(self.equals)
        pair = which * num + self.equals[source]
        wanted = torch.zeros(len(target) * num, device=pair.device, dtype=torch.bool)
        wanted[pair] = True
        wanted = wanted.nonzero().flatten()
        similarity = torch.empty(len(target) * num, device=pair.device, dtype=torch.float64)
        similarity[wanted] = self._products(target[wanted // num], wanted % num)
        return similarity[pair]

    def _products(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Dot products [p] float64 of pairs of target and source indices [p]."""
        targets, sources = self.targets.flatten(0, 1), self.sources.flatten(0, 2)
        size = max(1, PRODUCTS // targets.shape[1])
        pairs = zip(target.split(size), source.split(size), strict=True)
        return torch.cat([fixed_order.dot(targets[i], sources[j]) for i, j in pairs])
