"""The machine: what it is called, and what it was measured to be able to do.

Names lie (one model runs at many clocks, a shared CPU gives some of its time), so that two fingerprints match only if
both agree: names and versions exactly, measured ceilings within a share.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from attn_conformance.bench.clocks import CudaClock, nvidia
from attn_conformance.bench.results import Measurement
from attn_conformance.bench.workloads import Workload

NAMED = {
    "cpu": "CPU",
    "instructions": "instruction set",
    "cores": "usable cores",
    "gpu": "GPU",
    "python": "Python",
    "numpy": "NumPy",
    "torch": "PyTorch",
    "cuda": "CUDA",
    "driver": "driver",
    "clock_limit_mhz": "limit of the SM clock",
}
"""What has to be the same, and what it is called."""

DIFFERENCE = 0.15
"""Largest share by which a measured ceiling may differ: on shared CPUs, what runs beside moves it by some per cent."""

ENOUGH = 0.15
"""Seconds that each ceiling is measured for."""

Fingerprint = Mapping[str, Any]


def fingerprint(device: str = "cpu", torch: bool = True) -> dict[str, Any]:
    """Names, versions and ceilings as JSON: GEMM flop/s by dtype, bytes per second of reading and of copying.

    One core of a CPU, by its thread's time; all of a CUDA device. torch: whether PyTorch is measured, else NumPy.
    """
    facts: dict[str, Any] = {
        "device": device,
        "cpu": _cpu(),
        "instructions": None,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _memory(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    if not torch:
        return facts | {"ceilings": _numpy_ceilings()}
    import torch as framework

    facts["torch"] = framework.__version__
    facts["instructions"] = framework.backends.cpu.get_cpu_capability()
    if device == "cuda":
        driver, limit = nvidia("driver_version", "clocks.max.sm") or (None, None)
        facts |= {
            "gpu": framework.cuda.get_device_name(),
            "gpu_memory": framework.cuda.get_device_properties().total_memory,
            "cuda": framework.version.cuda,
            "driver": driver,
            "clock_limit_mhz": limit,
        }
    return facts | {"ceilings": _torch_ceilings(device)}


def _cpu() -> str:
    """The model, as Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> int | None:
    """Bytes of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _best(call: Callable[[], Any], clock: Callable[[], float] = time.thread_time) -> float:
    """Seconds of a call: the median of the faster half, so that neighbours count little."""
    call()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begun < ENOUGH:
        start = clock()
        call()
        times.append(clock() - start)
        if len(times) >= 200:
            break
    return max(median(sorted(times)[: len(times) // 2 + 1]), 1e-9)


def _numpy_ceilings() -> dict[str, Any]:
    n, size = 512, 2**25
    gemm = {}
    for dtype in ("float32", "float64"):
        a = np.ones((n, n), dtype)
        gemm[dtype] = 2 * n**3 / _best(lambda a=a: a @ a)  # type: ignore[misc]
    array = np.ones(size // 4, np.float32)
    other = np.empty_like(array)
    read, copied = _best(array.max), _best(lambda: np.copyto(other, array))
    return {"gemm": gemm, "read": size / read, "copy": 2 * size / copied}


def _torch_ceilings(device: str) -> dict[str, Any]:
    import torch

    cuda = device == "cuda"
    n, size = (8192, 2**31) if cuda else (512, 2**26)
    seconds = _cuda_seconds if cuda else _best
    generator = torch.Generator(device).manual_seed(0)
    gemm = {}
    for dtype in ("float32", "float16", "bfloat16"):
        a = torch.randn(n, n, device=device, generator=generator).to(
            getattr(torch, dtype)
        )  # ones take less power
        gemm[dtype] = 2 * n**3 / seconds(lambda a=a: a @ a)  # type: ignore[misc]
    array = torch.ones(size // 4, device=device)
    other = torch.empty_like(array)
    read, copied = seconds(array.max), seconds(lambda: other.copy_(array))
    return {"gemm": gemm, "read": size / read, "copy": 2 * size / copied}


def _cuda_seconds(call: Callable[[], Any]) -> float:
    clock = CudaClock()
    for _ in range(13):
        clock.time(call)
    return median(reading.seconds for reading in clock.read()[3:])


def unlike(a: Fingerprint, b: Fingerprint) -> str | None:
    """What two machines differ in by name or version, None if in nothing."""
    if a.get("device") != b.get("device"):
        return f"the device differs: {a.get('device')} and {b.get('device')}"
    for key, name in NAMED.items():
        if a.get(key) != b.get(key):
            return f"the {name} differs: {a.get(key)} and {b.get(key)}"
    return None


def match(a: Fingerprint, b: Fingerprint) -> str | None:
    """Why times on two machines do not allow a comparison, None if they do."""
    if (difference := unlike(a, b)) is not None:
        return difference
    ours, theirs = (_flat(machine.get("ceilings", {})) for machine in (a, b))
    for key in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(key), theirs.get(key)
        if one is None or other is None:
            return f"{key} was measured on one machine only"
        if abs(one - other) > DIFFERENCE * max(one, other):
            return (
                f"{key} was measured as {one:.3g} and {other:.3g}: more than {DIFFERENCE:.0%} apart, so that one of "
                "the machines was slower or busier"
            )
    return None


def _flat(ceilings: Mapping[str, Any]) -> dict[str, float]:
    found = {f"{dtype} GEMM flop/s": value for dtype, value in ceilings.get("gemm", {}).items()}
    for key, name in (("read", "bytes read per second"), ("copy", "bytes copied per second")):
        if key in ceilings:
            found[name] = ceilings[key]
    return found


def shares(measurement: Measurement, workload: Workload, machine: Fingerprint) -> dict[str, float]:
    """Shares of the ceilings that a measurement reaches: "compute" of the GEMM, "memory" of reading.

    {} where these are unknown, or where the measurement does not count.
    """
    ceilings = machine.get("ceilings", {})
    if not measurement.seconds or measurement.problem:
        return {}
    seconds, found = median(measurement.seconds), {}
    if peak := ceilings.get("gemm", {}).get(workload.dtype):
        found["compute"] = workload.flops / seconds / peak
    if rate := ceilings.get("read"):
        found["memory"] = workload.bytes / seconds / rate
    return found
