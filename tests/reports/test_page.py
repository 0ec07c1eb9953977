"""The page: one file with everything inside, whose numbers are the tables', and on which nothing foreign can run."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from result_files import LOOKS, knn, predicted, retrieval, vos, write

from evaltk import cli, results
from evaltk.types import Result, ResultData, Score
from reports import paired
from reports.formats import render
from reports.page import galleries
from reports.page.build import build_page
from reports.tables.build import build_overview

HOSTILE = ("<script>alert(1)</script>", "a_b%", '"><img src=x onerror=alert(2)>', "$x$ &amp; {{ 7 * 7 }}\x1b[2J\ud800")
VOID = {"meta", "img", "br", "link", "input", "hr"}
RIGHT = np.arange(200) % 5 > 0


class Page(HTMLParser):
    """What is on a page. Raises: AssertionError: tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self.cells: list[tuple[str, str, str]] = []  # (table, data-value, text)
        self.columns: dict[str, list[str]] = {}
        self.caption = self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        assert len(given) == len(attrs), f"an attribute twice: {tag} {attrs}"
        self.tags.append((tag, given))
        if tag in VOID:
            return
        self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        elif tag == "caption":
            self.caption = ""
        elif tag in ("td", "th"):
            self.cells.append((self.caption, given.get("data-value", ""), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if not self.open:
            return
        if self.open[-1] in self.inside:
            self.inside[self.open[-1]].append(data)
        if self.headings and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)
        if "caption" in self.open:
            self.caption += data
        if "td" in self.open:
            table, value, text = self.cells[-1]
            self.cells[-1] = (table, value, text + data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [given for name, given in self.tags if name == tag]


def prototypes(name: str) -> tuple[Result, dict]:
    """A result of `prototypes` with all that figures and gallery need."""
    rng = np.random.default_rng(1)
    scores = [
        Score(dataset="toy", split="weights", metric=metric, value=v, n=40, at={"threshold": t, "reading": "leader"})
        for t, v in ((0.5, 20.0), (0.9, 30.0))
        for metric in ("unique_count", "largest_count")
    ]
    arrays = {
        "kappa": rng.gamma(9, 3, 40),
        "sizes_leader_0.9": np.arange(30, 0, -1),
        "counts": np.arange(40),
        "purity": np.full(40, 0.5),
        "projection": rng.standard_normal((40, 2)),
        "projection_share": np.array([0.5, 0.2]),
        "void": np.zeros(40, dtype=bool),
        "gallery_kind": np.array(["largest", "purest"]),
        "gallery_prototype": np.array([39, 4]),
        "gallery_cosine": np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]], dtype=np.float32),
        "gallery_images": rng.integers(0, 256, (2, 3, 8, 8, 3)).astype(np.uint8),
    }
    result = knn(name, dataset="toy")
    made = Result(
        checkpoint=result.checkpoint,
        protocol="prototypes",
        version=1,
        settings={"threshold": 0.9},
        data=ResultData(name="toy", fingerprint="f" * 64),
        preprocessing=LOOKS,
        notes=("a <note>",),
        scores=tuple(scores),
        seed=0,
        request="9" * 64,
        made={"git": "abc"},
    )
    return made, arrays


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    pairs = [predicted(name, np.roll(RIGHT, i), request=f"{i}" * 64) for i, name in enumerate(HOSTILE)]
    pairs += [(knn(), {}), (knn("other", 0.2, epoch=800), {}), (retrieval(), {}), (vos(), {}), prototypes("net")]
    write(folder, pairs)
    return folder


@pytest.fixture(scope="module")
def text(runs: Path) -> str:
    skipped = [(runs / "half.json", "JSONDecodeError: <b>"), (runs / "foreign.json", "no result of evaltk")]
    return build_page(list(results.find(runs)), runs=runs, skipped=skipped)


@pytest.fixture(scope="module")
def parsed(text: str) -> Page:
    return Page(text)


def test_every_number_is_the_csv_s(runs: Path, parsed: Page) -> None:
    found = list(results.find(runs))
    made = build_overview([r for _, r in found], predictions=paired.beside(found, pytest.fail))
    lines = [*csv.DictReader(io.StringIO(render.render_all(made, "csv")))]
    wanted = Counter((line["table"], float(line["value"])) for line in lines if line["value"])
    titles = {table.title for table in made}
    there = Counter((t, float(v)) for t, v, _ in parsed.cells if v and t in titles)
    assert wanted == there and len(wanted) > 8
    shown = {(t, float(v)): text for t, v, text in parsed.cells if v and t in titles}
    for (table, value), said in shown.items():
        number = re.match(r"\s*(-?[\d.]+)", said)
        assert number and abs(float(number[1]) - value) <= 0.5 * 10 ** -len(number[1].partition(".")[2]) + 1e-9, table
    low = next(line for line in lines if line["low"])
    assert f"± {(float(low['high']) - float(low['low'])) / 2:.2f}" in parsed.text
    ends = f"95 % interval [{float(low['low']):.2f}, {float(low['high']):.2f}]"
    assert ends in [given.get("title") for given in parsed.all("span")]


def test_verdicts_are_counted_and_shown(parsed: Page) -> None:
    told = re.findall(r"(\d+) (reproduced|off|not comparable)", parsed.text)
    cards = dict.fromkeys(("reproduced", "off", "not comparable"), 0)
    cards |= {verdict: number for number, verdict in reversed(told)}  # they stand first; those of nothing are left out
    table = [text for caption, _, text in parsed.cells if caption == "Our results and the published numbers"]
    for verdict, start in (("reproduced", "reproduced ("), ("off", "off by"), ("not comparable", "not comparable")):
        assert int(cards[verdict]) == sum(cell.startswith(start) for cell in table), verdict
    assert int(cards["reproduced"]) >= 1 and int(cards["off"]) >= 1


def test_nothing_comes_from_elsewhere(text: str, parsed: Page) -> None:
    for tag, given in parsed.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "formaction", "xlink:href"):
            assert given.get(name, "#").startswith(("#", "data:image/")), (tag, given)
        assert "style" not in given and not [name for name in given if name.startswith("on")], (tag, given)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        assert given.get("clip-path", "url(#").startswith("url(#")
    (style,) = parsed.inside["style"]
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"https?://", text)


def test_the_policy_lets_only_our_style_and_script_run(parsed: Page) -> None:
    policy = next(m["content"] for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'" and rules["img-src"] == "data:"
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        (body,) = parsed.inside[kind]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    order = [tag for tag, given in parsed.tags if tag in ("style", "script") or "content" in given]
    assert order.index("style") > [m.get("http-equiv") for m in parsed.all("meta")].index("Content-Security-Policy")


def test_names_are_shown_not_run(text: str, parsed: Page) -> None:
    assert len(parsed.all("script")) == 1 and all(i["src"].startswith("data:image/jpeg") for i in parsed.all("img"))
    for name in ("<script>alert(1)</script>", "a_b%", '"><img src=x onerror=alert(2)>', "&amp; {{ 7 * 7 }}"):
        assert name in parsed.text
    assert "\x1b" not in text and "\\x1b[2J" in text
    text.encode()


def test_ids_are_unique_and_what_refers_to_them_finds_them(parsed: Page) -> None:
    ids = Counter(given["id"] for _, given in parsed.tags if "id" in given)
    assert ids and set(ids.values()) == {1}
    for tag, given in parsed.tags:
        refers = [given.get("aria-labelledby", ""), given.get("aria-describedby", "")]
        refers += [given["href"][1:]] if given.get("href", "").startswith("#") else []
        refers += re.findall(r"url\(#([^)]+)\)", given.get("clip-path", ""))
        assert set(filter(None, refers)) <= set(ids), (tag, given)


def test_headings_are_in_order(parsed: Page) -> None:
    levels = [level for level, _ in parsed.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert all(said.strip() for _, said in parsed.headings)


def test_tables_and_figures_say_what_they_are(parsed: Page) -> None:
    assert all(given.get("scope") in ("col", "row", "colgroup") for given in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table")) > 5
    assert parsed.all("img") and all(given["alt"].strip() and "width" in given for given in parsed.all("img"))
    drawn = parsed.all("svg")
    assert len(drawn) >= 5 and all(given["role"] == "img" for given in drawn)
    said = dict(zip([g["id"] for g in parsed.all("title") if "id" in g], parsed.inside["title"][1:], strict=True))
    assert all(said[given["aria-labelledby"]].strip() for given in drawn)
    assert len(parsed.all("desc")) == len(drawn) and "neighbours k" in parsed.text
    assert len(parsed.all("text")) > 50  # text that is text
    for given in parsed.all("div"):
        if given.get("tabindex"):
            assert given["role"] == "region" and given["aria-label"].strip()


def test_what_was_skipped_is_named_and_counted(parsed: Page) -> None:
    assert "2 JSON files are not results and were skipped" in parsed.text
    assert "half.json" in parsed.text and "JSONDecodeError: <b>" in parsed.text


def test_provenance(parsed: Page) -> None:
    for said in (
        "dataset.fingerprint",
        "knn on digits",
        "Provenance of",
        "a <note>",
        "git",
        "abc",
        "net/prototypes-toy-999",
    ):
        assert said in parsed.text, said


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    found = write(tmp_path, [predicted("net a", RIGHT), predicted("net b", ~RIGHT)])
    assert build_page(found, runs=tmp_path) == build_page(found, runs=tmp_path)


def test_galleries_keep_to_their_bytes() -> None:
    _, arrays = prototypes("net")
    arrays["gallery_images"] = np.random.default_rng(0).integers(0, 256, (2, 8, 64, 64, 3)).astype(np.uint8)
    arrays["gallery_cosine"] = np.zeros((2, 8))
    sizes = {}
    for share in (500_000, 60_000, 20_000):
        made = galleries.build_gallery("net", arrays, share)
        assert made and sum(len(strip.uri) for strip in made.strips) <= share
        sizes[share] = made.strips[0].width
        assert (made.shown == "") == (made.strips[0].width == 8 * 64)
        raw = base64.b64decode(made.strips[0].uri.partition(",")[2])
        from PIL import Image

        assert Image.open(io.BytesIO(raw)).size == (made.strips[0].width, 64)
    assert sizes[500_000] > sizes[20_000]
    assert galleries.build_gallery("net", arrays, 100) is None
    assert galleries.build_gallery("net", {}, 10**6) is None


def test_the_command(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    write(folder, [predicted("net a", RIGHT), prototypes("net")])
    (folder / "notes.json").write_text("{}")
    (folder / "knn-digits-aaaaaaaaaaaa.json").write_text('{"format": 1, "chec')
    (beside,) = (folder / "net").glob("*.npz")
    beside.write_bytes(b"PK")
    out = tmp_path / "new" / "report.html"
    assert cli.main(["report", "--runs", str(folder), "--out", str(out)]) == 0
    said, err = capsys.readouterr()
    assert said == f"{out}\n" and "2 results read, 2 JSON files skipped" in err and "predictions" in err
    shown = Page(out.read_text(encoding="utf-8"))
    assert "2 JSON files are not results and were skipped" in shown.text
    assert "Unreadable predictions" in shown.text and not shown.all("img")


@pytest.mark.parametrize(
    ("runs", "out", "says"),
    [
        ("nowhere", "report.html", "wanted a folder of results; got no such folder"),
        (".", "report.html", "wanted results; got none"),
        (".", ".", "wanted a file to write; got a folder"),
    ],
)
def test_what_a_user_can_mend(
    runs: str, out: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(["report", "--runs", str(tmp_path / runs), "--out", str(tmp_path / out)])
    said, err = capsys.readouterr()
    assert code == 2 and not said and says in err and err.count("\n") == 1


def test_the_page_needs_no_torch() -> None:
    code = "import sys, reports.page.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
