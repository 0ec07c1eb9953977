"""Parsers of checkpoints, heads, hub folders and the catalogue, and of what a training reads back."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutation
from making import Make, Parser, as_json, changed, either, mutated

GOLDEN = Path(__file__).parents[1] / "golden"
RECIPES = Path(__file__).parents[2] / "pretrain" / "recipes"


def checkpoints(suffix: str, files: tuple[str, ...]) -> Callable[[str, Path], Parser]:
    def build(name: str, folder: Path) -> Parser:
        from evaltk.checkpoints.load import load
        from evaltk.checkpoints.read_options import ReadOptions

        sound = [(GOLDEN / "families" / file).read_bytes() for file in files]
        options = ReadOptions(num_heads=2, norm_eps=1e-6, mean=(0.5,) * 3, std=(0.5,) * 3)
        return Parser(name=name, make=mutated(*sound), read=lambda path: load(path, options), suffix=suffix)

    return build


def legacy(name: str, folder: Path) -> Parser:
    import torch

    from evaltk.checkpoints.load import load
    from evaltk.checkpoints.read_options import ReadOptions

    stream = io.BytesIO()
    tree = torch.load(GOLDEN / "families" / "deit_checkpoint.pth", weights_only=True)
    torch.save(tree, stream, _use_new_zipfile_serialization=False)
    options = ReadOptions(num_heads=2, norm_eps=1e-6, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Parser(name=name, make=mutated(stream.getvalue()), read=lambda path: load(path, options), suffix=".pth")


def heads(name: str, folder: Path) -> Parser:
    import torch

    from protocols.linear import published_head

    stream = io.BytesIO()
    torch.save({"state_dict": {"module.linear.weight": torch.ones(3, 4), "module.linear.bias": torch.zeros(3)}}, stream)
    return Parser(name=name, make=mutated(stream.getvalue()), read=published_head.read, suffix=".pth")


def hub_folder(name: str, folder: Path) -> Parser:
    from evaltk.checkpoints.load import load
    from evaltk.checkpoints.read_options import ReadOptions

    config = json.loads((GOLDEN / "families" / "hf_dinov2_config.json").read_text(encoding="utf-8"))
    weights = GOLDEN / "families" / "hf_dinov2_checkpoint.safetensors"
    texts = either(changed([config], as_json), mutated(as_json(config)))

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        shutil.copy(weights, path / "model.safetensors")
        texts(rng, path / "config.json")

    return Parser(name=name, make=make, read=lambda path: load(path, ReadOptions()))


def hub_beside(name: str, folder: Path) -> Parser:
    """What lies beside weights on the hub: image processors, indexes of shards, timm's configuration."""
    import timm
    from safetensors import safe_open
    from safetensors.torch import save_file

    from evaltk.checkpoints.load import load
    from evaltk.checkpoints.read_options import ReadOptions

    families = GOLDEN / "families"
    weights = families / "hf_dinov2_checkpoint.safetensors"
    config = json.loads((families / "hf_dinov2_config.json").read_text(encoding="utf-8"))
    with safe_open(weights, "pt") as stored:
        shards = dict.fromkeys(stored.keys(), "model-00001-of-00001.safetensors")
    small = {"depth": 1, "img_size": 16, "patch_size": 8, "embed_dim": 24}
    net = folder / "net.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, **small).state_dict(), net)
    pixels: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 16, 16], "crop_pct": 0.9}
    pixels |= {"interpolation": "bicubic", "num_classes": 0}
    looks = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "size": {"shortest_edge": 32}, "crop_size": 28}
    kinds: dict[str, tuple[Path, str, dict[str, Any]]] = {
        "preprocessor_config.json": (weights, "model.safetensors", looks | {"do_normalize": True, "resample": 3}),
        "model.safetensors.index.json": (weights, "model-00001-of-00001.safetensors", {"weight_map": shards}),
        "config.json": (net, "model.safetensors", {"architecture": "vit_tiny_patch16_224", "model_args": small,
                                                   "pretrained_cfg": pixels}),
    }  # fmt: skip

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        kind = rng.choice(list(kinds))
        source, called, tree = kinds[kind]
        shutil.copy(source, path / called)
        (path / "config.json").write_bytes(as_json(config))
        either(changed([tree], as_json), mutated(as_json(tree)))(rng, path / kind)

    return Parser(name=name, make=make, read=lambda path: load(path, ReadOptions()), share=0.5)


def recipe(name: str, folder: Path) -> Parser:
    from pretrain import nets, recipe

    sound = [path.read_text(encoding="utf-8") for path in sorted(RECIPES.glob("*.toml"))]
    words = ["0", "-1", "1e400", "nan", "inf", '""', '"x"', "[]", "{}", "true", "9223372036854775807", "1979-05-27"]
    words += ['"\\u0000"', '[1,"a"]', "1e-320", "99999999", "[[[[1]]]]", "[0.0,0.0]", "[1.0, 0.0]", "9" * 5000]
    ends = [
        "x = " + "[" * 100_000,
        "a" + ".a" * 1500 + " = 1",
        "[a]\n" * 5000,
        '"" = 1',
        'name = "../../x"',
        "[method]",
    ]

    def values(rng: random.Random, path: Path) -> None:
        lines = rng.choice(sound).splitlines()
        at = rng.choice([i for i, line in enumerate(lines) if "=" in line and not line.startswith("#")])
        lines[at] = f"{lines[at].partition('=')[0]}= {rng.choice(words)}"
        path.write_text("\n".join(lines), encoding="utf-8")

    def more(rng: random.Random, path: Path) -> None:
        path.write_text(f"{rng.choice(sound)}\n{rng.choice(ends)}", encoding="utf-8")

    def read(path: Path) -> object:
        found = recipe.load(str(path), ("optim.epochs=300",))
        return nets.parse(found.net.arch)

    make = either(values, values, mutated(*(text.encode() for text in sound)), more)
    return Parser(name=name, make=make, read=read, suffix=".toml")


def resume(name: str, folder: Path) -> Parser:
    import torch

    from pretrain import checkpoint, methods, nets, optim, recipe
    from pretrain.loop import init_state

    words = ["method.num_prototypes=16", "method.hidden=16", "method.bottleneck=8"]
    told = recipe.load("digits_dino_vmf", [*words, "net.arch=vit_patch8_dim8_depth1_heads2_img16"])
    method, arch, cpu = methods.get("dino"), nets.parse(told.net.arch), torch.device("cpu")
    state = init_state(told, method, arch, cpu)
    for parameter in state.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    tree = checkpoint.pack(told, method, arch, state)
    odd = (*(w for w in mutation.WORDS if w != "\ud800"), torch.ones(3), torch.tensor(float("nan")), torch.zeros(2, 2))

    def dump(tree: object) -> bytes:
        stream = io.BytesIO()
        torch.save(tree, stream)
        return stream.getvalue()

    def read(path: Path) -> object:
        fresh = init_state(told, method, arch, cpu)
        checkpoint.resume(fresh, told, method, folder=path.parent, source=str(path), images=None)
        for parameter in fresh.network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optim.set_rates(fresh.optimizer, lr=0.0, weight_decay=0.0)
        fresh.optimizer.step()
        return fresh.position

    make = either(changed([tree], dump, odd), changed([tree], dump, odd), mutated(dump(tree)))
    return Parser(name=name, make=make, read=read, suffix=".pth")


def training_log(name: str, folder: Path) -> Parser:
    from pretrain import logfile
    from reports.figures import training_log

    lines = [{"step": 50 * i, "epoch": i, "loss": 2.0 / (i + 1), "knn": 0.1 * i, "alarms": []} for i in range(8)]
    sound = "".join(json.dumps(line) + "\n" for line in lines).encode()

    def trees(rng: random.Random, path: Path) -> None:
        path.write_text("\n".join(json.dumps(one) for one in mutation.of_tree(rng, lines)), encoding="utf-8")

    def read(path: Path) -> object:
        return [logfile._object(one) for one in path.read_text(errors="replace").splitlines()], training_log.read(path)

    deep: Make = lambda rng, path: path.write_bytes(sound + b"[" * 100_000)  # noqa: E731
    return Parser(name=name, make=either(trees, mutated(sound), mutated(sound), deep), read=read, suffix=".jsonl")


def catalogue(name: str, folder: Path) -> Parser:
    from evaltk.checkpoints import catalog

    entry = {"url": "https://host/x.pth", "family": "dino", "arch": "vit_small_patch16_224", "method": "DINO"}
    lines = [
        "[checkpoints.a]",
        *(f'{key} = "{value}"' for key, value in entry.items()),
        'title = "T"',
        'kind = "backbone"',
        'licence = "MIT"',
    ]
    sound = "\n".join(lines).encode()
    words = ["0", "-1", "nan", '""', "[]", "{}", '"file:///etc/passwd"', '"https://h/../../x"', '"https://[::1/x"']
    words += ['"https://h:x/x"', "[" * 50_000, "9" * 5000]

    def values(rng: random.Random, path: Path) -> None:
        mine = list(lines)
        at = rng.randrange(1, len(mine))
        mine[at] = f"{mine[at].partition('=')[0]}= {rng.choice(words)}"
        path.write_text("\n".join(mine), encoding="utf-8")

    return Parser(name=name, make=either(values, mutated(sound)), read=catalog.load, suffix=".toml")
