"""Search 1,000 queries in a memory-mapped bank; a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from evaltk import neighbours

bank = np.load(sys.argv[1], mmap_mode="r")
similarity, index = neighbours.search(torch.from_numpy(np.array(bank[:1000])), bank, 200)
if not bool((index[:, 0] == torch.arange(1000)).all()):
    raise SystemExit("a row is not its own nearest neighbour")
# Of this program's own memory: what `getrusage` tells may be the peak of the process that started it.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) / 2**20)
