"""What a Slurm job gets: flags of `evaltk run`, and the table ``[slurm]`` of a suite file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Launcher = Literal["slurm", "local"]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a Slurm job gets.

    Attributes:
        partition: name of the partition.
        minutes: time limit of a job.
        cpus: cores.
        gpus: GPUs.
        gb: GB of memory.
        jobs: in the array, at most (default: 100; with --launcher local the number of cores).
        parallel: how many run at once, at most.
        account: to charge.
        qos: quality of service.
        constraint: features that a node must have.
        setup: shell commands to run before.
    """

    partition: str | None = None
    minutes: int = 240
    cpus: int = 8
    gpus: int = 0
    gb: int = 32
    jobs: int | None = None
    parallel: int | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()

    def parameters(self, launcher: Launcher) -> dict[str, Any]:
        """What submitit calls them."""
        told: dict[str, Any] = {
            "name": "evaltk",
            "timeout_min": self.minutes,
            "cpus_per_task": self.cpus,
            "mem_gb": self.gb,
            "gpus_per_node": self.gpus,
        }
        if launcher == "slurm":
            more = {
                "partition": self.partition,
                "array_parallelism": self.parallel,
                "account": self.account,
                "qos": self.qos,
                "constraint": self.constraint,
                "setup": list(self.setup) or None,
            }
            told |= {f"slurm_{name}": value for name, value in more.items() if value is not None}
        return told
