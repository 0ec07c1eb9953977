"""The catalogue's data, and downloads from a server on this machine that misbehaves on demand."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from download_site import BODY, SHA, Site, leave_part, part_of, serve  # noqa: F401

from evaltk.checkpoints import catalog
from evaltk.cli import fetch as command
from evaltk.errors import SettingsError


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALTK_HOME", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert catalog.home() == Path("/a")
    monkeypatch.delenv("EVALTK_HOME")
    assert catalog.home() == Path("/b/evaltk")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert catalog.home() == Path("~/.cache/evaltk").expanduser()


FAMILIES = {
    "beit": 18, "clip": 4, "deit": 24, "dino": 28, "dinov2": 24, "dinov3": 8, "hf": 36, "ibot": 14, "ijepa": 4,
    "mae": 6, "mocov3": 2, "msn": 5, "resnet": 31, "swin": 13,
}  # fmt: skip


NOT_COMMERCIAL = {
    "DeepCluster-v2", "I-JEPA", "I-JEPA (transformers)", "MAE", "MAE (transformers)", "MSN", "MSN (transformers)",
    "MoCo-v1", "MoCo-v2", "MoCo-v3", "SeLa-v2", "SimSiam", "SwAV",
}  # fmt: skip


def test_every_entry_is_sound() -> None:
    entries = catalog.load()
    assert Counter(entry.family for entry in entries.values()) == FAMILIES
    assert {e.method for e in entries.values() if e.licence == "CC BY-NC 4.0"} == NOT_COMMERCIAL
    addresses = [entry.url for entry in entries.values() if entry.url]
    assert len(set(addresses)) == len(addresses)
    for name, entry in entries.items():
        assert name == entry.name
        assert (entry.kind == "linear_head") == (name.rpartition("_")[2] in ("linear", "linear4"))
        if name.endswith("_full"):
            assert entry.kind in ("full", "training") and name.removesuffix("_full") in entries
        if entry.family in ("dino", "ibot"):
            assert (entry.branch != "") == (entry.kind == "backbone")
        assert entry.title.startswith(entry.method.removesuffix(" (transformers)") + " "), name
        assert entry.url.startswith("hf:") == (entry.family == "hf") == name.startswith("hf_")
        assert bool(entry.get) == bool(entry.file) == (not entry.url) == (entry.method in ("DINOv3", "EsViT", "SimMIM"))
        assert entry.fetchable == entry.url.startswith("https://")


def test_what_no_tensor_tells_of_a_file() -> None:
    entries = catalog.load()
    heads = {name: entry.num_heads for name, entry in entries.items() if entry.num_heads}
    assert heads["mocov3_vits16"] == 12 and "mocov3_vitb16" not in heads  # FAMILIES whose nets are width / 64
    assert {heads[name] for name in heads if "vith14" in name} == {16} and heads["ijepa_vitg16_22k"] == 16
    assert (heads["deit3_vitm16_1k"], heads["dinov2_vitg14"], heads["dinov3_vit7b16"]) == (8, 24, 32)
    half = {name for name, entry in entries.items() if entry.mean == (0.5, 0.5, 0.5)}
    beit = {f"beit_{size}_patch16_{rest}" for size in ("base", "large") for rest in ("pt22k", "pt22k_ft22k")}
    assert half == beit | {"data2vec_base_patch16_ft1k", "data2vec_large_patch16_ft1k"}
    assert all((entry.mean is None) == (entry.std is None) for entry in entries.values())
    assert entries["beit_base_patch16_pt1k_800ep"].mean is None  # asked
    assert {entry.activation for entry in entries.values() if entry.method == "CLIP"} == {"quickgelu"}


def test_names_of_architectures_are_those_of_loaded_nets() -> None:
    """Where the catalogue names a ViT, a net of that name, width and heads exists."""
    for name, entry in catalog.load().items():
        if match := re.fullmatch(r"vit_patch(\d+)_dim(\d+)_depth(\d+)_heads(\d+)_img(\d+)", entry.arch):
            assert entry.num_heads in (0, int(match[4])), name
            assert int(match[5]) % int(match[1]) == 0 == int(match[2]) % int(match[4]), name
        else:
            assert entry.arch == "" or entry.arch.split("_")[0] in ("vit", "beit", "swin", "xcit", "resnet50"), name
    assert {entry.arch for entry in catalog.load().values() if entry.kind == "training" and "50_" in entry.name} == {
        "resnet50"
    }


@pytest.mark.parametrize(
    ("name", "knn", "linear", "finetune"),
    [
        ("dino_vits16", 74.5, 77.0, None),
        ("dino_vits8", 78.3, 79.7, None),
        ("dino_vitb16", 76.1, 78.2, None),
        ("dino_vitb8", 77.4, 80.1, None),
        ("dino_vitb8_linear", None, 80.1, None),
        ("ibot_vits16", 75.2, 77.9, 82.3),
        ("ibot_vitb16_full", 77.1, 79.5, 84.0),
        ("ibot_vitb16_rand", 77.3, 79.8, 84.1),
        ("msn_vitb4", None, None, None),
        ("dinov2_vitl14_reg4", 83.8, 86.7, None),
        ("mae_vith14", None, 76.6, 86.928),
        ("mocov3_vits16", None, 73.2, 81.4),
        ("mocov2_resnet50_800ep", None, 71.1, None),
        ("swav_resnet50_800ep", None, 75.3, None),
        ("beitv2_large_patch16_pt1k", None, None, 87.3),
        ("esvit_swinb14", 79.3, 81.3, None),
        ("deit3_vith14_21k", None, None, None),
    ],
)
def test_published_figures(name: str, knn: float | None, linear: float | None, finetune: float | None) -> None:
    entry = catalog.find(name)
    assert (entry.knn, entry.linear, entry.finetune) == (knn, linear, finetune)


def test_addresses_follow_their_authors() -> None:
    dino, ibot = "https://dl.fbaipublicfiles.com/dino/", "archive/2022/ibot/"
    full = "dino_deitsmall16_pretrain/dino_deitsmall16_pretrain_full_checkpoint.pth"
    assert catalog.find("dino_vits16_full").url == dino + full
    assert catalog.find("ibot_vitl16_22k").url.endswith(ibot + "vitl_16_pt22k/checkpoint_student.pth")
    assert catalog.find("dinov2_vitg14_reg4").url.endswith("/dinov2_vitg14/dinov2_vitg14_reg4_pretrain.pth")
    assert catalog.find("deit3_vith14_21k").url.endswith("/deit/deit_3_huge_224_21k_v1.pth")
    assert catalog.find("mocov3_vits16").url.endswith("/moco-v3/vit-s-300ep/vit-s-300ep.pth.tar")
    assert catalog.find("moby_swint7").url.endswith("/v1.0.3/moby_swin_t_300ep_pretrained.pth")
    assert catalog.find("msn_vitl7").url == "https://dl.fbaipublicfiles.com/msn/vitl7_200ep.pth.tar"


def test_unknown_name_tells_the_near_ones() -> None:
    with pytest.raises(SettingsError, match="did you mean 'dino_vits16'") as caught:
        catalog.find("dino_vits_16")
    assert len(caught.value.do) < 160 and "evaltk ls checkpoints" in caught.value.do  # not all of them


OWN = """
[families.timm]
method = "Ours"
licence = "MIT"
[checkpoints.mine]
url = "https://example.org/a/mine.pth"
family = "timm"
arch = "vit_small_patch16_224"
title = "Mine"
"""


def test_own_catalogue_is_merged(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OWN)
    mine = catalog.find("mine", own)
    assert (mine.method, mine.licence, mine.kind, mine.knn) == ("Ours", "MIT", "backbone", None)
    assert len(catalog.load(own)) == len(catalog.load()) + 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('title = "Mine"', "", "the field 'title'"),
        ("title =", "titel =", "did you mean 'title'"),
        ('"Mine"', "3", "title as text"),
        ('"Mine"', '"Mine"\nknn = 101', "knn in percent"),
        ('"Mine"', '"Mine"\nknn = 70', "a source"),
        ('"Mine"', '"Mine"\nkind = "head"', "a kind"),
        ('"Mine"', '"Mine"\nsha256 = "ABC"', "sha256 as 64"),
        ("https://", "file://", "a url"),
        ("a/mine.pth", "a/..", "a url"),
        ("a/mine.pth", "a/my net.pth", "a url"),
        ('"Mine"', '"Mine"\nkind = "training"\nmd5_prefix = "8CAD"', "md5_prefix as 4 to 32"),
        ('"Mine"', '"Mine"\nnum_heads = 0', "num_heads as a whole number"),
        ('"Mine"', '"Mine"\nmean = [0.5, 0.5]', "mean as three numbers"),
        ('"Mine"', '"Mine"\nstd = [127.5, 127.5, 127.5]', "std as three numbers"),
        ('"Mine"', '"Mine"\nactivation = "swish"', "an activation"),
        ('"Mine"', '"Mine"\nget = "ask"\nfile = "mine.pth"', "either a url"),
        ('url = "https://example.org/a/mine.pth"', "", "either a url"),
        ('url = "https://example.org/a/mine.pth"', 'get = "ask"\nfile = "../mine.pth"', "the name of a file"),
        ("https://example.org/a/mine.pth", "hf:mine", "a url hf:ORG/NAME"),
        ("checkpoints.mine", 'checkpoints."../mine"', "a name of letters"),
        ("checkpoints.mine", "checkpoint.mine", "tables [checkpoints.NAME]"),
        ("[checkpoints.mine]", "[[checkpoints.mine]]", "tables [checkpoints.NAME]"),
        ("[families.timm]", "[families", "a catalogue in TOML"),
    ],
)
def test_faulty_catalogue(tmp_path: Path, old: str, new: str, words: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OWN.replace(old, new))
    with pytest.raises(SettingsError) as caught:
        catalog.load(own)
    assert words in str(caught.value)
    assert str(own) in str(caught.value)


def test_values_of_a_method_stand_between_those_of_family_and_entry(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        f'[methods.Ours]\nfamily = "timm"\nlicence = "GPL"\nnote = "theirs"\n{OWN}method = "Ours"\nnote = "own"'
    )
    mine = catalog.find("mine", own)
    assert (mine.family, mine.licence, mine.note) == ("timm", "GPL", "own")


def test_missing_catalogue(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml"):
        catalog.load(tmp_path / "absent.toml")


def test_document_names_every_system_and_only_files_that_are_there() -> None:
    text = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    entries = catalog.load()
    for entry in entries.values():
        assert entry.method.removesuffix(" (transformers)") in text and f"`{entry.family}`" in text, entry.name
    patterns = re.findall(r"`([a-z0-9]+_)\*`", text)
    assert len(patterns) == 25 and all(any(name.startswith(p) for name in entries) for p in patterns)
    assert all(any(name.startswith(p) for p in patterns) for name in entries if not name.startswith("hf_"))
    named = set(re.findall(r"\b[a-z0-9]+_(?:vit|resnet|swin|base)[a-z0-9_]+\b", text))
    assert named == {"mae_vitb16", "ijepa_vith16_448_1k", "beit_base_patch16_pt1k_800ep"} and named <= entries.keys()


def test_command_prints_path_and_sha256(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OWN.replace("https://example.org/a/mine.pth", site.url))
    assert command.main(["mine", "--catalog", str(own), "--home", str(tmp_path / "home")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'home' / 'checkpoints' / 'mine' / 'net.pth'}\t{SHA}\n"


def test_command_looks_all_names_up_first(site: Site, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OWN.replace("https://example.org/a/mine.pth", site.url))
    with pytest.raises(SettingsError, match="nothing_like_it"):
        command.main(["mine", "nothing_like_it", "--catalog", str(own), "--home", str(tmp_path)])
    assert site.seen == []
    with pytest.raises(SettingsError, match="names of checkpoints"):
        command.main([])


def test_catalogue_needs_no_torch() -> None:
    code = "import sys, evaltk.checkpoints.catalog as c; c.load(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
