"""Published numbers: complete, in agreement with the paper's own sums and each other, found; damage is named."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from evaltk.checkpoints import catalog
from evaltk.errors import SettingsError
from reports.published.load import (
    COLUMNS,
    FOLDER,
    Published,
    arch_label,
    find_published,
    load_published,
    select_published,
    weights,
)

PAPER = tuple(row for row in load_published() if row.table.isdecimal())
FAMILIES = tuple(row for row in load_published() if row.table.startswith(
    ("DINOv2", "MAE", "MoCo", "SwAV", "Barlow", "VICReg", "SimSiam", "DeiT", "BEiT", "EsViT", "MoBY", "SimMIM",
     "I-JEPA")
))  # fmt: skip
IMAGENET = {"dataset": "ImageNet-1K", "metric": "top-1"}


def key(row: Published) -> tuple[str, ...]:
    return row.task, row.dataset, row.metric, row.arch, row.method, row.variant


def one(**fields: str) -> Published:
    (row,) = select_published(**fields)  # type: ignore[arg-type]
    return row


def test_counts_of_every_table() -> None:
    counts = Counter(row.table for row in load_published())
    paper = {int(t): n for t, n in counts.items() if t.isdecimal()}
    assert [paper[i] for i in range(1, 16)] == [6, 27, 32, 8, 80, 32, 24, 12, 19, 19, 6, 15, 9, 23, 30]
    assert len(PAPER) == 342
    assert {t: n for t, n in counts.items() if not t.isdecimal()} == {
        "DINO README: pretrained models": 18,
        "DINO README: training": 4,
        "iBOT README: pre-trained models": 19,
        "iBOT README: models of ImageNet-22K": 8,
        "DINOv2 README: pretrained models": 16,
        "DINOv2 README: linear classification": 8,
        "DINOv2 README: training": 4,
        "MAE FINETUNE.md: linear probing": 6,
        "MAE FINETUNE.md: evaluation": 6,
        "MoCo README: models": 3,
        "MoCo-v3 CONFIG.md: ResNet-50 models": 3,
        "MoCo-v3 CONFIG.md: ViT models": 2,
        "MoCo-v3 README: end-to-end fine-tuning": 2,
        "SwAV README: model zoo": 12,
        "SwAV README: larger architectures": 3,
        "Barlow Twins README: pretrained model": 1,
        "VICReg README: pretrained models": 3,
        "SimSiam README: models and logs": 2,
        "DeiT README: model zoo": 8,
        "DeiT-III README: model zoo": 16,
        "BEiT README: fine-tuning on ImageNet-1k": 4,
        "BEiT paper, quoted": 1,
        "BEiT-v2 README: fine-tuning on ImageNet-1k": 6,
        "BEiT-v2 get_started: model zoo": 2,
        "BEiT-v2 paper, quoted": 1,
        "EsViT README: view and region level": 12,
        "EsViT README: view level": 6,
        "MoBY README: main results": 1,
        "SimMIM README: Swin Transformer": 3,
        "I-JEPA paper": 2,
    }


def test_numbers_of_other_protocols_say_so() -> None:
    rows = [row for row in load_published() if row.apart or row.beside or row.position or not row.verified]
    assert not any(row.table.isdecimal() for row in rows)
    for row in FAMILIES:
        assert 50 < row.value < 100 and row.source and row.digits in (1, 3), row
        # k-NN alone is measured as we do; of DINOv2's nets with registers and of Swin by another rule for positions.
        assert (row.task == "imagenet_knn") == (not row.apart), row
        if row.apart:
            assert (
                row.beside == "Lin.[C]" or row.task == "finetune" or "PyTorch" in row.variant or "DINOv2" in row.method
            )
        wanted = "size_aa" if "reg4" in row.arch else "-" if "Swin" in row.arch else ""
        assert row.position == (wanted if row.task == "imagenet_knn" else ""), row
    assert {row.method for row in rows if not row.verified} == {
        "BEiT (ImageNet-1K)",
        "BEiT-v2",
        "I-JEPA",
        "I-JEPA (448 px)",
    }


def test_weights_name_files_of_the_catalogue_and_rows() -> None:
    entries, printed = catalog.load(), {(row.method, row.arch) for row in load_published()}
    named = weights()
    for name, (method, arch) in named.items():
        what, _, more = method.partition(" (")
        assert entries[name].title == f"{what} {arch}" + (f" ({more}" if more else ""), name
        assert (method, arch) in printed, name
        assert entries[name].kind != "linear_head" and entries[name].family != "hf", name
    figures = {
        n for n, e in entries.items() if (e.knn or e.linear or e.finetune or e.class_head) and e.kind != "linear_head"
    }
    assert figures <= named.keys()
    # Printed in papers only (BEiT, I-JEPA), so not in the catalogue.
    assert named.keys() - figures == {"beit_base_patch16_pt1k_800ep", "ijepa_vith14_1k", "ijepa_vith16_448_1k"}
    assert "dino_vits16_landmarks" not in named


def test_digits_are_those_printed() -> None:
    for row in load_published():
        assert round(row.value, row.digits) == row.value
    assert one(table="2", method="iBOT", variant="kNN", arch="ViT-B/16").digits == 2  # printed 77.10
    assert one(table="4", method="DINO", arch="ViT-B/16", metric="largest_duplicate_set").digits == 0
    with (FOLDER / "dino_vmf.csv").open(encoding="utf-8", newline="") as file:
        texts = [line["value"] for line in csv.DictReader(file)]
    assert [f"{row.value:.{row.digits}f}" for row in PAPER] == texts


def test_table_1_is_the_mean_of_table_8_but_for_the_known_cell() -> None:
    odd = []
    for row in select_published(table=1):
        runs = [r.value for r in select_published(table=8) if r.variant.startswith(f"{row.variant};run")]
        assert len(runs) == 2
        if abs(sum(runs) / 2 - row.value) > 0.005 + 1e-9:
            odd.append(row)
    assert [(row.variant, row.value) for row in odd] == [("prototype_norm=L2;centering=probability", 69.86)]
    assert "INCONSISTENT" in odd[0].note


@pytest.mark.parametrize(("main", "appendix", "shared"), [(2, (9, 10), 27), (3, (12, 13), 24)])
def test_main_tables_agree_with_the_appendix(main: int, appendix: tuple[int, ...], shared: int) -> None:
    here = {key(row): row.value for row in select_published(table=main)}
    there = {key(row): row.value for table in appendix for row in select_published(table=table)}
    both = here.keys() & there.keys()
    assert len(both) == shared
    assert {k: here[k] for k in both} == {k: there[k] for k in both}
    assert all(k[-1] == "1% imgs" for k in here.keys() - both)  # a single split: no spread, so not in the appendix


def test_table_5_averages_of_nine() -> None:
    averages = [row for row in select_published(table=5) if row.dataset == "Average"]
    assert len(averages) == 8
    for row in averages:
        parts = [r.value for r in select_published(table=5, arch=row.arch, method=row.method) if r.dataset != "Average"]
        assert len(parts) == 9
        assert abs(sum(parts) / 9 - row.value) <= 0.05 + 1e-9


def test_table_7_is_the_mean_of_j_and_f() -> None:
    for arch, method in {(row.arch, row.method) for row in select_published(table=7)}:
        j, f, both = (
            one(table="7", arch=arch, method=method, metric=m).value for m in ("J_mean", "F_mean", "J&F_mean")
        )
        assert abs((j + f) / 2 - both) <= 0.05 + 1e-9


def test_void_prototypes_are_the_share_that_was_printed() -> None:
    row = one(table="4", method="DINO", arch="ViT-B/16", metric="largest_duplicate_set")
    assert round(100 * row.value / 65536, 1) == 83.7
    assert "83.7" in row.note


def test_paper_and_readmes_agree_but_for_two_roundings() -> None:
    odd = []
    for row in load_published():
        if row.table.isdecimal():
            continue
        twins = [r for r in PAPER if key(r) == key(row) and r.table != "11"]
        odd += [(row, r) for r in twins if abs(r.value - row.value) > 0.05 + 1e-9]
    assert {(a.value, b.value) for a, b in odd} == {(74.5, 74.44), (83.664, 83.6)}


def test_readme_figures_that_contradict_each_other_say_so() -> None:
    pairs: dict[tuple[str, ...], list[Published]] = {}
    for row in load_published():
        if not row.table.isdecimal():
            pairs.setdefault(key(row), []).append(row)
    odd = {k for k, rows in pairs.items() if len({r.value for r in rows}) > 1}
    assert len(odd) == 4
    assert odd == {key(row) for row in load_published() if "INCONSISTENT with the same README" in row.note}


def test_catalogue_holds_the_same_figures() -> None:
    """The catalogue of checkpoints was written apart from these files."""
    compared = 0
    for name, (method, arch) in weights().items():
        entry = catalog.find(name)
        figures = (
            ("imagenet_knn", entry.knn, ("kNN",)),
            ("imagenet_linear", entry.linear, ("Lin.[D]", "Lin.[C]")),
            ("finetune", entry.finetune, ("end-to-end fine-tuning", "end-to-end fine-tuning;size=256")),
            ("imagenet_linear", entry.class_head, ("own class head",)),
        )
        for task, value, variants in figures:
            if value is None:
                continue
            rows = select_published(task=task, arch=arch, method=method, **IMAGENET)
            rows = tuple(r for r in rows if not r.table.isdecimal() or method == "MSN")
            assert value in {r.value for r in rows if r.variant in variants or r.beside in variants}, name
            compared += 1
    assert compared == 200


def test_find_prefers_main_table_then_readme_then_appendix() -> None:
    knn = {"task": "imagenet_knn", "method": "DINO", "variant": "kNN", **IMAGENET}
    for arch, table, value in (
        ("ViT-S/16", "2", 74.44),  # also in Table 9 and, as 74.5, in the README
        ("ViT-S/8", "DINO README: pretrained models", 78.3),  # Table 11 is a 40-epoch rerun
        ("ResNet-50", "DINO README: pretrained models", 67.5),
    ):
        row = find_published(arch=arch, **knn)
        assert row is not None
        assert (row.table, row.value) == (table, value)
    row = find_published(arch="ViT-S/8", **{**knn, "method": "DINO-vMF"})
    assert row is not None
    assert row.table == "11"
    assert find_published(arch="ViT-H/14", **knn) is None
    assert find_published(arch="vit_small_patch16_224", **knn) == find_published(arch="ViT-S/16", **knn)


def test_every_row_finds_a_number_of_its_own_kind() -> None:
    for row in load_published():
        names = ("task", "dataset", "metric", "arch", "method", "variant")
        found = find_published(**dict(zip(names, key(row), strict=True)))
        assert found is not None
        assert key(found) == key(row)


def test_select_takes_any_fields() -> None:
    assert len(select_published()) == len(load_published())
    assert select_published(table="5", dataset="Pets") == select_published(table=5, dataset="Pets")
    assert {row.arch for row in select_published(table=7, arch="vit_base_patch16_224")} == {"ViT-B/16"}
    assert select_published(method="no such method") == ()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("vit_small_patch16_224", "ViT-S/16"),
        ("vit_base_patch8_224.dino", "ViT-B/8"),
        ("vit_tiny_patch16_384", "ViT-Ti/16"),
        ("vit_small_patch14_reg4_dinov2.lvd142m", "ViT-S/14 reg4"),
        ("vit_giant_patch14_518", "ViT-g/14"),
        ("xcit_small_12_p16_224", "XCiT-S12/16"),
        ("resnet50", "ResNet-50"),
        ("ViT-S/16", "ViT-S/16"),
        ("vit_patch4_dim128_depth4_heads4_img32", "vit_patch4_dim128_depth4_heads4_img32"),
        ("vit_medium_patch16_224", "vit_medium_patch16_224"),
    ],
)
def test_arch_labels(name: str, label: str) -> None:
    assert arch_label(name) == label
    assert arch_label(label) == label
    assert arch_label("vit_base_patch14_518", registers=4) == "ViT-B/14 reg4"


GOOD = "2,imagenet_knn,ImageNet-1K,top-1,ViT-S/16,DINO,kNN,74.44,0.1,%,a note,somewhere"
HEADER = ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("text", "line", "got"),
    [
        (f"{HEADER}\n{GOOD}\n{GOOD.replace('74.44', '74.44 ')}", 3, "'74.44 '"),
        (f"{HEADER}\n{GOOD.replace('74.44', 'nan')}", 2, "'nan'"),
        (f"{HEADER}\n{GOOD.replace('74.44', '7e1')}", 2, "'7e1'"),
        (f"{HEADER}\n{GOOD.replace('74.44', '1074.44')}", 2, "1074.44"),
        (f"{HEADER}\n{GOOD.replace('74.44', '')}", 2, "nothing"),
        (f"{HEADER}\n{GOOD.replace('0.1', 'x')}", 2, "'x'"),
        (f"{HEADER}\n{GOOD.replace('%', 'percent')}", 2, "'percent'"),
        (f"{HEADER}\n{GOOD.replace('%', 'count')}", 2, "'74.44'"),
        (f"{HEADER}\n{GOOD}\n{GOOD}", 3, "the one of line 2 again"),
        (f"{HEADER}\n{GOOD},more", 2, "13"),
        (f"{HEADER}\n{GOOD}\n2,imagenet_knn", 3, "2"),
        (f"{HEADER}\n{GOOD}\n\n", 3, "0"),
        (f'{HEADER}\n{GOOD}\n"2,open quote', 3, "unexpected end of data"),
        (f"{HEADER.replace('value', 'valeu')}\n{GOOD}", 1, "missing ['value'], unknown ['valeu']"),
        (f"{HEADER},note\n{GOOD},", 1, "13 columns, some twice"),
        (f"{HEADER},verified\n{GOOD},yes", 2, "'yes'"),
        ("", 1, "missing"),
    ],
)
def test_damaged_files_are_named_with_their_line(tmp_path: Path, text: str, line: int, got: str) -> None:
    path = tmp_path / "odd.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_published(tmp_path)
    assert caught.value.where == f"{path}:{line}"
    assert got in caught.value.got
    assert caught.value.do


def test_columns_may_stand_in_any_order_and_quotes_hold_commas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        f'{HEADER.replace("table,task", "task,table")}\nvos,7,D,J,ViT-S/16,M,"a, b",1.50,,%,,"p, q"\n', encoding="utf-8"
    )
    (row,) = load_published(tmp_path)
    assert (row.table, row.task, row.variant, row.value, row.digits, row.std) == ("7", "vos", "a, b", 1.5, 2, None)


def test_folders_without_numbers_and_files_of_other_bytes_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="got none"):
        load_published(tmp_path)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "latin.csv").write_bytes(f"{HEADER}\n{GOOD}é".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"latin\.csv"):
        load_published(inner)


def test_import_needs_no_torch() -> None:
    code = (
        "import sys, evaltk.metrics.statistics, reports.published.load as p; p.load_published(); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
