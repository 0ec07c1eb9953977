"""Training runs on a page: one HTML file with their numbers and curves inside, which nothing else is loaded for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import jinja2
from markupsafe import Markup

from reports.figures import training
from reports.page.build import TEMPLATES, content_digest, environment
from reports.page.figures import inline
from reports.training import terminal
from reports.training.logs import RunLog

EVERY = 30  # seconds after which a browser loads the page again while a run is under way
MOST = 8  # figures


def build_page(runs: Mapping[str, RunLog], states: Mapping[str, str], *, told: str) -> str:
    """The page. Args: states: of the runs, by name. told: when it was written, in words."""
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src '{content_digest(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    drawn = list(training.of_logs(runs))[:MOST]
    values = {
        "runs": [
            {"name": name, "state": states[name], "cells": terminal.cells(run, states[name]), "told": run.alarms()}
            for name, run in runs.items()
        ],
        "columns": terminal.columns(),
        "figures": [inline(one, f"run-{n}") for n, one in enumerate(drawn, 1)],
        "refresh": EVERY if any(state.startswith("running") for state in states.values()) else 0,
        "told": told,
    }
    return _template().render(values, style=Markup(style), policy=policy)


@functools.cache
def _template() -> jinja2.Template:
    text = (Path(__file__).with_name("training.html.jinja")).read_text(encoding="utf-8")
    return environment().from_string(text)
