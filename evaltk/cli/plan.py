"""Dry run: what `evaltk run` would do, its time and disk space.

Takes its arguments, writes no results. Extraction is estimated from a few images, and what most protocols do after it
from a short trial. Exits with 2 where it would not fit.

Examples:
    evaltk plan mine.pth --protocols knn linear --data x:imagefolder=~/photos
    evaltk plan suite.toml
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from evaltk.errors import SettingsError, StorageError, printable

if TYPE_CHECKING:
    from evaltk.running.estimates import FeaturesToBe, Forecast, Pair, Reading

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def main(argv: list[str]) -> int:
    """Print the plan (stdout); log messages go to stderr. Raises: StorageError, SettingsError: it would not fit."""
    from evaltk.cli import _asked

    asked = _asked.asked(argv, "plan", __doc__)
    todo = _asked.cells_of(asked)
    from evaltk.running import estimates

    expected = estimates.forecast(todo)
    if asked.options.json:
        print(json.dumps(as_json(expected)))
    else:
        print("\n".join(map(printable, as_text(expected))))
    check_fits(expected)
    return 0


def check_fits(forecast: Forecast) -> None:
    """Raises: StorageError: too little room in the cache. SettingsError: too little memory."""
    if forecast.room > forecast.free:
        raise StorageError(
            wanted=f"{size(forecast.room)} for features",
            got=f"{size(forecast.free)} free",
            where=forecast.cache,
            do="free some, or choose another folder with --cache",
        )
    if not forecast.fits and forecast.memory is not None and forecast.spare is not None:
        raise SettingsError(
            wanted=f"about {size(forecast.memory)} of memory",
            got=f"{size(forecast.spare)} that this process could have",
            where="--batch-size",
            do="use a smaller one, or another machine",
        )


def as_json(forecast: Forecast) -> dict[str, object]:
    """The forecast with its totals, for machines: bytes and seconds."""
    jobs = [job for pair in forecast.pairs for job in pair.jobs]
    totals = {name: getattr(forecast, name) for name in ("num_bytes", "room", "seconds", "own_seconds", "memory")}
    to_do = sum(not job.done for job in jobs)
    return dataclasses.asdict(forecast) | totals | {"jobs": len(jobs), "to_do": to_do, "fits": forecast.fits}


def as_text(forecast: Forecast) -> list[str]:
    """The forecast in lines."""
    jobs = [job for pair in forecast.pairs for job in pair.jobs]
    to_do = sum(not job.done for job in jobs)
    lines = [line for pair in forecast.pairs for line in (*_pair(pair), "")]
    if not to_do:
        return [*lines, f"total    nothing to do: all {len(jobs)} results are there (--again would run them again)"]
    lines.append(f"total    {to_do} of {len(jobs)} results to do")
    extracted = [r for pair in forecast.pairs for r in pair.readings if r.left]
    if extracted:
        lines += _totals(forecast, sum(r.left or 0 for r in extracted))
        return lines
    if any(r.features for pair in forecast.pairs for r in pair.readings):
        lines.append("images   none to extract features of: all that are known beforehand are cached")
    return lines + _own(forecast)


def _own(forecast: Forecast) -> list[str]:
    if not any(job.seconds is not None for pair in forecast.pairs for job in pair.jobs):
        return []
    return [f"then     {span(forecast.own_seconds)} for what the protocols do with the features"]


def _totals(forecast: Forecast, left: int) -> list[str]:
    lines = [f"images   {left:,} to extract features of"]
    unmeasured = [r for pair in forecast.pairs for r in pair.readings if r.left and r.seconds is None]
    part = ", without what could not be measured" if unmeasured else ""
    lines.append(
        f"time     {span(forecast.seconds)} for that on one process{part}; {span(forecast.loading)} to load the nets"
    )
    lines += _own(forecast)
    if forecast.memory is not None:
        lines.append(f"memory   about {size(forecast.memory)} at the peak of extraction")
    lines.append(
        f"bytes    {size(forecast.num_bytes)} ({forecast.num_bytes:,}) of features to store in {forecast.cache}, up to "
        f"{size(forecast.room)} while they are joined; {size(forecast.free)} free there"
    )
    return lines


def _pair(pair: Pair) -> list[str]:
    lines = [f"{pair.checkpoint} on {pair.dataset}"]
    lines += [f"  {'done ' if job.done else 'to do'}  {job.protocol}: {job.path}" for job in pair.jobs]
    readings = [
        tuple(_reading(r)) for r in pair.readings if r.left is None or {f.state for f in r.features} != {"earlier"}
    ]
    lines += [line for reading in dict.fromkeys(readings) for line in reading]
    lines += [f"  note   {note}" for note in pair.notes]
    left = [job for job in pair.jobs if not job.done]
    lines += [f"  then     {job.protocol}: {span(job.seconds)}" for job in left if job.seconds is not None]
    open_ = [job for job in left if job.seconds is None]
    beyond = list(dict.fromkeys(job.protocol for job in open_ if job.covers == "extraction"))
    wholly = list(dict.fromkeys(job.protocol for job in open_ if job.covers == "nothing"))
    parts = [f"what {', '.join(beyond)} do{'es' if len(beyond) == 1 else ''} with the features"] if beyond else []
    parts += [f"anything of {', '.join(wholly)}"] if wholly else []
    return [*lines, f"  not estimated: {'; '.join(parts)}"] if parts else lines


def _reading(reading: Reading) -> list[str]:
    head = f"  read   {reading.split}, {reading.images:,} images"
    if reading.left is None:
        return [f"{head}, by the protocol itself"]
    some = "" if reading.left in (0, reading.images) else f", {reading.left:,} of them left to extract"
    lines = [f"{head} ({reading.looks.partition(', RGB')[0]}){some}"]
    lines += [f"           {one.recipe}: {_state(one)}" for one in reading.features]
    at = reading.measured
    if at is not None and reading.seconds is not None and reading.memory is not None:
        how = f"{at.workers} decoding processes" if at.workers else "decoded in between"
        lines.append(
            f"           {span(reading.seconds)}, from {at.decoded} images decoded "
            f"({milliseconds(at.decoding_seconds)} each) and batches of {at.in_a_batch} through the net "
            f"({milliseconds(at.net_seconds)} an image); {how}"
        )
        lines.append(f"           about {size(reading.memory)} of memory ({at.memory_of}), {at.batch} images a batch")
    return lines


def _state(one: FeaturesToBe) -> str:
    if one.state == "cached":
        return "in the cache"
    if one.state == "earlier":
        return "made by an earlier pass of this plan"
    begun = ", begun before" if one.state == "begun" else ""
    return "to extract" + begun + (f", {size(one.num_bytes)}" if one.num_bytes is not None else "")


def size(num_bytes: int) -> str:
    """Bytes in decimal units, to three digits: ``39.2 MB``."""
    value, power = float(num_bytes), 0
    while value >= 999.5 and power < len(UNITS) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if power == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {UNITS[power]}"


def span(seconds: float) -> str:
    """A duration as one says it: ``about 12 s``, ``about 3 min``, ``about 2.5 h``."""
    if seconds < 1:
        return "a second or less"
    for length, name, least in ((86400, "days", 172800), (3600, "h", 5400), (60, "min", 90)):
        if seconds >= least:
            value = seconds / length
            return f"about {value:.{int(value < 9.95)}f} {name}"
    return f"about {seconds:.0f} s"


def milliseconds(seconds: float) -> str:
    """A short duration: ``0.046 ms``, ``12 ms``, ``1,900 ms``, in two digits or whole."""
    value = 1e3 * seconds
    return f"{value:.2g} ms" if value < 99.5 else f"{value:,.0f} ms"
