"""What launchers leave in the environment: which of several processes this one is, and what contradicts itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from evaltk.errors import SettingsError

ALONE = "start with torchrun, which sets all of them, or unset WORLD_SIZE and RANK for a single process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One of several processes of a command.

    Attributes:
        rank: from 0. world: how many there are. local: number on this machine, by which it takes its GPU.
        address, port: where they meet. agent: whether torchrun answers there, else process 0 does. attempt: how often
            torchrun has restarted them.
    """

    rank: int
    world: int
    local: int
    address: str
    port: int
    agent: bool = False
    attempt: str = "0"

    @property
    def hosts(self) -> bool:
        """Whether this process answers at the address."""
        return self.rank == 0 and not self.agent


def place(env: Mapping[str, str]) -> Place | None:
    """This process's place by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; None: it is the only one.

    Raises: SettingsError: they contradict each other, or some lack.
    """
    world = _number(env, "WORLD_SIZE", 1, least=1)
    if world == 1:
        if (rank := _number(env, "RANK", 0)) > 0:
            raise _contradiction("a WORLD_SIZE above RANK", f"RANK={rank}, {_shown(env, 'WORLD_SIZE')}")
        return None
    lacking = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not env.get(name, "").strip()]
    if lacking:
        raise _contradiction(f"{', '.join(lacking)} beside WORLD_SIZE={world}", "none")
    rank, port = _number(env, "RANK", 0), _number(env, "MASTER_PORT", 0, least=1)
    if rank >= world:
        raise _contradiction(f"a RANK below WORLD_SIZE={world}", f"RANK={rank}")
    if port > 65535:
        raise _contradiction("a port from 1 to 65535", f"MASTER_PORT={port}")
    local = _number(env, "LOCAL_RANK", _number(env, "SLURM_LOCALID", rank))
    return Place(
        rank=rank,
        world=world,
        local=local,
        address=env["MASTER_ADDR"].strip(),
        port=port,
        agent=env.get("TORCHELASTIC_USE_AGENT_STORE", "") == "True",
        attempt=env.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _number(env: Mapping[str, str], name: str, default: int, *, least: int = 0) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise _contradiction(f"a whole number of at least {least}", f"{name}={text[:40]!r}")
    return int(text)


def _shown(env: Mapping[str, str], name: str) -> str:
    return f"{name}={env[name]}" if env.get(name) else f"no {name}"


def _contradiction(wanted: str, got: str) -> SettingsError:
    return SettingsError(wanted=wanted, got=got, where="the environment", do=ALONE)


def odd(env: Mapping[str, str], *, gpus: int) -> list[str]:
    """What in the environment is probably not meant, a sentence each.

    Args:
        gpus: how many torch can use.
    """
    found = []
    threads = env.get("OMP_NUM_THREADS")
    if threads is not None and not re.fullmatch(r"\s*[1-9][0-9]*(\s*,\s*[1-9][0-9]*)*\s*", threads):
        found.append(f"OMP_NUM_THREADS={threads[:40]!r} is no number of threads and is ignored")
    visible = env.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not gpus:
        what = "is empty" if not visible.strip() else f"is {visible[:40]!r}"
        found.append(f"CUDA_VISIBLE_DEVICES {what}, which leaves no GPU: unset it to use one")
    tasks = env.get("SLURM_STEP_NUM_TASKS", "")
    if tasks.isdecimal() and int(tasks) > 1 and not env.get("WORLD_SIZE", "").strip():
        found.append(f"srun started {tasks} tasks that do not know of each other: let each run torchrun, or use one")
    return found


def device_number(place: Place | None, gpus: int) -> int:
    """The GPU of this process: its own number on the machine, or the only one that its launcher lets it see.

    Raises: SettingsError: more processes than GPUs.
    """
    local = place.local if place is not None else 0
    own = place is not None and not place.agent and gpus == 1  # srun --gpus-per-task=1; torchrun gives all the same
    if local >= gpus and not own:
        raise SettingsError(
            wanted=f"a GPU for local process {local}",
            got=f"{gpus} GPUs",
            where="torchrun --nproc-per-node",
            do="start at most one process per GPU",
        )
    return 0 if own else local
