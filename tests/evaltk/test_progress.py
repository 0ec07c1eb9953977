"""Progress that one can plan by: rate, time left, what is at work; in a terminal and off it; messages beside it."""

from __future__ import annotations

import io
import sys

import pytest

from evaltk import progress


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Screen(io.StringIO):
    """A terminal that keeps what was written; `lines` is what it shows in the end."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        shown = [""]
        for part in self.getvalue().replace("\r\x1b[K", "\0").replace("\n", "\n\1").split("\1"):
            for n, piece in enumerate(part.split("\0")):
                if n:
                    shown[-1] = ""
                shown[-1] += piece.rstrip("\n")
            if part.endswith("\n"):
                shown.append("")
        return shown


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    progress.configure()
    return made


def test_a_line_says_what_how_far_how_fast_and_how_long(clock: Clock, screen: Screen) -> None:
    with progress.about("[2/6] dino_vits16"), progress.bar("photos/train", 2000, done=500) as advance:
        assert screen.lines()[-1] == "[2/6] dino_vits16 · photos/train 500/2,000"
        clock.now += 10
        advance(140)
        assert screen.lines()[-1] == "[2/6] dino_vits16 · photos/train 640/2,000 · 14 img/s · 1:37 left"
    assert screen.lines() == [""]  # a short one leaves nothing


def test_a_rate_tried_out_stands_until_the_first_batch_is_done(clock: Clock, screen: Screen) -> None:
    def pace() -> float:
        clock.now += 3.0  # counts towards neither rate nor time left
        return 16.0

    with progress.bar("photos/train", 640, pace=pace) as advance:
        assert screen.lines()[-1] == "photos/train 0/640 · about 16 img/s · about 0:40 left"
        clock.now += 4
        advance(80)
        assert screen.lines()[-1] == "photos/train 80/640 · 20 img/s · 0:28 left"
    with progress.bar("photos/train", 640, pace=lambda: None):
        assert screen.lines()[-1] == "photos/train 0/640"


def test_off_a_terminal_nothing_is_tried_out(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    progress.configure()
    with progress.bar("photos", 640, pace=lambda: pytest.fail("asked")):
        pass


def test_slow_and_large_things_have_units_of_their_own(clock: Clock, screen: Screen) -> None:
    for unit, number, text in (
        ("images", 3, "photos 3/10 · 0.3 img/s · 0:23 left"),
        ("epochs", 1, "photos 1/10 · 10.0 s per epoch · 1:30 left"),
        ("sequences", 60, "photos 60/10 · 6.0 sequence/s"),
        ("bytes", 20_000_000, "photos 20.0 MB/0.0 MB · 2.0 MB/s"),
    ):
        with progress.bar("photos", 10, unit=unit) as advance:
            clock.now += 10
            advance(number)
            if unit == "images":
                assert screen.lines()[-1] == "photos 3/10 · 3.3 s per image · 0:23 left"
            else:
                assert screen.lines()[-1] == text


def test_messages_never_break_the_line(clock: Clock, screen: Screen) -> None:
    with progress.bar("photos", 10) as advance:
        progress.log.info("step 0: loss 4.8")
        clock.now += 1
        advance(5)
        progress.log.warning("careful")
        assert screen.lines() == ["evaltk: step 0: loss 4.8", "evaltk: careful", "photos 5/10 · 5.0 img/s · 0:01 left"]
    assert screen.lines() == ["evaltk: step 0: loss 4.8", "evaltk: careful", ""]


def test_a_narrow_terminal_has_one_line(clock: Clock, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with progress.about("x" * 200), progress.status("loading torch"):
        assert screen.lines() == ["x" * 39]
    assert screen.lines() == [""]


def test_off_a_terminal_a_line_comes_every_half_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress.configure()
    with progress.about("net"), progress.status("loading torch"), progress.bar("linear", 100, unit="epochs") as advance:
        for _ in range(100):
            clock.now += 1.0
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "evaltk: net · linear 30/100 · 1.0 epoch/s · 1:10 left",
        "evaltk: net · linear 60/100 · 1.0 epoch/s · 0:40 left",
        "evaltk: net · linear 90/100 · 1.0 epoch/s · 0:10 left",
        "evaltk: net · linear: 100 epochs in 1:40, 1.0 epoch/s",
    ]
    monkeypatch.setenv("RANK", "3")  # of torchrun's processes the first one speaks
    with progress.bar("linear", 100) as advance:
        clock.now += 60
        advance(1)
    progress.configure(quiet=True)
    monkeypatch.delenv("RANK")
    with progress.bar("linear", 100) as advance:
        clock.now += 60
        advance(1)
    assert capsys.readouterr().err == ""


def test_names_in_messages_do_nothing_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    progress.configure()
    progress.log.warning("skipped %s:\nno result", "\x1b[2Ja\rb\x07")
    assert screen.getvalue() == "evaltk: skipped \\x1b[2Ja b\\x07:\nno result\n"
