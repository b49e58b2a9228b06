"""Clocks: CPU time of the one thread that works, wall time, CUDA events; and whether the device was slowed down.

On a shared CPU the thread's own time decides: it stands still while a neighbour has the core, and wall time, which does
not, is kept beside it. What other threads do for an implementation it does not see, so their share is watched.
"""

from __future__ import annotations

import gc
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import ceil, inf
from typing import Any, Protocol

import numpy as np

from attn_conformance.bench.results import Clock as Name

OTHERS = 0.1
"""Largest share of a process's CPU time, in the median round, that other threads may have beside a thread clock."""

UNSEEN = 50e-6
"""Seconds by which the two CPU clocks may differ in a round, being read one after the other."""

FLUSHED = 256 * 2**20
"""Bytes written before each call on CUDA: several times the second-level cache of any device."""

MOST_COVERS = 32
"""How many such writes there are at the most: they take a tenth of a millisecond each, or less."""

RETAINED = 2**25 - 2**16
"""Bytes of a block whose release teaches the C library of Linux to keep memory: it learns from none above 32 MiB."""

Ticks = Callable[[], int]
"""Nanoseconds."""


@dataclass(frozen=True)
class Reading:
    """Seconds of a round by the clock that decides, never 0, and by the wall clock; others: those of other threads."""

    seconds: float
    wall: float
    others: float = 0.0


class Clock(Protocol):
    """Times rounds; on a device they are read in bulk, after they have run."""

    @property
    def name(self) -> Name:
        """What it measures, as results call it."""
        ...

    def time(self, run: Callable[[], None]) -> None:
        """Run once, timed."""
        ...

    def read(self) -> list[Reading]:
        """The readings since the last time, in order."""
        ...


class HostClock:
    """ticks: of the clock that decides; wall; process: CPU time of all threads."""

    def __init__(
        self,
        name: Name = "thread",
        ticks: Ticks = time.thread_time_ns,
        wall: Ticks = time.perf_counter_ns,
        process: Ticks = time.process_time_ns,
    ) -> None:
        self.name: Name = name
        self.ticks, self.wall, self.process = ticks, wall, process
        self.readings: list[Reading] = []

    def time(self, run: Callable[[], None]) -> None:
        """Run once, timed."""
        ticks, wall, process = self.ticks, self.wall, self.process
        all_, begun, start = process(), wall(), ticks()
        run()
        seconds, passed, used = ticks() - start, wall() - begun, process() - all_
        others = max(0, used - seconds) if self.name == "thread" else 0
        self.readings.append(Reading(max(seconds, 1) * 1e-9, passed * 1e-9, others * 1e-9))

    def read(self) -> list[Reading]:
        """The readings since the last time, in order."""
        readings, self.readings = self.readings, []
        return readings


class CudaClock:
    """Events around each round, behind writes that empty the second-level cache; one wait for all of them.

    The writes go on for longer than it takes to queue the calls. Else the device would have to wait for a busy host
    between the two events, and that would be measured. A call that waits for the device by itself is seen all the same.
    """

    name: Name = "device"

    def __init__(self) -> None:
        import torch

        self.cuda: Any = torch.cuda
        self.flushed = torch.empty(FLUSHED, dtype=torch.int8, device="cuda")
        self.events: list[tuple[Any, Any, float]] = []
        self.covers = 1
        self.write = inf
        for _ in range(2):  # the first finds nothing loaded
            self.time(self.flushed.zero_)
        self.write = self.read()[-1].seconds

    def time(self, run: Callable[[], object]) -> None:
        """Queue one run between two events."""
        start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(self.covers):
            self.flushed.zero_()
        begun = time.perf_counter()
        start.record()
        run()
        end.record()
        self.events.append((start, end, time.perf_counter() - begun))

    def read(self) -> list[Reading]:
        """The readings since the last time, in order; wall is the time that it took to queue the calls."""
        self.cuda.synchronize()
        events, self.events = self.events, []
        slowest = max((wall for _, _, wall in events), default=0.0)
        self.covers = min(MOST_COVERS, 1 + ceil(slowest / self.write))
        return [Reading(max(start.elapsed_time(end) * 1e-3, 1e-9), wall) for start, end, wall in events]


def clock_for(borders: Collection[str], device: str) -> Clock:
    """Events on CUDA, the wall clock where JAX is among the frameworks, which has threads of its own, else CPU time.

    ValueError for a framework other than PyTorch on CUDA.
    """
    if device == "cuda":
        if others := sorted(set(borders) - {"torch"}):
            raise ValueError(f"on cuda PyTorch alone is timed, not {', '.join(others)}")
        return CudaClock()
    return HostClock("wall", time.perf_counter_ns) if "jax" in borders else HostClock()


@contextmanager
def quiet(borders: Collection[str], device: str) -> Iterator[None]:
    """No garbage collection; on a CPU, one thread for BLAS and PyTorch."""
    collecting = gc.isenabled()
    gc.disable()
    retain()
    try:
        with _one_thread(borders) if device == "cpu" else nullcontext():
            yield
    finally:
        if collecting:
            gc.enable()


def retain() -> None:
    """Have memory that is freed stay with this process: else results of some 100 kB and more may get new pages.

    Which call has to wait for them depends on what was allocated before, not on the implementation: pairs differ by a
    tenth until something larger has been freed, as in any program that has run for a while.
    """
    np.empty(RETAINED, np.uint8)


@contextmanager
def _one_thread(borders: Collection[str]) -> Iterator[None]:
    from threadpoolctl import threadpool_limits

    if "torch" not in borders:
        with threadpool_limits(1):
            yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


SLOWED = ("sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
"""Reasons of lower clocks, as nvidia-smi calls them, that do not come from the work: its own power cap does."""


def throttled(device: str) -> str | None:
    """What slows the CUDA device down at the moment, "" for nothing; None where nobody tells, as of CPUs."""
    if device != "cuda":
        return None
    found = nvidia(*(f"clocks_throttle_reasons.{reason}" for reason in SLOWED))
    if found is None:
        return None
    return ", ".join(reason for reason, state in zip(SLOWED, found, strict=True) if state == "Active")


def nvidia(*fields: str) -> list[str] | None:
    """What nvidia-smi says of PyTorch's current device, by its field names; None where it is missing or refuses."""
    import torch

    unique: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    query = f"--query-gpu={','.join(fields)}"
    command = ["nvidia-smi", f"--id=GPU-{unique.uuid}", query, "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = [part.strip() for part in said.strip().split(",")]
    return found if len(found) == len(fields) else None
