"""What extraction cost: images a second as it went, and the operations of one image, for the provenance of results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaltk.bench import Bench, Need

if TYPE_CHECKING:
    from evaltk.data.images import Split

LEAST = 2.0  # seconds of extraction below which a rate says nothing


@dataclass(slots=True, kw_only=True)
class Meter:
    """Counts the images that a net's features are made of, and the seconds that takes."""

    bench: Bench
    images: int = 0
    seconds: float = 0.0

    @contextmanager
    def extracting(self, split: Split, needs: Sequence[Need]) -> Iterator[None]:
        """Around the extraction of a split; what was in the cache does not count, nor what several views share."""
        left = images_left(self.bench, split, needs) if len({need.view for need in needs}) == 1 else 0
        started = time.perf_counter()
        yield
        if left:
            self.images += left
            self.seconds += time.perf_counter() - started

    def told(self) -> dict[str, object]:
        """{images_per_second, images, gflops, px}; {} where too little was extracted, or by several processes."""
        from evaltk import distributed
        from evaltk.models import cost
        from evaltk.models.backbone import Backbone

        net = self.bench.backbone
        if self.seconds < LEAST or distributed.world_size() > 1 or not isinstance(net, Backbone):
            return {}
        px = self.bench.transform().crop
        return {
            "images_per_second": round(self.images / self.seconds, 3),
            "images": self.images,
            "gflops": cost.flops(net, px) / 1e9,
            "px": px,
        }


def images_left(bench: Bench, split: Split, needs: Sequence[Need]) -> int:
    """How many images of a split a pass for these needs (of one view) would decode."""
    from evaltk.features import extraction as features
    from evaltk.features.shards import Entry, outstanding

    transform = bench.transform(needs[0].view)
    entries = [
        Entry(root=bench.cache, key=features.key_of(bench.backbone, split, transform, recipe))
        for recipe in dict.fromkeys(need.recipe for need in needs)
    ]
    missing = [entry for entry in entries if not entry.done()]
    if not missing:
        return 0
    how = bench.extraction
    sizes = {"batch_size": how.batch_size or features.auto_batch(bench.backbone), "shard": how.shard}
    return sum(map(len, outstanding(missing, len(split), sizes, fixed=how.batch_size is not None)))
