"""Labels carried along a video by the likeness of tokens: windowed, a block of tokens at a time, exact.

A token takes the labels of its most similar tokens within a window of the context frames. Similarities outside the
window are never made, and those inside exist for one block of targets at a time.
Source: dino/eval_video_segmentation.py:85-150 at 7c446df.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

SCRATCH = {"cpu": 9 << 20, "cuda": 256 << 20}  # bytes of similarities at a time; it changes no result
TILE = 20  # target rows at a time at most: more make better products, fewer waste less on rows outside the window


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a token looks at.

    Attributes:
        radius: of the square window, in tokens (12: 25 x 25). topk: neighbours kept; those equal to the last stay too.
        temperature: a neighbour weighs exp(cosine / temperature).
        scratch: bytes of similarities held at a time, None: by the device. tile: target rows a block at most.
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
        self.tokens = F.normalize(tokens, dim=2).transpose(0, 1).unsqueeze(2).contiguous()
        self.labels = labels.to(tokens.dtype).transpose(0, 1).unsqueeze(2).contiguous()

    def push(self, tokens: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a frame, tokens [h, w, D] and labels [h, w, C]; the oldest but the first leaves a full queue."""
        if not self.previous:
            return
        columns, values = F.normalize(tokens, dim=2).transpose(0, 1), labels.transpose(0, 1)
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
    columns = F.normalize(target, dim=2).transpose(0, 1).contiguous()  # [w, h, D]
    found = torch.empty(w, h, contexts.labels.shape[3], device=target.device, dtype=contexts.labels.dtype)
    tile = math.ceil(h / math.ceil(h / rules.tile))
    num_frames, span = contexts.tokens.shape[2], 2 * rules.radius + 1
    held = min(h, tile + 2 * rules.radius) * num_frames * tile * min(span, w) * target.element_size()
    scratch = rules.scratch or SCRATCH.get(target.device.type, SCRATCH["cpu"])
    step = max(1, min(w, scratch // held))
    for top in range(0, h, tile):
        for left in range(0, w, step):
            block = _Block(columns, contexts, rules, top, min(top + tile, h), left, min(left + step, w))
            found[left : left + step, top : top + tile] = block.labels()
    return found.transpose(0, 1).contiguous()


class _Block:
    """Targets of a few rows and columns, and their similarities to all that lies in their windows.

    Similarities [c, O, R * S, t]: target column, source column counted from the left of its window, source row and
    frame, target row. Their largest over O comes first, which is cheap: a target's best neighbours can only lie
    in the (source row, frame) groups whose largest is best.
    """

    def __init__(
        self, columns: torch.Tensor, contexts: Contexts, rules: Rules, top: int, bottom: int, left: int, right: int
    ) -> None:
        self.rules, self.contexts = rules, contexts
        self.width, self.height, self.num_frames, _ = contexts.tokens.shape
        self.first_row = max(0, top - rules.radius)
        last_row = min(self.height, bottom + rules.radius)
        self.groups = (last_row - self.first_row) * self.num_frames
        self.span, self.left = 2 * rules.radius + 1, left
        # Windows lie side by side in memory, each one column further: one product makes all. Columns that the frame
        # does not have are zeros there, and masked.
        sources = contexts.tokens[max(0, left - rules.radius) : right + rules.radius, self.first_row : last_row]
        before, after = max(0, rules.radius - left), max(0, right + rules.radius - self.width)
        sources = F.pad(sources, (0, 0, 0, 0, 0, 0, before, after)).contiguous()  # [c + 2 * radius, R, S, D]
        num, dim = right - left, sources.shape[3]
        step = self.groups * dim
        windows = sources.as_strided((num, self.span * self.groups, dim), (step, dim, 1))
        similarity = torch.bmm(windows, columns[left:right, top:bottom].mT)
        self.similarity = similarity.view(num, self.span, self.groups, -1)
        column = torch.arange(left, right, device=columns.device)[:, None]
        column = column + torch.arange(-rules.radius, rules.radius + 1, device=columns.device)  # [c, O]
        missing = (column < 0) | (column >= self.width)
        for part in (slice(0, before), slice(max(before, num - after), None)):
            self.similarity[part].masked_fill_(missing[part, :, None, None], -torch.inf)
        rows = torch.arange(self.first_row, last_row, device=columns.device)
        far = (rows[:, None] - torch.arange(top, bottom, device=columns.device)).abs() > rules.radius  # [R, t]
        self.far = far.repeat_interleave(self.num_frames, dim=0)  # [R * S, t]
        self.maxima = self.similarity.amax(dim=1).masked_fill_(self.far, -torch.inf)  # [c, R * S, t]

    def labels(self) -> torch.Tensor:
        """Soft labels [c, t, C] of the targets."""
        k = self.rules.topk
        best, group = self.maxima.transpose(1, 2).topk(min(k + 1, self.groups), dim=2)  # [c, t, k + 1]
        kept, missed = group[..., :k], best[..., k:]
        index = kept.transpose(1, 2).unsqueeze(1).expand(-1, self.span, -1, -1)
        values = self.similarity.gather(2, index).permute(0, 3, 1, 2)  # [c, t, O, k]
        values = values.masked_fill(best[:, :, None, :k] == -torch.inf, -torch.inf).flatten(2)  # [c, t, O * k]
        top, at = values.topk(min(k + 1, values.shape[2]), dim=2)
        threshold = top[..., min(k, top.shape[2]) - 1 :][..., :1]  # -inf where the window holds fewer than k
        beyond = torch.cat([missed, top[..., k:]], dim=2)
        tied = ((beyond == threshold) & (threshold > -torch.inf)).any(dim=2)  # [c, t]: more than k are to be kept
        top, at = top[..., :k], at[..., :k]
        weights = ((top - top[..., :1]) / self.rules.temperature).exp_()
        weights /= weights.sum(dim=2, keepdim=True)
        offset, which = at // kept.shape[2], at % kept.shape[2]
        column = self.left - self.rules.radius + torch.arange(len(at), device=at.device)[:, None, None] + offset
        column = column.clamp(0, self.width - 1)  # a missing one may be among the best of a small window, and weighs 0
        source = column * self.height * self.num_frames + self.first_row * self.num_frames + kept.gather(2, which)
        flat = self.contexts.labels.flatten(0, 2)  # [w * h * S, C]
        found = (flat[source.flatten()].view(*source.shape, -1) * weights.unsqueeze(3)).sum(dim=2)
        if bool(tied.any()):
            self._resolve(found, tied, threshold)
        return found

    def _resolve(self, found: torch.Tensor, tied: torch.Tensor, threshold: torch.Tensor) -> None:
        """Labels of the targets whose last kept neighbour has equals that were left out: from all of the window."""
        last_row = self.first_row + self.groups // self.num_frames
        values = self.contexts.labels[:, self.first_row : last_row].flatten(1, 2)  # [w, R * S, C]
        for c in tied.any(dim=1).nonzero().flatten().tolist():
            first = self.left + c - self.rules.radius
            kept = slice(max(0, first), first + self.span)
            near = self.similarity[c, kept.start - first : self.width - first].masked_fill(self.far, -torch.inf)
            weights = ((near - self.maxima[c].amax(dim=0)) / self.rules.temperature).exp_()  # [O, R * S, t]
            weights.masked_fill_(near < threshold[c, :, 0], 0.0)
            dense = torch.bmm(weights.mT, values[kept]).sum(dim=0) / weights.sum(dim=(0, 1))[:, None]  # [t, C]
            found[c] = torch.where(tied[c, :, None], dense, found[c])
