"""Small stand-ins for what the documents' commands name: nets of kilobytes, and datasets in the official layouts."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from family_files import FILES, GOLDEN, path_of
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from transfer_trees import dtd

from evaltk.datasets import cifar10

NETS = GOLDEN.parent
TRAINED = (  # settings that make a training one of seconds
    "net.arch=vit_patch8_dim32_depth1_heads2_img16", "method.num_prototypes=16", "method.hidden=16",
    "method.bottleneck=8", "views.global_size=16", "views.local_size=8", "optim.batch=30", "optim.epochs=2",
    "optim.warmup_epochs=0", "method.teacher_temp_warmup=0", "net.drop_path=0", "run.knn=100", "run.keep_every=1",
    "run.workers=0", "run.precision=fp32",
)  # fmt: skip
FAMILIES = {  # how a catalogued name begins: the file of that layout
    "beitv2_": "beit2_pt", "clip_": "clip_vit_half", "deit_": "deit", "dinov2_": "dinov2_pretrain",
    "dinov3_": "dinov3_vit", "esvit_": "esvit_swin", "hf:facebook/dinov2": "hf_dinov2", "ijepa_": "ijepa",
    "mae_": "mae_pretrain", "mocov2_": "mocov2_resnet50", "mocov3_": "mocov3_vit", "timm:": "timm_hub",
}  # fmt: skip
OWN = {"dino_": "dino_p16_full_checkpoint.pth", "ibot_": "ibot_checkpoint.pth", "msn_": "msn_checkpoint.pth.tar"}


def net(word: str, folder: Path) -> tuple[str, dict[str, object]] | None:
    """(a file in the layout of a catalogued name, what must be said of it); None for any other word."""
    for start, name in OWN.items():
        if word.startswith(start) and not word.endswith(".pth"):
            return str(NETS / name), {"num_heads": 3}
    for start, name in FAMILIES.items():
        if word.startswith(start):
            return str(path_of(name, folder / name)), FILES[name][1]
    return None


def flat(path: Path, heads: int) -> None:
    """A flat state dict of timm's names, which tells neither heads, epsilon nor pixel statistics."""
    torch.manual_seed(0)
    made = VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=heads, num_classes=0)
    if path.suffix == ".safetensors":
        save_file(made.state_dict(), path)
    else:
        torch.save(made.state_dict(), path)


def noise(path: Path, size: tuple[int, int] = (20, 16)) -> None:
    """An image that its place decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(zlib.crc32("/".join(path.parts[-4:]).encode()))
    Image.fromarray(draw.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)


def classes(root: Path, counts: dict[str, int], names: list[str], ending: str = "jpg") -> None:
    """`root/SPLIT/CLASS/N.jpg`."""
    for split, count in counts.items():
        for name in names:
            for number in range(count):
                noise(root / split / name / f"{number}.{ending}")


WNIDS = [f"n{number:08d}" for number in range(1000)]


def imagenet(root: Path) -> None:
    classes(root, {"train": 2, "val": 1}, WNIDS)


def corrupted(root: Path) -> None:
    kinds = (
        "brightness contrast defocus_blur elastic_transform fog frost gaussian_noise glass_blur impulse_noise "
        "jpeg_compression motion_blur pixelate shot_noise snow zoom_blur"
    )
    for kind in kinds.split():
        for severity in range(1, 6):
            classes(root / kind, {str(severity): 1}, WNIDS[:2])


def paris(root: Path) -> None:
    names = [f"paris_{number}" for number in range(14)], [f"query_{number}" for number in range(3)]
    for name in (*names[0], *names[1]):
        noise(root / "jpg" / f"{name}.jpg", (60, 48))
    truth = [
        {"bbx": (4.0, 4.0, 50.0, 40.0), "easy": [q, q + 5], "hard": [q + 3], "junk": [q + 8, q + 9]} for q in range(3)
    ]
    with (root / "gnd_rparis6k.pkl").open("wb") as stream:
        pickle.dump({"imlist": names[0], "qimlist": names[1], "gnd": truth}, stream, protocol=2)


def davis(root: Path) -> None:
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("ball\n")
    for number in range(3):
        noise(root / "JPEGImages" / "480p" / "ball" / f"{number:05d}.jpg", (64, 48))
        mask = np.zeros((48, 64), dtype=np.uint8)
        mask[10:30, 10 + number : 30 + number] = 1
        labels(root / "Annotations" / "480p" / "ball" / f"{number:05d}.png", mask)


def labels(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask, mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(path)


def ade(root: Path) -> None:
    for split in ("training", "validation"):
        for number in range(4):
            noise(root / "images" / split / f"{number}.jpg", (64, 48))
            labels(root / "annotations" / split / f"{number}.png", masked(3))


def own_masks(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "classes.txt").write_text("ground\nleaf\nstem\n")
    for split in ("train", "test"):
        for number in range(4):
            noise(root / split / "images" / f"{number}.png", (64, 48))
            labels(root / split / "masks" / f"{number}.png", masked(3) - 1)


def masked(count: int) -> np.ndarray:
    """Classes 1 to `count` in stripes, [48, 64]."""
    return np.repeat(np.arange(1, count + 1, dtype=np.uint8)[None], 48, axis=0).repeat(22, axis=1)[:, :64]


DATA: dict[str, Callable[[Path], None]] = {
    "imagenet": imagenet,
    "imagenet-a": lambda root: classes(root, {".": 2}, WNIDS[:5]),
    "imagenet-r": lambda root: classes(root, {".": 2}, WNIDS[2:8]),
    "sketch": lambda root: classes(root, {".": 1}, WNIDS),
    "imagenetv2": lambda root: classes(root, {".": 1}, [str(number) for number in range(1000)]),
    "imagenet-c": corrupted,
    "cifar10": lambda root: classes(root, {"train": 6, "test": 3}, list(cifar10.CLASSES)),
    "photos": lambda root: classes(root, {"train": 20, "test": 6}, ["cat", "dog"]),
    "dtd": lambda root: dtd(root.parent),
    "rparis6k": paris,
    "DAVIS": davis,
    "ADEChallengeData2016": ade,
    "leaves": own_masks,
    "davis_fg": own_masks,
}
