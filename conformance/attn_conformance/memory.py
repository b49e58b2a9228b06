"""Peak memory of a call: of the process, from Linux, or of what a framework's own allocator handed out."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def peak_of(function: Callable[[], Any]) -> int | None:
    """Bytes by which the process grew at most during a call; None where Linux does not tell.

    Small buffers may come from memory that the process holds already; those of tens of MiB, which are asked about,
    are mapped afresh by every allocator in use.
    """
    gc.collect()  # else what becomes free meanwhile is taken for room that was there
    try:
        RESET.write_text("5")  # the peak begins anew at what is held now
        before = _held("VmRSS")
    except OSError:
        return None
    function()
    return max(0, _held("VmHWM") - before)


def host_peak_of(function: Callable[[], Any], framework: str) -> int | None:
    """Bytes that one of two calls on the host held at most: as the process grew, or as its framework's allocator says.

    Neither sees all: a system may take back other pages of the process meanwhile, which hides that it grew, and an
    allocator knows its own buffers alone.
    """
    exact = allocator(framework, "cpu")
    grown = peak_of(function)
    handed_out = (
        None if exact is None else exact(function)
    )  # in a call of its own: to listen takes memory, too
    return max((peak for peak in (grown, handed_out) if peak is not None), default=None)


def allocator(framework: str, device: str) -> Callable[[Callable[[], Any]], int] | None:
    """What tells the exact peak of a call from the framework's own allocator; None where nobody does."""
    if framework == "torch":
        return cuda_peak_of if device == "cuda" else torch_peak_of
    return python_peak_of if framework == "numpy" else None


def _held(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {name}")


def cuda_peak_of(function: Callable[[], Any]) -> int:
    """Bytes that PyTorch's allocator handed out at most during a call, beyond those before it."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def torch_peak_of(function: Callable[[], Any]) -> int:
    """Bytes that PyTorch's CPU allocator handed out at most during a call, beyond those before it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else two lines about itself for each call
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    recorded: Any = profiled.profiler
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: int(e.start_ns())):
        held += int(event.nbytes())
        most = max(most, held)
    return most


def python_peak_of(function: Callable[[], Any]) -> int:
    """Bytes that Python and NumPy allocated at most during a call, beyond those before it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
