"""Parsers of what describes a dataset, a suite, a run or a cache: lists, TOML, small JSON."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import mutation
import numpy as np
from making import Make, Parser, as_json, changed, either, image, mutated

SUITE = """version = 1
checkpoints = ["pixels:8", {path = "pixels:4", mean = [0.5, 0.5, 0.5], std = [0.2, 0.2, 0.2]}]
data = ["digits", {name = "more:digits"}]
limit = 50
seed = 3
out = "runs"
[[protocols]]
name = "knn"
k = [1, 5]
temperature = [0.07]
[[protocols]]
name = "linear"
epochs = 2
[matrix]
only = [{checkpoint = "pixels*"}, {protocol = ["knn", "linear"], data = "digits"}]
except = [{checkpoint = "pixels:4", protocol = "linear"}]
[slurm]
partition = "gpu"
minutes = 60
"""
TOML_WORDS = ("0", "-1", "nan", "inf", '""', "[]", "{}", "true", "1979-05-27", "9" * 5000, "[" * 50_000, '"\\u0000"',
              '"--json"', '"../../x"', '"\\u001b[2J"', "[[1]]", '["a"]', "1" + "0" * 25, '"*"', '"[z-a]"')  # fmt: skip


def replaced(text: str, words: tuple[str, ...] = TOML_WORDS) -> Make:
    """TOML with one value replaced."""

    def make(rng: random.Random, path: Path) -> None:
        lines = text.splitlines()
        at = rng.choice([i for i, line in enumerate(lines) if "=" in line])
        lines[at] = f"{lines[at].partition('=')[0]}= {rng.choice(words)}"
        path.write_text("\n".join(lines), encoding="utf-8")

    return make


def suite(name: str, folder: Path) -> Parser:
    from evaltk.cli import _asked

    def read(path: Path) -> object:
        return len(_asked.asked([str(path)], "run", None).suite.plans)

    make = either(replaced(SUITE), mutated(SUITE.encode()))
    return Parser(name=name, make=make, read=read, suffix=".toml", share=0.1)


def names(name: str, folder: Path) -> Parser:
    from reports.tables import choosing

    sound = '"pixels:8" = "Raw pixels"\n"dino" = "DINO"\n'
    make = either(replaced(sound), mutated(sound.encode()))
    return Parser(name=name, make=make, read=lambda p: choosing.renames([], p, ["pixels:8", "dino"]), suffix=".toml")


def label_maps(name: str, folder: Path) -> Parser:
    """The lists of datasets with label maps and videos."""
    from evaltk import datasets

    made = folder / "made"
    for split in ("train", "test", "JPEGImages", "SegmentationClass", "Annotations/480p/cat", "JPEGImages/480p/cat"):
        for kind in ("images", "masks") if split in ("train", "test") else ("",):
            (made / split / kind).mkdir(parents=True)
            for i in range(2):
                jpeg = split.startswith("JPEG")
                data = image("JPEG") if jpeg else image("PNG", "RGB" if kind == "images" else "P")
                (made / split / kind / f"{i:05d}.{'jpg' if jpeg else 'png'}").write_bytes(data)
    lists = {
        "masks": ("classes.txt", "a\nb\nc\n"),
        "voc2012": ("ImageSets/Segmentation/val.txt", "00000\n00001\n"),
        "davis2017": ("ImageSets/2017/val.txt", "cat\n"),
    }
    for file, text in (*lists.values(), ("ImageSets/Segmentation/train.txt", "00000\n")):
        (made / file).parent.mkdir(parents=True, exist_ok=True)
        (made / file).write_text(text)

    def make(rng: random.Random, path: Path) -> None:
        kind = rng.choice(list(lists))
        path.write_text(kind)
        mutated(lists[kind][1].encode())(rng, made / lists[kind][0])

    def read(path: Path) -> object:
        return len(datasets.load(f"{path.read_text()}={made}").sizes)

    return Parser(name=name, make=make, read=read, suffix=".txt")


def published_lists(name: str, folder: Path) -> Parser:
    """The small published datasets with one of their lists changed: text, JSON, MATLAB files."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "evaltk"))
    import transfer_trees

    from evaltk import datasets

    files: list[tuple[str, Path, bytes]] = []
    for kind in ("aircraft", "dtd", "flowers102", "food101", "pets", "sun397"):
        transfer_trees.BUILD[kind](folder / kind)
        found = [p for ending in ("*.txt", "*.mat", "*.json") for p in sorted((folder / kind).rglob(ending))]
        files += [(kind, p.relative_to(folder / kind), p.read_bytes()) for p in found]

    def make(rng: random.Random, path: Path) -> None:
        kind, file, data = rng.choice(files)
        mutated(data)(rng, path)
        shutil.copy(path, folder / kind / file)
        path.write_text(json.dumps([kind, str(file)]))

    def read(path: Path) -> object:
        kind, file = json.loads(path.read_text())
        try:
            return len(datasets.load(f"{kind}={folder / kind}").train)
        finally:
            data = next(data for one, other, data in files if (one, str(other)) == (kind, file))
            (folder / kind / file).write_bytes(data)

    return Parser(name=name, make=make, read=read, suffix=".txt", share=0.5)


def others_figures(name: str, folder: Path) -> Parser:
    """CSV and the JSON of other tools -> results, written and read back."""
    from evaltk import results
    from evaltk.results import foreign

    text = "checkpoint,protocol,dataset,metric,value,n,split,low,high,epoch,at\n"
    text += 'DINO,knn,d,top1,0.745,50000,test,0.74,0.75,3,"{""k"": 20}"\nMAE,linear,d,top1,0.68,50000,test,,,,\n'
    clip = [{"dataset": "wds/cifar10", "model": "ViT-B-32", "pretrained": "openai", "metrics": {"acc1": 0.9, "n": 3}}]
    harness = {
        "results": {"arc": {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "arc"}},
        "config": {"model": "hf", "model_args": "pretrained=x"}, "n-samples": {"arc": {"effective": 40}},
    }  # fmt: skip
    forms = {
        ".csv": mutated(text.encode(), ("\ufeff" + text).encode()),
        ".json": either(changed([clip, harness], as_json), mutated(as_json(clip), as_json(harness))),
    }

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        ending = rng.choice(list(forms))
        forms[ending](rng, path / f"file{ending}")

    def read(path: Path) -> object:
        (file,) = path.iterdir()
        made = list(foreign.results(foreign.read(file), "them", percent=False))
        for result in made:
            where = results.path_of(path / "runs", str(result.checkpoint["name"]), result.protocol, result.data.name,
                                    result.request)  # fmt: skip
            results.write(where, result, {})
            assert results.read(where) == result and where.is_relative_to(path / "runs")
        return len(made)

    return Parser(name=name, make=make, read=read)


def kept_pixels(name: str, folder: Path) -> Parser:
    """Pixels of one shard with a byte changed: none, or the right ones."""
    from evaltk.data import images
    from evaltk.data.loading import Batch
    from evaltk.data.transforms import Transform
    from evaltk.features.pixels import PixelCache

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    split = images.from_arrays("x", "train", pixels, np.arange(6) % 2, ["a", "b"])
    looks = Transform(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))

    def cache(path: Path) -> PixelCache:
        return PixelCache(root=path, most=1 << 20, split=split, shard=8)

    def make(rng: random.Random, path: Path) -> None:
        kept = Batch(kept=[0, 1, 2, 4], bad=[(3, "broken"), (5, "broken")], pixels=[pixels[[0, 1, 2, 4]]])
        cache(path).write(0, [looks], [kept])
        file = rng.choice(sorted(p for p in path.rglob("*") if p.is_file()))
        mutated(file.read_bytes())(rng, file)

    def read(path: Path) -> object:
        found = cache(path).open(0, [looks])
        if found is None:
            raise _refused("pixels")
        for index, row in found.rows.items():
            assert np.array_equal(found.pixels[0][row], pixels[index])
        assert set(found.rows) == {0, 1, 2, 4} and set(found.bad) == {3, 5}
        return len(found.rows)

    return Parser(name=name, make=make, read=read, share=0.25)


def claims(name: str, folder: Path) -> Parser:
    """What other programs leave about work in progress and failed."""
    from evaltk import claims
    from evaltk.running import failures

    owner: dict[str, Any] = {"token": "a", "process": 2**22 - 1, "node": "n", "host": claims._host()}
    told = dict.fromkeys(("checkpoint", "protocol", "dataset", "message", "trace", "at", "node", "token"), "x")
    texts = {kind: either(changed([tree], as_json), mutated(as_json(tree))) for kind, tree in
             (("w.json.claim-0/owner", owner), ("w.failed", told | {"bug": True}))}  # fmt: skip

    def make(rng: random.Random, path: Path) -> None:
        (path / "w.json.claim-0").mkdir(parents=True)
        (path / "w.json.claim-0" / "pulse").write_bytes(mutation.of_bytes(rng, b"12"))
        for file, text in texts.items():
            text(rng, path / file)

    def read(path: Path) -> object:
        with claims.Claims(beat=60.0) as mine:
            mine.holder(path / "w.json")
            taken = mine.take(path / "w.json")
            mine.tidy(path)
        return taken is not None, [failure.title() for _, failure in failures.find(path)]

    return Parser(name=name, make=make, read=read, share=0.5)


def _refused(what: str) -> Exception:
    from evaltk.errors import DataError

    return DataError(wanted=what, got="others")
