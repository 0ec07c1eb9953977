"""Every command and Python block of README and docs, executed on small stand-ins of the nets and data they name.

What needs a network, a cluster or several GPUs is parsed alone (tests/test_documents.py parses all). A command runs as
it stands but for the paths under /data, nets that would have to be downloaded, and settings that keep it to seconds,
which are listed here. docs/python.md, data.md, extending.md and tutorial.md have tests of their own.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import document_inputs as inputs
import pytest
import torch

from evaltk import cli, plugins
from evaltk.checkpoints.load import load_checkpoint

pytestmark = pytest.mark.documents
ROOT = Path(__file__).parents[2]
ELSEWHERE = ("docs/python.md", "docs/data.md", "docs/extending.md", "docs/tutorial.md")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(?=(?:evaltk|torchrun) )((?:.*\\\n)*.*)$", re.MULTILINE)
NEEDS = (  # what a command needs that is not here
    (r"^torchrun |&$", "several processes or GPUs"),
    (r"^evaltk fetch ", "a network"),
    (r"hf:\S+@COMMIT", "a network"),
    (r"--launcher slurm", "a cluster"),
)
SMALLER = (  # what a command is of: settings that make it one of seconds
    (r"--protocols .*\bfewshot\b.* imagenet=", "--fewshot.shots 1"),
    (r"--protocols .*\blinear\b", "--linear.epochs 2 --linear.batch 8"),
    (r"--protocols .*\bfinetune\b", "--finetune.batch 16 --batch-size 16"),
    (r"--protocols .*\bfewshot\b.* photos:", "--fewshot.shots 1 2"),
    (r"--protocols segmentation", "--segmentation.iterations 3 --segmentation.batch 2 --segmentation.side 32"),
    (r"--protocols geometry", "--geometry.views 2"),
    (r"--protocols transfer ", "--transfer.mode holdout"),
    (r"^evaltk run (?!.*(fewshot|shift)).*imagenet=(?!.*--limit)", "--limit 12"),
    (r"--protocols shift", "--limit 40"),
    (r"^evaltk show ", "--bank 40 --points 20 --neighbours 2 --k 3 --map pca"),
    (r"^evaltk pretrain ", "--set " + " ".join(inputs.TRAINED)),
)
NAME_NETS = ("run", "inspect", "show")  # commands whose words may be catalogued nets
RUN, PARSED, BLOCKS = 109, 5, 2  # commands executed here at least, parsed alone, Python blocks executed here


def shown(path: Path) -> Iterator[str]:
    """The commands in a document's blocks, one a line."""
    text = path.read_text(encoding="utf-8")
    blocks = [body for language, body in FENCED.findall(text) if language in ("", "sh", "bash")]
    for block in [*blocks, *INDENTED.findall(text)]:
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(evaltk|torchrun) ", line):
                yield re.sub(r"\s+# .*$", "", " ".join(line.split()))


DIGITS = "--data digits --limit 100 --protocols knn"
BEFORE = {  # results that a document's commands speak of
    "docs/tables.md": [
        f"run pixels:8 a.pth b.pth {DIGITS} linear --linear.epochs 1",
        f"run dino.pth --num-heads 3 {DIGITS} linear --linear.epochs 1",
    ],
    "docs/suites.md": [f"run pixels:{n} --out node{n}/runs {DIGITS}" for n in (1, 2)],
    "docs/numbers.md": [f"run pixels:8 {DIGITS}"],
    "docs/pictures.md": [f"run pixels:8 {DIGITS}"],
}

REFUSED = {  # and what is said, for small nets have no published counterpart
    "evaltk table --layout published": "wanted results with a published counterpart"
}


def of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


HERE = {of(path): list(shown(path)) for path in DOCUMENTS if of(path) not in ELSEWHERE}
HERE = {name: lines for name, lines in HERE.items() if lines}


def needs(line: str) -> str:
    """What a command needs that a test has not; empty for none."""
    return next((what for pattern, what in NEEDS if re.search(pattern, line)), "")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of seconds, with the checkpoints of both epochs."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert (
        cli.main(["pretrain", "digits_dino_vmf", "--data", "digits", "--set", *inputs.TRAINED, "--out", str(out)]) == 0
    )
    return out


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets are made here when a command first names them."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, trained: Path) -> Path:
    """A working directory and home with the files that commands name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name, heads in (("net.pt", 4), ("net.pth", 6), ("vit_timm_state_dict.pt", 4), ("vit.safetensors", 4)):
        inputs.flat(tmp_path / name, heads)
    full = "dino_deitsmall16_pretrain_full_checkpoint.pth"
    for name in (full, "dino.pth"):
        shutil.copy(inputs.NETS / inputs.OWN["dino_"], tmp_path / name)
    for name in ("run1", "mine", "other", "runs/mine", "runs/vmf_s16", "runs/dino_s16", "runs/a", "runs/b"):
        shutil.copytree(trained, tmp_path / name)
    shutil.copy(trained / "checkpoint.pth", tmp_path / "mine.pth")
    (tmp_path / "names.toml").write_text('"pixels:8" = "pixels"\n')
    (tmp_path / "table2.csv").write_text("checkpoint,protocol,dataset,metric,value\nDINO,knn,imagenet,top1,74.5\n")
    for word in "abc":
        shutil.copy(trained / "checkpoint.pth", tmp_path / f"{word}.pth")
    for name in ("photos", "leaves", "davis_fg", "cifar10"):
        made(name, data)
        (tmp_path / name).symlink_to(data / name)
    return tmp_path


def made(name: str, data: Path) -> Path:
    if not (data / name).exists():
        inputs.DATA[name](data / name)
    return data / name


def small(line: str, data: Path, folder: Path) -> list[str]:
    """The words of a command after `evaltk`, with stand-ins."""
    extra = " ".join(words for pattern, words in SMALLER if re.search(pattern, line))
    words, said = [], {}
    for word in shlex.split(line.partition(" > ")[0])[1:]:
        if stand_in := inputs.net(word, folder) if line.split()[1] in NAME_NETS else None:
            word, of_it = stand_in
            said |= of_it
        if match := re.search(r"(.*=|^)/data/([\w-]+)(/.*)?$", word):
            word = f"{match[1]}{made(match[2], data)}"
        words.append({"A": "runs/a/checkpoint.pth", "B": "runs/b/checkpoint.pth"}.get(word, word))
    if "random:vit_small_patch16_224" in words:
        words[words.index("random:vit_small_patch16_224")] = "random:vit_patch4_dim24_depth1_heads3_img16"
    if any("full_checkpoint" in word for word in words):
        said["num_heads"] = 3
    if {"vit.safetensors", "net.pth"} & set(words):
        said |= {"num_heads": 4, "norm_eps": 1e-6, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    for field, value in said.items():
        flag = f"--{field.replace('_', '-')}"
        if flag not in words:
            words += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    if words[0] == "pretrain" and "--set" in words:  # one list of settings
        at = words.index("--set") + 1
        words[at:at] = inputs.TRAINED
        return words
    return [*words, *extra.split()]


@pytest.mark.parametrize("name", HERE)
def test_commands_run(name: str, place: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command of a document ends well, in order; tables and reports stand on what was run before."""
    for words in BEFORE.get(name, ()):
        assert cli.main(words.split()) == 0
    for line in HERE[name]:
        if not needs(line):
            argv = small(line, data, place)
            code = cli.main(argv)
            told = capsys.readouterr()
            if line in REFUSED:
                assert code == 2 and REFUSED[line] in told.err, (line, told.err[-1500:])
                continue
            assert code == 0, (line, argv, told.err[-1500:])
            assert told.out or told.err or line.startswith("evaltk results"), line
    plugins.use(())


def test_all_commands_are_counted() -> None:
    """A new one is executed; those that are parsed alone are counted to the piece."""
    lines = [line for found in HERE.values() for line in found]
    parsed = [line for line in lines if needs(line)]
    print(f"{len(lines) - len(parsed)} commands executed, {len(parsed)} parsed: {parsed}")
    assert len(lines) - len(parsed) >= RUN and len(parsed) == PARSED


def test_python_blocks_run(place: Path, data: Path) -> None:
    """Those outside the documents that are executed elsewhere."""
    source = load_checkpoint("random:vit_patch16_dim384_depth1_heads6_img224")
    torch.save(dict(source.weights), place / "dino_deitsmall16_pretrain.pth")
    ran = 0
    for path in DOCUMENTS:
        names: dict[str, Any] = {
            "images": torch.rand(2, 3, 224, 224),
            "model": torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten()),
        }
        for language, body in FENCED.findall(path.read_text(encoding="utf-8")):
            if language == "python" and of(path) not in ELSEWHERE:
                exec(compile(body, str(path), "exec"), names)
                ran += 1
    assert ran == BLOCKS and (place / "features.npz").exists() and names
