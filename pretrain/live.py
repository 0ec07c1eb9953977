"""What a terminal shows of a run while it trains: how far it is, and its latest numbers, in place."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from evaltk import distributed, durations
from evaltk.progress import log

EVERY = 0.2  # seconds between two pictures


class Line:
    """The latest of each number, with the position; shown anew at most every `EVERY` seconds."""

    def __init__(self, live: Any, *, steps: int, epochs: int) -> None:
        self._live, self.steps, self.epochs = live, steps, epochs
        self.values: dict[str, Any] = {}
        self.shown = 0.0

    def at(self, step: int, epoch: int) -> None:
        """The position: steps taken, epochs completed."""
        self.values |= {"step": step, "epoch": epoch}
        if time.monotonic() - self.shown > EVERY:
            self.shown = time.monotonic()
            self._live.update(self._picture(), refresh=True)

    def add(self, line: Mapping[str, Any]) -> None:
        """Numbers of a log line."""
        self.values |= {key: value for key, value in line.items() if value is not None}

    def _picture(self) -> Any:
        from rich.text import Text

        parts = items(self.values, steps=self.steps, epochs=self.epochs)
        return Text("\n".join(folded(parts, self._live.console.width)))


def folded(parts: list[str], width: int) -> list[str]:
    """The parts in rows of at most `width` characters."""
    rows: list[str] = []
    for part in parts:
        longer = f"{rows[-1]}   {part}" if rows else part
        if rows and len(longer) < width:
            rows[-1] = longer
        else:
            rows.append(part)
    return rows


def items(values: Mapping[str, Any], *, steps: int, epochs: int) -> list[str]:
    """The parts of the line, in their order; a part whose number is not known is left out."""
    step, epoch = int(values.get("step", 0)), int(values.get("epoch", 0))
    parts = [f"step {step:,}/{steps:,}", f"epoch {min(epoch + 1, epochs)}/{epochs}"]
    shown = (
        ("loss", "loss {:.3f}"),
        ("teacher_entropy", "entropy {:.3f}"),
        ("used", "used {:,}"),
        ("unique_prototypes", "unique {:,}"),
        ("largest_duplicate_set", "largest set {:,}"),
        ("kappa_median", "kappa {:.3g}"),
        ("knn", "k-NN {:.1%}"),
        ("images_per_second", "{:,.0f} images/s"),
    )
    known = dict(values)
    if "won_share" in values and "num_prototypes" in values:
        known["used"] = round(values["won_share"] * values["num_prototypes"])
    parts += [form.format(known[name]).replace("%", " %") for name, form in shown if known.get(name) is not None]
    if values.get("images_per_second") and values.get("seconds_left") is not None:
        parts.append(f"{durations.in_words(float(values['seconds_left']))} left")
    return parts


@contextmanager
def shown(*, steps: int, epochs: int) -> Iterator[Line | None]:
    """A line at the foot of the terminal, with messages above it. None where stderr is no terminal, or with --quiet."""
    if not (distributed.is_main() and sys.stderr.isatty() and log.isEnabledFor(logging.INFO)):
        yield None
        return
    from rich.console import Console
    from rich.live import Live

    # Refreshed by the loop alone: a thread of its own would be copied into the worker processes.
    live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
    handlers = [h for h in log.handlers if isinstance(h, logging.StreamHandler) and h.stream is sys.stderr]
    with live:
        before = [handler.setStream(sys.stderr) for handler in handlers]  # which prints above the line now
        try:
            yield Line(live, steps=steps, epochs=epochs)
        finally:
            for handler, stream in zip(handlers, before, strict=True):
                if stream is not None:
                    handler.setStream(stream)
