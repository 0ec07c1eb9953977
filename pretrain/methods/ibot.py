"""iBOT and iBOT-vMF: DINO's loss on [CLS] and, within each global view, the same cross-entropy on masked patches.

iBOT-vMF is the same loss on different scores; as in DINO, scores already divided by their temperature are passed with
temperatures of 1.

Source: ibot main_ibot.py:514-572; Govindarajan et al., ICLR 2023, A.5 (whose L_MIM lacks the logarithm, a misprint).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from evaltk.models.vit import ViT
from evaltk.types import Arch
from pretrain import centering, method, nets, prototypes
from pretrain.data.loader import Batch
from pretrain.data.masks import Masked, masked
from pretrain.data.masks import Settings as MaskSettings
from pretrain.data.views import Views
from pretrain.methods import dino
from pretrain.state import State

_CHUNK_ELEMENTS = 2**24  # 64 MiB of float32 log-probabilities at a time
PATCH_CHUNK = 4096  # rows of patch scores that exist at a time while the patch centre is computed


@dataclass(frozen=True, slots=True, kw_only=True)
class IbotSettings(method.Settings):
    """A recipe's [method] for iBOT.

    Attributes:
        cls_weight, patch_weight: lambda1, lambda2. shared_head: [CLS] and patches share prototypes.
        mask_ratios, mask_half_widths: as in `masks.Settings`.
    """

    cls_weight: float = 1.0
    patch_weight: float = 1.0
    shared_head: bool = True
    mask_ratios: tuple[float, ...] = (0.0, 0.3)
    mask_half_widths: tuple[float, ...] = (0.0, 0.2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loss:
    """total = cls_weight x cls + patch_weight x patch; three scalars, all differentiable."""

    total: Tensor
    cls: Tensor
    patch: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Temperatures and weights of the loss; temperatures are 1 for scores already divided.

    student_temperature: for [CLS] and patches; teacher_temperature, teacher_patch_temperature: in this epoch;
    cls_weight, patch_weight: lambda1, lambda2; num_globals: the teacher's views.

    Raises: SettingsError: a temperature <= 0.
    """

    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    teacher_patch_temperature: float = 0.04
    cls_weight: float = 1.0
    patch_weight: float = 1.0
    num_globals: int = 2

    def __post_init__(self) -> None:
        for name in ("student_temperature", "teacher_temperature", "teacher_patch_temperature"):
            prototypes.check_temperature(getattr(self, name), name)


def loss(
    student_cls: dino.Students,
    teacher_cls: Tensor,
    student_patch: Tensor,
    teacher_patch: Tensor,
    mask: Tensor | Masked,
    center: Tensor,
    patch_center: Tensor,
    *,
    settings: Settings | None = None,
    overwrite: bool = False,
) -> Loss:
    """DINO's loss on [CLS] over different views, plus the masked-patch loss within each global view.

    Args:
        student_cls: scores of all views, masked globals first, [V * B, K], or a sequence of such; as in `dino.loss`.
        teacher_cls: scores of the unmasked globals [num_globals * B, K].
        student_patch: patch scores of the masked globals [num_globals * B, N, K'], or only those of the masked patches
            [M, K'] in the order of `mask`.
        teacher_patch: patch scores of the unmasked globals, in either of the same two layouts.
        mask: bool, True where the student's patch was masked; [num_globals, B, ...] or [num_globals * B, ...], with N
            patches per image. Or the masked patches, which spares asking the device how many there are; then scores
            are [M, K'].
        center, patch_center: the two centres [K], [K'], as they were before this batch.
        settings: temperatures and weights; None for the defaults.
        overwrite: let the backward pass write its gradients over the student's scores (see `dino.loss`).

    Returns: the loss and its two parts, float32 (float64 if the scores are).
    Raises: SettingsError: K < 2. ValueError: mismatched shapes.
    """
    settings = Settings() if settings is None else settings
    cls = dino.loss(
        student_cls,
        teacher_cls,
        center,
        student_temperature=settings.student_temperature,
        teacher_temperature=settings.teacher_temperature,
        num_globals=settings.num_globals,
        overwrite=overwrite,
    )
    patch = patch_loss(
        student_patch,
        teacher_patch,
        mask.reshape(teacher_cls.shape[0], -1) if isinstance(mask, Tensor) else mask,
        patch_center,
        student_temperature=settings.student_temperature,
        teacher_temperature=settings.teacher_patch_temperature,
        overwrite=overwrite,
    )
    return Loss(total=settings.cls_weight * cls + settings.patch_weight * patch, cls=cls, patch=patch)


def patch_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | Masked,
    center: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    chunk_elements: int = _CHUNK_ELEMENTS,
    overwrite: bool = False,
) -> Tensor:
    """Mean over images of the mean cross-entropy over an image's masked patches.

    An image without masked patches contributes 0 to the mean, as in the original.

    Args:
        student: [I, N, K] for I images (of all views) of N patches, or the masked patches alone [M, K].
        teacher: the same patches, unmasked, [I, N, K] or [M, K]; no gradient flows into them.
        mask: bool [I, N], or the masked patches, whose scores alone are given.
        center: the patch centre [K] (or [1, 1, K]).
        student_temperature, teacher_temperature: what the scores are still to be divided by, > 0.
        chunk_elements: how many scores may exist as float32 log-probabilities at a time.
        overwrite: as in `dino.loss`.

    Returns: the loss, scalar; 0, with a gradient of 0, if nothing is masked.
    Raises: SettingsError: a temperature <= 0, or K < 2. ValueError: shapes that do not match the mask.
    """
    if isinstance(mask, Tensor):
        if mask.ndim != 2 or mask.dtype != torch.bool:
            raise ValueError(f"wanted a bool mask [images, patches], got {mask.dtype} {tuple(mask.shape)}")
        student, teacher = _masked_rows(student, mask, "student"), _masked_rows(teacher, mask, "teacher")
        mask = masked(mask)
    targets = dino.teacher_probabilities(teacher, center, temperature=teacher_temperature)
    targets.mul_(mask.weights.to(targets.dtype).unsqueeze(1))
    blocks = targets.split(max(1, chunk_elements // targets.shape[1]))
    return dino.soft_cross_entropy(student, blocks, temperature=student_temperature, overwrite=overwrite)


def _masked_rows(scores: Tensor, mask: Tensor, who: str) -> Tensor:
    """The masked patches' scores [M, K] from [I, N, K], or `scores` itself if it already is that."""
    if scores.ndim == 3 and scores.shape[:2] == mask.shape:
        return scores[mask]
    if scores.ndim == 2 and scores.shape[0] == int(mask.sum()):
        return scores
    wanted = f"{[*mask.shape, 'K']} or {[int(mask.sum()), 'K']}"
    raise ValueError(f"wanted {who} patches {wanted} for this mask, got {tuple(scores.shape)}")


class IbotHead(nets.Head):
    """DINO's head with prototypes for patches: `last_layer2`, which is `last_layer` itself where they are shared.

    Source: ibot models/head.py:145-199.
    """

    def __init__(self, dim: int, settings: IbotSettings) -> None:
        m = settings
        super().__init__(dim, m.hidden, m.bottleneck, m.num_prototypes, m.scoring)
        self.last_layer2 = (
            self.last_layer if m.shared_head else prototypes.PrototypeLayer(m.bottleneck, m.num_prototypes, m.scoring)
        )

    def patch_scores(self, y: Tensor, temperature: float) -> Tensor:
        """Scores [..., K] of patches' y [..., p], divided by the temperature, float32."""
        return self.last_layer2(y, temperature=temperature)


class Ibot(method.Method[IbotSettings]):
    """iBOT and iBOT-vMF."""

    name = "ibot"
    settings = IbotSettings
    layout = "ibot"
    center_keys: ClassVar = {"cls": ("center", (1, -1)), "patch": ("center2", (1, 1, -1))}

    def rules(self, settings: IbotSettings, views: Views) -> Iterable[method.Rule]:
        """Both global views are masked, and compared with each other."""
        return [*super().rules(settings, views), (views.num_global == 2, "views.num_global = 2", views.num_global)]

    def masks(self, settings: IbotSettings) -> MaskSettings:
        """Block masks."""
        return MaskSettings(ratios=settings.mask_ratios, half_widths=settings.mask_half_widths)

    def network(self, arch: Arch, settings: IbotSettings, *, drop_path: float) -> nets.Network:
        """A ViT with a mask token, and iBOT's head."""
        return nets.Network(ViT(arch, drop_path=drop_path), IbotHead(arch.embed_dim, settings), masked=True)

    def loss(self, batch: Batch, state: State[IbotSettings]) -> method.LossOutput:
        """DINO's loss on [CLS], and the same between the student's masked patches and the teacher's unmasked ones."""
        m, mask, hidden = state.settings, batch.mask, batch.masked  # [2 B, h, w]
        assert mask is not None
        assert hidden is not None
        student_temps, teacher_temps = dino.temperatures(m, state.position.epoch)
        head, teacher_head = state.network.head, state.teacher.head
        with torch.no_grad():
            seen = state.teacher(batch.views[: batch.num_global], patches="all")
            teacher_cls = teacher_head.scores(seen["cls"], teacher_temps.scores)
            teacher_patch = teacher_head.patch_scores(seen["patch"].index_select(0, hidden.rows), teacher_temps.scores)
            patch_sums = state.sums.get("patch")
            for y in seen["patch"].split(PATCH_CHUNK):
                scores = teacher_head.patch_scores(y, teacher_temps.scores)
                patch_sums = centering.accumulate(scores, kind=m.centering, previous=patch_sums)
        assert patch_sums is not None
        cls_sums = centering.accumulate(teacher_cls, kind=m.centering, previous=state.sums.get("cls"))
        outputs = state.student(batch.views, mask=mask, patches=hidden.rows)
        result = loss(
            head.scores(outputs["cls"], student_temps.scores),
            teacher_cls,
            head.patch_scores(outputs["patch"], student_temps.scores),
            teacher_patch,
            hidden,
            state.centers["cls"],
            state.centers["patch"],
            settings=Settings(
                student_temperature=student_temps.loss,
                teacher_temperature=teacher_temps.loss,
                teacher_patch_temperature=teacher_temps.loss,
                cls_weight=m.cls_weight,
                patch_weight=m.patch_weight,
                num_globals=batch.num_global,
            ),
            overwrite=True,
        )
        return method.LossOutput(
            loss=result.total,
            parts={"loss_cls": result.cls.detach(), "loss_patch": result.patch.detach()},
            sums={"cls": cls_sums, "patch": patch_sums},
            teacher=teacher_cls,
            temperature=teacher_temps.loss,
        )

    def file_key(self, key: str, branch: Literal["student", "teacher"]) -> str | None:
        """The mask token is the student's `masked_embed`; iBOT's teacher has none."""
        if key == "backbone.mask_token":
            return "backbone.masked_embed" if branch == "student" else None
        return key


METHOD = Ibot()
