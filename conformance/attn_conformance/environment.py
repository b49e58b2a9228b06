"""The environment of a run: versions and settings without which a counterexample may not repeat elsewhere."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from attn_conformance.subject import Subject

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY")
"""Environment variables that change which instructions run, or in which order sums are taken."""


def environment(subject: Subject) -> dict[str, Any]:
    """Date, versions, threads and instruction set, as JSON."""
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }
    for package in ("numpy", "ml_dtypes", "hypothesis", subject.border.name):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    facts |= {name: os.environ[name] for name in SETTINGS if name in os.environ}
    if subject.border.name == "torch":
        import torch

        facts |= {
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }
        if subject.device == "cuda":
            facts["device"] = torch.cuda.get_device_name()
    return facts
