"""docs/evidence.md, its figures and docs/evidence.html, from result files alone: the same files give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from benchmarks.evidence import cells, claims, suite
from benchmarks.evidence.claims import Claim
from benchmarks.evidence.seeds import Found
from evaltk import files
from evaltk.errors import StorageError
from reports.figures import style
from reports.formats import render
from reports.page.build import TEMPLATES, to_html
from reports.page.figures import inline

HERE = Path(__file__).parent
TRIALS, LOG, COST = "demo-trials.jsonl", "trials.jsonl", "cost.json"
INTRO = """What the paper (Govindarajan et al., ICLR 2023, arXiv 2405.10939) claims, tried at the scale of a laptop. \
This page is written by `python -m benchmarks.evidence --page` from the result files in `benchmarks/evidence/results`; \
`make evidence` runs the cells that have no result yet. Small nets on small images can fail to show what holds for \
ImageNet, and the reverse: nothing here is a reproduction."""
RULES = """Seeds pair the cells: those of one seed see the same images and views in the same order and begin with the \
same weights where shapes agree. Intervals are 95 % intervals of the mean by Student's t over seeds. A claim is **seen \
at this scale** where the interval of its paired difference is above 0, **contradicted** where it is below, and \
**cannot be told** otherwise; **not seen**: what should be there is there in no seed. Diverged trainings are counted; \
they have no accuracy. With three seeds an interval reaches 4.3 standard errors to each side: it tells large \
differences alone; with fewer there is none."""


def write(results: Path, docs: Path) -> list[Path]:
    """Write the page of the suites that have results. Returns: the files. Raises: StorageError: damaged results."""
    written: list[Path] = []
    parts, pages = [], []
    for name in suite.names():
        known = suite.load(name)
        found = [cells.read(path) for path in sorted((results / name).glob("*_seed=*.json"))]
        if not found:
            continue
        made = claims.all_claims(found, _cost(results / name / COST))
        for claim in made:
            for drawn in claim.figures:
                at = docs / "evidence" / f"{name}-{drawn.name}"
                files.make_folder(at.parent)
                written += style.save(drawn.figure, at, ("svg",), title=drawn.title)
        parts.append(_suite(known, made, found))
        pages.append(_html(known, made, found))
    left = [name for name in suite.names() if not any((results / name).glob("*_seed=*.json"))]
    missing = [f"Suite `{name}` was not run: `python -m benchmarks.evidence {name}`." for name in left]
    trials = _trials(results)
    text = "\n\n".join(["# Evidence", INTRO, RULES, *missing, *parts, _appendix(trials)]) + "\n"
    files.write_text(docs / "evidence.md", text)
    files.write_text(docs / "evidence.html", _page(pages, missing, trials))
    return [docs / "evidence.md", docs / "evidence.html", *written]


def _cost(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise StorageError(wanted="timings", got=str(error)[:80], where=path, do="remove it and run again") from error


def _done(known: suite.Suite, found: Sequence[Found]) -> str:
    """How much of the suite is done, and what is not."""
    hours = sum(f["seconds"]["cpu"] for f in found) / 3600
    groups: dict[str, list[int]] = {}
    for cell in known.cells:
        groups.setdefault(cell.group, [0, 0])[1] += 1
    for one in found:
        groups.setdefault(one["group"], [0, 0])[0] += 1
    missing = [f"{group} ({done} of {wanted})" for group, (done, wanted) in groups.items() if done < wanted]
    told = f"{len(found)} of {len(known.cells)} cells are done, {hours:.2f} CPU hours in all."
    return told + (f" Not finished: {', '.join(missing)}." if missing else "")


def _settings(known: suite.Suite) -> list[str]:
    cell = known.cells[0]
    axes = {axis for c in known.cells for axis in c.values} | {"run.seed"}
    kept = [word for word in cell.overrides if word.partition("=")[0] not in axes or word in _base(known)]
    return [f"recipe {cell.recipe}", *kept]


def _base(known: suite.Suite) -> set[str]:
    """Overrides that all cells share."""
    shared = [set(cell.overrides) for cell in known.cells]
    return set.intersection(*shared)


def _suite(known: suite.Suite, made: Sequence[Claim], found: Sequence[Found]) -> str:
    parts = [f"## {known.name}", _done(known, found), f"**How settings were chosen.** {known.chosen.strip()}"]
    parts += ["**Verdicts**", "\n".join(f"- ({c.key}) {c.title}: {c.verdict}" for c in made)]
    for claim in made:
        parts += [f"### ({claim.key}) {claim.title}", f"The paper: {claim.paper}", f"Run: {claim.ran}"]
        parts += [render.render(table, "md").strip().replace("### ", "#### ") for table in claim.tables]
        parts += [f"![{drawn.title}](evidence/{known.name}-{drawn.name}.svg)" for drawn in claim.figures]
        parts.append(f"**{claim.verdict}**")
    parts += ["### Settings of all cells", "```\n" + "\n".join(_settings(known)) + "\n```"]
    return "\n\n".join(parts)


def _trials(results: Path) -> list[tuple[str, str, str]]:
    """(what, outcome, CPU seconds) of every training made, in order: those that looked for the demo's, the cells."""
    told = []
    for path in (results / TRIALS, *sorted(results.glob(f"*/{LOG}"))):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            one = json.loads(line)
            what = one.get("what") or f"{one['suite']}: {one['cell']} ({one['identity']})"
            outcome = one.get("outcome") or ("diverged" if one["diverged"] else "finished")
            cpu = (one.get("seconds") or {}).get("cpu")
            told.append((what, outcome, "not measured" if cpu is None else f"{cpu:.0f}"))
    return told


def _appendix(trials: Sequence[tuple[str, str, str]]) -> str:
    rows = "\n".join(f"| {what.replace('|', '/')} | {outcome} | {cpu} |" for what, outcome, cpu in trials)
    head = "## Appendix: all trials\n\nEvery training that was made for the demo and for this page, in order."
    return f"{head}\n\n| training | outcome | CPU seconds |\n|---|---|--:|\n{rows}"


def _html(known: suite.Suite, made: Sequence[Claim], found: Sequence[Found]) -> dict[str, Any]:
    return {
        "name": known.name,
        "done": _done(known, found),
        "chosen": known.chosen.strip(),
        "settings": _settings(known),
        "claims": [
            {
                "claim": claim,
                "tables": [to_html(table) for table in claim.tables],
                "figures": [inline(drawn, f"{known.name}-{drawn.name}") for drawn in claim.figures],
            }
            for claim in made
        ],
    }


def _page(suites: Sequence[dict[str, Any]], missing: Sequence[str], trials: Sequence[tuple[str, str, str]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    plain = {name: text.replace("**", "").replace("`", "") for name, text in (("intro", INTRO), ("rules", RULES))}
    shown = [line.replace("`", "") for line in missing]
    return environment.get_template("page.html.jinja").render(
        css=css, suites=suites, missing=shown, trials=trials, **plain
    )
