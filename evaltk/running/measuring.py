"""A short run of what extraction does: a few images decoded and put through the net, timed, with the peak of memory."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from evaltk import machine
from evaltk.data import loading
from evaltk.data.images import SAMPLED, Split
from evaltk.data.transforms import Transform
from evaltk.features import checks
from evaltk.features import extraction as features
from evaltk.models.backbone import Backbone
from evaltk.types import Recipe

SAMPLE = SAMPLED - 1  # images of a split that are decoded at most, see `decode`
PATIENCE = 1.5  # seconds that decoding, and the net, may each take; one step may take longer
CROPS = 16  # images that are cropped for a second time
REPEATS = 10  # passes of the net at most
STEP = 4  # by which batches grow to the size of the run's

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of this process, see proc(5)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """Some images of a split. numbers: which. pixels: uint8 [n, crop, crop, 3]. seconds: of one image, a core's."""

    numbers: list[int]
    pixels: np.ndarray
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """The net on batches of some images.

    Attributes:
        num_images: images a batch. seconds: of one image, from the host's memory to features there.
        widths: D of each recipe's feature.
        memory: bytes at the peak; `how` says of what.
    """

    num_images: int
    seconds: float
    widths: tuple[int, ...]
    memory: int
    how: str


def decode(split: Split, transform: Transform, allowed: int) -> Decoded | None:
    """Some images of the split, evenly spread, decoded one by one in this process; None where none can be read.

    Raises: DataError: more images than are `allowed` cannot be read (the first is named).
    """
    count = min(SAMPLE, len(split))
    # The middles between those that the fingerprint was read from, which the system's cache has by now.
    spread = [(2 * i + 1) * len(split) // (2 * count) for i in range(count)]
    numbers, pixels, seconds = [], [], []
    bad: list[tuple[int, str]] = []
    started = time.perf_counter()
    # The first is decoded twice and timed at the second time, after Pillow has loaded its decoders.
    load = partial(loading.pixels, split, transform)
    batches = loading.batches(load, [[i] for i in (spread[0], *spread)], workers=0)
    for position, ((index, image, message),) in enumerate(batches):
        now = time.perf_counter()
        if position and image is None:
            bad.append((index, message))
        elif position and image is not None:
            numbers.append(index)
            pixels.append(image)
            seconds.append(now - started)
        if sum(seconds) > PATIENCE:
            break
        started = time.perf_counter()
    if bad:
        checks.check_unreadable(split, tuple(split.image_id(index) for index, _ in bad), allowed, bad[0][1])
    if not pixels:
        return None
    return Decoded(numbers=numbers, pixels=np.stack(pixels), seconds=statistics.fmean(seconds))


def cropping_seconds(split: Split, transform: Transform, numbers: list[int]) -> float:
    """Seconds to resize and crop one of these images once it is decoded, as for a second preprocessing."""
    seconds = []
    for index in numbers[:CROPS]:
        image = split.open(index)
        started = time.perf_counter()
        transform.pixels(image)
        seconds.append(time.perf_counter() - started)
    return statistics.fmean(seconds)


def pace(
    backbone: Backbone, split: Split, transform: Transform, recipes: tuple[Recipe, ...], images: Decoded, batch: int
) -> Paced:
    """Time and memory of the net in batches of `batch` images, or of as many as it does within our patience.

    The images at hand are repeated to fill a batch: what a net takes does not depend on what is in them.
    Raises: SettingsError: the device is too small. DataError: features that are not finite (the image is named).
    """

    def once(count: int) -> tuple[float, tuple[int, ...]]:
        pixels = np.resize(images.pixels, (count, *images.pixels.shape[1:]))
        numbers = np.resize(images.numbers, count).tolist()
        started = time.perf_counter()
        found = [features.finite(x, split, numbers) for x in features.forward(backbone, transform, pixels, recipes)]
        return time.perf_counter() - started, tuple(x.shape[1] for x in found)

    once(1)  # also pays for what is made at first use
    before = _memory(backbone.device, reset=True)
    count, (first, widths) = 1, once(1)
    while count < batch and STEP * first < PATIENCE:
        count = min(batch, STEP * count)
        first = once(count)[0]
    seconds = [first] if first > PATIENCE / 2 else []  # the first batch of a size also pays for its memory
    while not seconds or (sum(seconds) < PATIENCE and len(seconds) < REPEATS):
        seconds.append(once(count)[0])
    peak = _memory(backbone.device)
    how = "allocated on the device" if backbone.device.type == "cuda" else "resident in this process"
    if backbone.device.type != "cuda" and peak == before:
        how += ", the peak of what came before"
    if count < batch:  # activations grow with the batch, the weights are there already
        peak = before + (peak - before) * batch // count
        how += f", scaled from {count} to {batch} images"
    return Paced(num_images=count, seconds=statistics.median(seconds) / count, widths=widths, memory=peak, how=how)


def seconds_an_image(decoding_one: float, net_one: float, *, workers: int, on_cpu: bool) -> float:
    """Seconds an image of a whole pass, from those of decoding it (on a core) and of the net.

    Without decoding processes one waits for the other. With them the slower of both decides; on a CPU both also share
    the cores that this process may use.
    """
    if not workers:
        return decoding_one + net_one
    cpus = machine.usable_cores()
    slower = max(net_one, decoding_one / min(workers, cpus))
    if not on_cpu:
        return slower
    return max(slower, (decoding_one + net_one * min(torch.get_num_threads(), cpus)) / cpus)


def _memory(device: torch.device, *, reset: bool = False) -> int:
    """Bytes at the peak since the last `reset`, which Linux and CUDA can: allocated on the device, or resident here."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if reset:
        with suppress(OSError):
            CLEAR.write_text("5")  # lowers the kernel's mark to what is resident now, where it lets us
    if marked := STATUS.read_text().partition("VmHWM:")[2].split() if STATUS.exists() else []:
        return int(marked[0]) * 1024  # the kernel's mark of this program; getrusage also counts who started it
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
