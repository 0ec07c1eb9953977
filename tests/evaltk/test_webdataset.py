"""WebDataset shards: which files they are, how samples are grouped, and what is refused. Nothing is unpacked."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from own_images import write_tar
from PIL import Image

from evaltk import cli, datasets
from evaltk.data import webdataset
from evaltk.data.options import DataOptions
from evaltk.errors import DataError

SPLIT = DataOptions(split=0.5)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indexes are kept."""
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EVALTK_HOME", str(path))
    return path


def png(number: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def sample(key: str, label: object, number: int = 0) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", png(number)), (f"{key}.cls", str(label).encode())]


def test_samples_are_grouped_by_key(tmp_path: Path) -> None:
    members = [
        ("./a/0001.seg.png", png(9)),  # another extension of the same key
        ("./a/0001.PNG", png(1)),
        ("a/0001.cls", b"10\n"),
        ("a/0001.txt", b"a caption"),
        ("b/0001.cls", b"9"),  # the label first
        ("b/0001.png", png(2)),
        ("b/._0001.png", b"of macOS"),
        ("README", b"no sample"),
        ("c.d/0001.json", b'{"label": "10", "caption": "x"}'),
        ("c.d/0001.png", png(3)),
        ("c.d/0002.json", b'{"label": 9}'),
        ("c.d/0002.png", png(4)),
    ]
    found = datasets.load(f"wds={write_tar(tmp_path / 'x.tar', members)}", SPLIT)
    assert found.train.classes == ("9", "10")
    named = {s.image_id(i): (int(s.labels[i]), s.open(i).tobytes()) for s in found.splits for i in range(2)}
    pixels = [Image.open(io.BytesIO(png(i))).tobytes() for i in range(5)]
    assert named == {
        "x.tar/a/0001.png": (1, pixels[1]),
        "x.tar/b/0001.png": (0, pixels[2]),
        "x.tar/c.d/0001.png": (1, pixels[3]),
        "x.tar/c.d/0002.png": (0, pixels[4]),
    }


def test_long_names_and_other_formats_of_tar(tmp_path: Path) -> None:
    key = "f" * 90 + "/" + "ü" * 100
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "x.tar", "w", format=kind) as tar:
            for at in range(4):
                for name, data in sample(f"{key}{at}", at % 2, at):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        found = datasets.load(f"wds={tmp_path}/x.tar", SPLIT)
        assert sorted(s.image_id(i) for s in found.splits for i in range(2)) == [
            f"x.tar/{key}{at}.png" for at in range(4)
        ]


def shards(root: Path) -> None:
    for name, first in (("in-train-00", 0), ("in-train-01", 4), ("in-train-02", 8), ("in-val-0", 12)):
        write_tar(root / f"{name}.tar", [m for i in range(first, first + 4) for m in sample(str(i), i % 2, i)])


PATTERNS = (
    "{}/in-train-{{00..02}}.tar,{}/in-val-0.tar",
    "{}/in-train-*.tar,{}/in-{{val,}}-0.tar",
    "{}/in-*.tar",
    "{}",
    "{}/in-train-0[0-2].tar,{}/in-v?l-{{0..0}}.tar",
    "{}/in-train-{{00,01,02}}.tar,{}/in-val-*.tar",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(tmp_path: Path, pattern: str) -> None:
    shards(tmp_path)
    word = pattern.format(tmp_path, tmp_path)
    if "{val,}" in word:
        write_tar(tmp_path / "in--0.tar", sample("x", 0, 99))
    found = datasets.load(f"wds={word}")
    assert (found.test.name, len(found.train)) == ("test" if "," in word else "val", 12)
    assert [found.train.image_id(i) for i in (0, 4)] == ["in-train-00.tar/0.png", "in-train-01.tar/4.png"]


def test_a_pattern_longer_than_a_name_may_be(tmp_path: Path) -> None:
    numbers = [f"{i:030d}" for i in range(10)]
    for number in numbers:
        write_tar(tmp_path / f"{number}.tar", sample("0", int(number) % 2, int(number)))
    found = datasets.load(f"wds={tmp_path}/{{{','.join(numbers)}}}.tar", SPLIT)
    assert sum(found.sizes.values()) == 10


def test_folders_by_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_tar(tmp_path / split / "0.tar", [*sample("0", 0, 1), *sample("1", 1, 2)])
    for word in (f"{tmp_path}", f"{tmp_path}/train,{tmp_path}/test"):
        found = datasets.load(f"wds={word}")
        assert found.sizes == {"train": 2, "test": 2} and found.test.image_id(0) == "test/0.tar/0.png"


def test_keys_of_json(tmp_path: Path) -> None:
    members = [(f"{i}.png", png(i)) for i in range(4)]
    members += [(f"{i}.json", f'{{"breed": "b{i % 2}", "label": 0, "class": 1, "n": 1.5}}'.encode()) for i in range(4)]
    word = f"wds={write_tar(tmp_path / 'x.tar', members)}"
    assert datasets.load(word, DataOptions(split=0.5, label_column="breed")).train.classes == ("b0", "b1")
    for key, says in (("n", "a whole number or text; got 1.5"), ("x", "a column 'x'; got columns breed, label")):
        with pytest.raises(DataError, match=says):
            datasets.load(word, DataOptions(split=0.5, label_column=key))
    with pytest.raises(DataError, match=r"one column of labels in .json; got label, class"):
        datasets.load(word, SPLIT)


GOOD = [*sample("0", 0), *sample("1", 1, 1)]
WRONG: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "nothing in it": ([], "samples KEY.jpg.*got none"),
    "no labels": ([("0.png", png(0)), *sample("1", 1)], r"a label \(.cls or .json\).*got 1 of 2 samples without: 0"),
    "no image": ([("0.cls", b"1"), ("0.txt", b"x"), *sample("1", 1)], "an image for each key; got 1 of 2"),
    "an empty label": ([*GOOD, *sample("2", " ")], "an empty file; where: .*x.tar, 2"),
    "a label in bytes": ([*GOOD, ("2.png", png(1)), ("2.cls", b"\xff\xfe")], "as UTF-8 text.*where: .*2.cls"),
    "damaged JSON": ([("0.png", png(0)), ("0.json", b'{"label":')], "a JSON object"),
    "a list in JSON": ([("0.png", png(0)), ("0.json", b"[1]")], "labels in .json"),
    "deep JSON": ([("0.png", png(0)), ("0.json", b"[" * 200_000)], "a JSON object"),
    "NaN in JSON": ([("0.png", png(0)), ("0.json", b'{"label": NaN}')], "got nan"),
    "no label in JSON": ([("0.png", png(0)), ("0.json", b'{"caption": "x"}')], "got columns caption;.*--label-column"),
    "a huge label": ([("0.png", png(0)), ("0.cls", bytes(2_000_000))], "got 0.cls of 2,000,000 bytes"),
    "a key twice": ([*GOOD, *sample("0", 1)], "one image for each key; got 0.png twice"),
    "two images": ([*GOOD, ("0.jpg", b"x")], "got 0.jpg beside .png"),
    "out of the archive": ([*GOOD, *sample("../../etc/2", 1)], r"names inside the archive; got '\.\./\.\./etc/2.png'"),
    "an absolute name": ([*GOOD, ("/etc/2.png", png(1))], "names inside the archive; got '/etc/2.png'"),
    "numbers and names": ([*GOOD, ("2.png", png(2)), ("2.json", b'{"label": 3}'), *sample("3", "cat")], "got 3 beside"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_shards_that_are_refused(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    members, says = WRONG[case]
    path = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=says) as caught:
        datasets.load(f"wds={path}", SPLIT)
    assert caught.value.do
    assert cli.main(["run", "pixels:8", "--data", f"wds={path}", "--split", "0.5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.tar"]


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        entry = tarfile.TarInfo("0.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    with pytest.raises(DataError, match=r"got 0\.png, a link or special file"):
        datasets.load(f"wds={tmp_path}/x.tar", SPLIT)


def test_every_way_to_cut_a_shard_is_noticed(tmp_path: Path) -> None:
    """All lengths around the blocks, and a damaged header, which tarfile takes for the end."""
    path = write_tar(tmp_path / "x.tar", [*GOOD, *sample("2", 0, 2)])
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % 512
    for length in sorted({0, 1, *range(511, end, 256), *range(512, end + 1, 512)}):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            datasets.load(f"wds={path}", SPLIT)
    path.write_bytes(whole[: end + 512])  # one empty block will do
    assert len(datasets.load(f"wds={path}", SPLIT).train) == 2
    headers = [at for at in range(0, end, 512) if _is_header(whole[at : at + 512])]
    assert len(headers) == 6
    for at in headers:
        damaged = bytearray(whole)
        damaged[at + 150] ^= 255
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="a whole tar file"):
            datasets.load(f"wds={path}", SPLIT)


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except tarfile.HeaderError:
        return False
    return True


def test_names_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(tmp_path)
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "other.tar", GOOD)
    monkeypatch.chdir(tmp_path)
    for word, says in {
        "in-train-{00..03}.tar,in-val-0.tar": "got no in-train-03.tar",
        "in-train-{03..00}.tar": "a range such as",
        "in-{0..9}{0..99999}{0..9}.tar": "at most 100,000 shards",
        "none-*.tar": r"got no none-\*.tar",
        "empty": "tar shards; got an empty folder",
        "*.tar": "names that all say train, val or test.*got other.tar beside train, val",
        "in-train-*.tar,in-train-00.tar": "each file once; got in-train-00.tar twice",
        "in-train-*.tar": "got only train.*--split",
        "other.tar": "got images of no named split",
        "https://example.org/x-{00..02}.tar": "files on this machine.*download the shards first",
        "pipe:touch run": "files on this machine",
        "a.tar,b.tar,c.tar": "got 3 patterns",
    }.items():
        with pytest.raises(DataError, match=says) as caught:
            datasets.load(f"wds={word}")
        assert caught.value.do
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_compressed_shards_are_named(tmp_path: Path, ending: str) -> None:
    with tarfile.open(tmp_path / f"x.tar.{ending}", f"w:{ending}") as tar:
        entry = tarfile.TarInfo("0.cls")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"1"))
    with pytest.raises(DataError, match="decompress"):
        datasets.load(f"wds={tmp_path}/x.tar.{ending}", SPLIT)


def test_a_shard_that_goes_while_it_is_read(tmp_path: Path) -> None:
    word = f"wds={write_tar(tmp_path / 'x.tar', [m for i in range(4) for m in sample(str(i), i % 2, i)])}"
    split = datasets.load(word, SPLIT).test
    os.truncate(tmp_path / "x.tar", 700)
    with pytest.raises(DataError, match=r"an image that can be decoded.*skip-bad-images"):
        split.open(1)
    (tmp_path / "x.tar").unlink()
    with pytest.raises(DataError, match="No such file"):
        split.open(0)


def test_an_unchanged_shard_is_gone_through_once(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "x.tar", [m for i in range(4) for m in sample(str(i), i % 2, i)])
    first = datasets.load(f"wds={path}", SPLIT)
    [kept] = (home / "shards").iterdir()
    calls: list[Path] = []
    index = webdataset.index
    monkeypatch.setattr(webdataset, "index", lambda path, key: calls.append(path) or index(path, key))
    again = datasets.load(f"wds={path}", SPLIT)
    assert not calls and again.fingerprint == first.fingerprint and again.train.open(0).size == (8, 6)
    assert again.train.labels.tolist() == first.train.labels.tolist()
    for text in ("", "{}", '{"keys": ["0.png"], "labels": [], "offsets": [], "sizes": []}', "[1]"):
        kept.write_text(text)
        assert datasets.load(f"wds={path}", SPLIT).fingerprint == first.fingerprint
    assert len(calls) == 4
    write_tar(path, [m for i in range(4) for m in sample(str(i), 1 - i % 2, i)])  # of the same size
    os.utime(path, ns=(5, 5))
    assert datasets.load(f"wds={path}", SPLIT).fingerprint != first.fingerprint
    (home / "file").write_text("")
    monkeypatch.setenv("EVALTK_HOME", str(home / "file"))  # nothing can be written there
    assert len(datasets.load(f"wds={path}", SPLIT).train) == 2
