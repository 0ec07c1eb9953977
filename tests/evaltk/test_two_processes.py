"""Two processes, as torchrun starts them, against one: the same bits, one voice, one set of results."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaltk import build_backbone, datasets, load_checkpoint, results
from evaltk.data import transforms
from evaltk.features.extraction import Extraction, extract, key_of
from evaltk.types import Recipe

NET = "random:vit_patch4_dim32_depth2_heads2_img16"
RUN = ["run", NET, "pixels:8", "--data", "digits", "--knn.k", "1", "5", "--knn.choose", "20", "--json"]

SCRIPT = """
import sys
from pathlib import Path
from evaltk import build_backbone, cli, datasets, distributed, load_checkpoint
from evaltk.models.backbone import Backbone
from evaltk.data import transforms
from evaltk.features.extraction import Extraction, extract
from evaltk.types import Recipe

cache, arguments = Path(sys.argv[1]), sys.argv[2:]
images, real = [], Backbone.features
def counted(self, x, recipes):
    images.append(len(x))
    return real(self, x, recipes)
Backbone.features = counted
with distributed.process_group():
    backbone = build_backbone(load_checkpoint(ARCH))
    transform = transforms.view("eval", 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    split = datasets.load("digits").test
    how = Extraction(batch_size=20, shard=100)
    found = extract(backbone, split, transform, (Recipe(), Recipe(tokens="mean")), cache=cache, how=how)
    print(f"extracted {sum(images)} of {len(found[Recipe()].x)}", file=sys.stderr, flush=True)
    code = cli.main(arguments) or cli.main(arguments)  # the second time all is done
sys.exit(code)
"""


@pytest.fixture(scope="module")
def outputs(forks: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str, str]]]:
    """(folder with `cache` and `runs`, (exit code, stdout, stderr) of each process)."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [folder / "cache", *RUN, "--out", folder / "runs", "--cache", folder / "cache"]
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    script = SCRIPT.replace("ARCH", repr(NET))
    started = [forks.start(script, argv, shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in range(2)]
    return folder, [forks.ended(pid) for pid in started]


def test_each_makes_its_share_and_the_bits_are_those_of_one(
    outputs: tuple[Path, list[tuple[int, str, str]]], tmp_path: Path
) -> None:
    folder, ended = outputs
    assert [code for code, _, _ in ended] == [0, 0], ended
    # 797 images in shards of 100: four shards each.
    assert ["extracted 400 of 797" in ended[0][2], "extracted 397 of 797" in ended[1][2]] == [True, True]
    backbone = build_backbone(load_checkpoint(NET))
    transform = transforms.view("eval", 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    split, recipes = datasets.load("digits").test, (Recipe(), Recipe(tokens="mean"))
    how = Extraction(batch_size=20, shard=100)
    alone = extract(backbone, split, transform, recipes, cache=tmp_path, how=how)
    for recipe in recipes:
        made = folder / "cache" / "features" / key_of(backbone, split, transform, recipe).digest()
        assert np.array_equal(np.load(made / "x.npy"), alone[recipe].x)
        assert np.array_equal(np.load(made / "y.npy"), split.labels)
    assert not list((folder / "cache" / "features").glob("*.partial"))


def test_only_the_main_one_writes_and_speaks(outputs: tuple[Path, list[tuple[int, str, str]]]) -> None:
    folder, ((_, out, _), (_, other_out, _)) = outputs
    assert other_out == ""
    lines = [json.loads(line) for line in out.splitlines()]
    told = [(line["checkpoint"]["name"], line["skipped"]) for line in lines]
    assert told == [(NET, False), ("pixels:8", False), (NET, True), ("pixels:8", True)]
    assert {str(path) for path, _ in results.find(folder / "runs")} == {line["path"] for line in lines}
