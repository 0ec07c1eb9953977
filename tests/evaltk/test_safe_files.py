"""Files of arrays, labels and settings: what is read has the right values, what is not is one error before it costs."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaltk import cli, safe_arrays, safe_json, safe_toml
from evaltk.checkpoints import folder
from evaltk.errors import CheckpointError, SettingsError


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "i1", "<U3", "?", "<c8"])
def test_arrays_come_back(tmp_path: Path, dtype: str, order: str) -> None:
    a = np.asarray(np.arange(24).reshape(2, 3, 4), dtype=dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", a)
    np.savez_compressed(tmp_path / "a.npz", a=a, empty=a[:0], scalar=a[0, 0, 0])
    for found in (
        safe_arrays.read_npy(tmp_path / "a.npy"),
        safe_arrays.read_npy(tmp_path / "a.npy", mapped=True),
        safe_arrays.read_npz(tmp_path / "a.npz")["a"],
    ):
        assert found.dtype == a.dtype and np.array_equal(found, a)
    several = safe_arrays.read_npz(tmp_path / "a.npz", ["empty", "scalar", "none"])
    assert several.keys() == {"empty", "scalar"} and several["empty"].shape == (0, 3, 4)


def test_headers_are_checked_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for shape in ("(99999999999,4)", "(0,99999999999999999999)", "(-1,)", "(7,)"):
        header = f"{{'descr':'<f8','fortran_order':False,'shape':{shape}}}".encode().ljust(117) + b"\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
        tracemalloc.start()
        with pytest.raises(safe_arrays.DamagedError):
            safe_arrays.read_npy(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(safe_arrays.DamagedError, match="type object"):
        safe_arrays.read_npy(path)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(40_000_000))
    with pytest.raises(safe_arrays.DamagedError, match="far more than the file"):
        safe_arrays.read_npz(tmp_path / "bomb.npz")
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deep"):
        safe_json.read(deep)


@pytest.mark.parametrize("digits", [20, 400])
def test_whole_numbers_of_more_than_64_bits_are_refused(digits: int) -> None:
    """A float of them overflows, wherever that may happen."""
    large = "9" * digits
    for text in (large, f'{{"a": [0.5, -{large}]}}'):
        with pytest.raises(ValueError, match=rf"a whole number of ({digits}|{digits + 1}) digits"):
            safe_json.parse(text)
    for text in (f"a = {large}", f"[a]\nb = [[{{c = -{large}}}]]"):
        with pytest.raises(ValueError, match="a whole number of more than 64 bits"):
            safe_toml.parse(text)
    assert safe_json.parse(str(2**64 - 1)) == 2**64 - 1 and safe_toml.parse("a = -9") == {"a": -9}


def test_a_config_with_such_a_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(f'{{"image_mean": [0.5, 0.5, {"9" * 400}]}}')
    with pytest.raises(CheckpointError, match="wanted a JSON object; got a whole number of 400 digits"):
        folder.read_json(tmp_path / "preprocessor_config.json")


def test_every_flipped_byte_of_an_archive_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    a = np.random.default_rng(0).random(20)
    np.savez_compressed(path, a=a)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        try:
            found = safe_arrays.read_npz(path)
        except safe_arrays.DamagedError:
            continue
        assert all(np.array_equal(value, a) for value in found.values()), at  # a time, or the array's name


IDS = [(0, 1, 2), (1, 2, 3), (0, 10, 20), (77, 10**13, 2 * 10**13), (5, 2**62, 2**63 - 1)]


def test_class_ids_are_any_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only their order matters: the scores are those of ids 0, 1, 2, and k-NN's those of plain numpy."""
    rng = np.random.default_rng(0)
    y, wanted = np.repeat(np.arange(3), 10), np.repeat(np.arange(3), 4)
    x, queries = (1.2 * np.eye(5)[labels] + rng.normal(0, 1, (len(labels), 5)) for labels in (y, wanted))
    unit, asked = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, queries))
    cosine = asked @ unit.T
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :5]
    votes = np.stack([(np.exp(np.take_along_axis(cosine, near, 1) / 0.07) * (y[near] == c)).sum(1) for c in range(3)])
    right = {"1": float((y[near[:, 0]] == wanted).mean()), "5": float((votes.argmax(0) == wanted).mean())}
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "q.npy", queries)
    files = {name: str(tmp_path / f"{name}.npy") for name in ("x", "y", "q", "w")}
    words = ["--labels", files["y"], "--queries", files["q"], "--query-labels", files["w"], "--json"]
    fewshot = []
    for ids in IDS:
        np.save(files["y"], np.array(ids, dtype=np.uint64)[y])
        np.save(files["w"], np.array(ids, dtype=np.int64)[wanted])
        assert cli.main(["score", "knn", "--bank", files["x"], *words, "--k", "1", "5"]) == 0
        assert json.loads(capsys.readouterr().out) == {"n": 12, "top1": right}
        assert cli.main(["score", "fewshot", "--train", files["x"], *words]) == 0
        fewshot.append(json.loads(capsys.readouterr().out))
    assert all(one == fewshot[0] for one in fewshot) and fewshot[0]["n"] == 12
    np.save(files["w"], np.full(12, 99))  # a class that nothing teaches
    assert cli.main(["score", "fewshot", "--train", files["x"], *words]) == 2
    assert "class 99" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text + b"\xff", "TOML in UTF-8"),
        (lambda text: text + b"\nx = " + b"[" * 100_000, "nested too deep"),
        (lambda text: text.replace(b"lr = 1e-3", b"lr = nan"), "a finite number"),
        (lambda text: text.replace(b"epochs = 40", b"epochs = 1" + b"0" * 5000), "TOML in UTF-8"),
        (lambda text: text.replace(b"hidden = 256", b"hidden = 999999"), "hidden, bottleneck"),
        (lambda text: b"optim = 1\n" + text.partition(b"[optim]")[0], "a table"),
        (lambda text: text.replace(b"[0.85, 1.0]", b"[1.0, 0.85]"), "global_scale"),
    ],
)
def test_recipes(tmp_path: Path, change: Callable[[bytes], bytes], said: str) -> None:
    from pretrain import recipe

    text = (Path(recipe.__file__).parent / "recipes" / "digits_dino_vmf.toml").read_bytes()
    path = tmp_path / "mine.toml"
    path.write_bytes(text)
    assert recipe.load(str(path)).optim.lr == 1e-3
    path.write_bytes(change(text))
    with pytest.raises(SettingsError, match=said) as caught:
        recipe.load(str(path), ("optim.batch=10",))
    assert len(str(caught.value)) < 400


def test_advice_on_a_nested_net_leads_on() -> None:
    """What the error says to run is run, and gives the net's own names."""
    import torch

    from evaltk.checkpoints import diagnose
    from evaltk.models import vit_layout

    names = vit_layout.shapes_of(diagnose.NAMES)
    net, copied = ({name: torch.zeros(1) for name in names} for _ in range(2))
    trees = {
        "a dict in dicts": {"a": {"student": dict(net), "teacher": copied}},
        "prefixes": {
            "weights": {f"x.student.{k}": v for k, v in net.items()} | {f"x.teacher.{k}": v for k, v in net.items()}
        },
    }
    saved: list[dict] = []
    fake = type("Torch", (), {"save": staticmethod(lambda tree, name: saved.append(tree))})
    for tree in trees.values():
        do = diagnose.nearest(tree)
        assert "teacher" in do and "student" not in do
        code = do.partition(": ")[2]
        assert code.startswith("torch.save(") and code.endswith(", 'net.pth')")
        exec(code, {"torch": fake, "tree": tree})
        assert saved.pop().keys() == names.keys()
