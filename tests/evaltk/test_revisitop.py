"""Ground-truth pickles: the official layout in every dialect, what is noted, what is refused, and nothing executed."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from evaltk import datasets
from evaltk.data import revisitop
from evaltk.deviations import DeviationKind
from evaltk.errors import DataError
from evaltk.metrics import retrieval

SMALL = {
    "imlist": ["all_souls_000000", "oxford_000001", "oxford_000002", "radcliffe_camera_000158"],
    "qimlist": ["all_souls_000013", "oxford_002985"],
    "gnd": [
        {"bbx": [136.5, 34.1, 648.5, 955.7], "easy": [3, 0], "hard": [1], "junk": [2]},
        {"bbx": [78, 5, 714, 1000], "easy": [], "hard": [2], "junk": []},
    ],
}


def written(tmp_path: Path, content: object, name: str = "gnd_own.pkl", protocol: int | None = None) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


def changed(query: int = 0, **entries: object) -> dict:
    """SMALL with other entries in one query; `imlist`, `qimlist` and `gnd` are replaced whole."""
    top = {key: entries.pop(key) for key in list(entries) if key in SMALL}
    gnd = [{**entry, **(entries if i == query else {})} for i, entry in enumerate(SMALL["gnd"])]
    return {**SMALL, "gnd": gnd, **top}


def test_the_official_layout(tmp_path: Path) -> None:
    found = revisitop.read_ground_truth(written(tmp_path, SMALL))
    assert (found.name, found.imlist, found.qimlist) == ("gnd_own", tuple(SMALL["imlist"]), tuple(SMALL["qimlist"]))
    assert found.gnd[0]["bbx"] == (136.5, 34.1, 648.5, 955.7) and found.gnd[1]["bbx"] == (78.0, 5.0, 714.0, 1000.0)
    assert found.gnd[0]["easy"].tolist() == [3, 0] and found.gnd[1]["easy"].dtype == np.int64
    scores = retrieval.evaluate([[2, 3, 1, 0], [0, 1, 2, 3]], found.gnd, num_database=len(found.imlist))
    assert scores == retrieval.evaluate([[2, 3, 1, 0], [0, 1, 2, 3]], SMALL["gnd"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    entry = {
        "bbx": np.array([136.5, 34.1, 648.5, 955.7]),
        "easy": np.array([3, 0], dtype=">i2"),
        "hard": [np.int64(1)],
        "junk": np.array([2], dtype=object),
    }
    names = np.array(SMALL["imlist"])
    content = changed(imlist=names, qimlist=np.array(SMALL["qimlist"], dtype=object), gnd=[entry, SMALL["gnd"][1]])
    found = revisitop.read_ground_truth(str(written(tmp_path, content, protocol=protocol)))
    expected = revisitop.read_ground_truth(written(tmp_path, SMALL, "plain.pkl"))
    assert (found.imlist, found.qimlist) == (expected.imlist, expected.qimlist)
    for one, other in zip(found.gnd, expected.gnd, strict=True):
        assert one["bbx"] == other["bbx"]
        assert all(one[key].tolist() == other[key].tolist() for key in ("easy", "hard", "junk"))


def test_what_old_numpy_and_python_2_wrote(tmp_path: Path) -> None:
    content = pickle.dumps(changed(easy=np.array([3, 0])), protocol=2)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert revisitop.read_ground_truth(written(tmp_path, old)).gnd[0]["easy"].tolist() == [3, 0]
    # Python 2 wrote array bytes and names as its own byte strings (SHORT_BINSTRING).
    data = struct.pack("<2q", 3, 0)
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    array += (
        b"(K\x01(K\x02tcnumpy\ndtype\n(U\x02i8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\nU\x10"
        + data
        + b"tb"
    )
    entry = b"(dU\x04easy" + array + b"sU\x04hard(lsU\x04junk(ls"
    old = b"\x80\x02(dU\x06imlist(lU\x01aaU\x01baU\x01caU\x01dasU\x07qimlist(lU\x01qasU\x03gnd(l" + entry + b"as."
    found = revisitop.read_ground_truth(written(tmp_path, old))
    assert found.imlist == ("a", "b", "c", "d") and found.gnd[0]["easy"].tolist() == [3, 0]
    assert found.gnd[0]["bbx"] is None and "1 queries have no box" in found.deviations[-1].text


@pytest.mark.parametrize(("name", "size"), [("roxford5k", 4993), ("rparis6k", 6322)])
def test_counts_are_checked_against_the_official(tmp_path: Path, name: str, size: int) -> None:
    content = {
        "imlist": [f"image_{i:06d}" for i in range(size)],
        "qimlist": [f"query_{i:06d}" for i in range(70)],
        "gnd": [{"bbx": [0, 0, 9, 9], "easy": [i], "hard": [i + 70], "junk": [size - 1 - i]} for i in range(70)],
    }
    for file in (f"gnd_{name}.pkl", "renamed.pkl"):
        found = revisitop.read_ground_truth(written(tmp_path, content, file))
        assert (found.name, found.deviations) == (name, ())
    content["imlist"].append("one_more")
    found = revisitop.read_ground_truth(written(tmp_path, content, f"gnd_{name}.pkl"))
    (deviation,) = found.deviations
    assert found.name == name and deviation.kind is DeviationKind.GROUND_TRUTH
    assert f"{size + 1} database images" in deviation.text and str(size) in deviation.text
    other = revisitop.read_ground_truth(written(tmp_path, content, "mine.pkl"))
    assert other.name == "mine" and "4993 of roxford5k or 6322 of rparis6k" in other.deviations[0].text


class Runs:
    """A pickle that calls `function(*args)` when it is loaded the usual way."""

    def __init__(self, function: object, *args: object) -> None:
        self.made = (function, args)

    def __reduce__(self) -> tuple:
        return self.made


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("where", ["whole", "imlist", "easy", "array"])
def test_nothing_is_executed(tmp_path: Path, where: str, protocol: int) -> None:
    mark = tmp_path / "executed"
    for hostile in (
        Runs(os.mkdir, str(mark)),
        Runs(eval, f"__import__('os').mkdir({str(mark)!r})"),
        Runs(subprocess.check_call, ["mkdir", str(mark)]),
    ):
        content = {
            "whole": hostile,
            "imlist": changed(imlist=hostile),
            "easy": changed(easy=[hostile]),
            "array": changed(easy=np.array([hostile], dtype=object)),
        }[where]
        with pytest.raises(DataError, match="which was not loaded"):
            revisitop.read_ground_truth(written(tmp_path, content, protocol=protocol))
        assert not mark.exists()


def test_the_hostile_pickle_would_have_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Runs(os.mkdir, str(tmp_path / "executed"))))
    assert (tmp_path / "executed").exists()


class ForgedDtype:
    """An object dtype whose state claims that it holds no pointers: numpy itself would take bytes for addresses."""

    def __reduce__(self) -> tuple:
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, 8, 8, 0)


class ForgedArray:
    def __reduce__(self) -> tuple:
        make, args, _ = np.empty(0).__reduce__()
        return make, args, (1, (1,), ForgedDtype(), False, b"\x41" * 8)


def test_bytes_never_become_pointers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an array of type"):
        revisitop.read_ground_truth(written(tmp_path, changed(easy=ForgedArray()), protocol=2))


@pytest.mark.parametrize("numbered", [b"r\0\0\0\1", b"p16777216\n", b"\x96\0\0\0\1\0\0\0\0"])
def test_a_number_in_a_file_takes_no_memory(tmp_path: Path, numbered: bytes) -> None:
    (tmp_path / "gnd.pkl").write_bytes(b"\x80\x02}" + numbered + b".")
    tracemalloc.start()
    with pytest.raises(DataError, match=r"no imlist|EOFError"):
        revisitop.read_ground_truth(tmp_path / "gnd.pkl")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_file_leaves_nothing_behind(tmp_path: Path) -> None:
    # GLOBAL numpy.dtype, then BUILD with a slot state: setattr on whatever the name gave.
    for name in (b"numpy\ndtype", b"numpy\nndarray", b"_codecs\nencode"):
        for hostile in (
            b"c" + name + b"\n(N}X\x0c\x00\x00\x00__setstate__K\x01stb.",
            b"c" + name + b"\n}X\x01\x00\x00\x00xK\x01sb.",
        ):
            with pytest.raises(DataError):
                revisitop.read_ground_truth(written(tmp_path, b"\x80\x02" + hostile))
    content = changed(easy=np.array([3, 0]))
    assert revisitop.read_ground_truth(written(tmp_path, content)).gnd[0]["easy"].tolist() == [3, 0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "got a list"),
        ({"imlist": ["a"], "gnd": []}, "got no qimlist"),
        (b"not a pickle", "UnpicklingError"),
        (b"", "EOFError"),
        (pickle.dumps(SMALL)[:-40], "got "),
        (OrderedDict(SMALL), "OrderedDict, which was not loaded"),
        (changed(imlist=[]), "imlist"),
        (changed(imlist=["a", "b", "c", 4]), "no list of names"),
        (changed(imlist=["a", "b", "c", "a"]), "1 names that occur twice"),
        (changed(imlist=["a", "b", "c", "../../etc/passwd"]), "leads out"),
        (changed(imlist=["a", "b", "c", "/etc/passwd"]), "leads out"),
        (changed(qimlist=["one"]), "1 names in qimlist but 2 entries in gnd"),
        (changed(gnd=[[1], [2]]), "AttributeError"),
        (changed(gnd=7), "TypeError"),
        (changed(easy=[4]), "database of 4; got 4; where: .*query 0"),
        (changed(easy=[-1]), "got -1"),
        (changed(easy=[2]), "image 2 twice; where: .*query 0"),
        (changed(query=1, easy=["3"]), "query 1, easy"),
        (changed(easy=np.array([1 + 2j])), "an array of type"),
        (changed(bbx=[5, 5, 5, 9]), "query 0, bbx"),
        (changed(bbx=[0, 0, float("nan"), 9]), "box"),
        (changed(bbx=[0, 0, 9]), "box"),
        (changed(bbx="0 0 9 9"), "box"),
        ({**SMALL, "gnd": [{"easy": [0], "bbx": [0, 0, 1, 1]}, SMALL["gnd"][1]]}, "got no hard, junk"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: object, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=says) as caught:
        revisitop.read_ground_truth(path)
    assert str(path) in caught.value.where


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file.*gnd_roxford5k"):
        revisitop.read_ground_truth(tmp_path / "gnd_roxford5k.pkl")


def test_it_is_no_data_set_of_classes() -> None:
    assert "revisitop" not in datasets.registry()
