"""Grids: which workloads a run poses, and why an implementation is not asked for one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from attn_conformance.bench.workloads import CACHED, WORKS, Workload
from attn_conformance.names import suggestion
from attn_conformance.subject import Subject

Kind = Literal["kernel", "module"]

DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("bfloat16", "float16")}
"""Where none are named: all workloads in the first, one each of forward and decode in the others."""

NEEDS = {
    "backward": "gradients",
    "masked": "float-mask",
    "padded": "bool-mask",
    "cross": "cross",
    "cross-decode": "cross",
    "grouped": "gqa",
}
"""The claim without which a work cannot be asked for."""


def grid(kind: Kind, device: str, dtypes: tuple[str, ...] = (), only: Iterable[str] = ()) -> list[Workload]:
    """The workloads of a run; ValueError for a work that there is not.

    On a CPU each takes one core some milliseconds; on CUDA they are as large as in practice.
    """
    only = tuple(only)
    for name in only:
        if name not in WORKS:
            raise ValueError(f"unknown work {name!r}{suggestion(name, WORKS)}; known are {', '.join(WORKS)}")
    first, *others = dtypes or DTYPES[device]
    shapes = _cuda(kind, first) if device == "cuda" else _cpu(kind, first)
    for dtype in others:
        extra = [w for w in shapes if w.dtype == first]
        if not dtypes:
            extra = [next(w for w in extra if w.work == work) for work in ("forward", "decode")]
        shapes += [replace(w, dtype=dtype) for w in extra]
    return [replace(w, kind=kind, device=device) for w in shapes if not only or w.work in only]


def _cpu(kind: Kind, dtype: str) -> list[Workload]:
    return [
        Workload("forward", 1, 8, 512, 512, 64, dtype),
        Workload("forward", 1, 8, 512, 512, 64, dtype, is_causal=True),
        Workload("forward", 4, 4, 128, 128, 128, dtype, is_causal=True),
        Workload("backward", 1, 8, 256, 256, 64, dtype, is_causal=True),
        Workload("decode", 2, 8, 1, 1024, 64, dtype, is_causal=kind == "module"),
        Workload("masked", 1, 8, 256, 256, 64, dtype),
        Workload("padded", 2, 8, 256, 256, 64, dtype),
        Workload("cross", 1, 8, 64, 1024, 64, dtype),
        *([Workload("cross-decode", 2, 8, 1, 1024, 64, dtype)] if kind == "module" else []),
        Workload("grouped", 1, 8, 256, 256, 64, dtype, is_causal=True, Hkv=2),
    ]


def _cuda(kind: Kind, dtype: str) -> list[Workload]:
    return _cuda_modules(dtype) if kind == "module" else _cuda_kernels(dtype)


def _cuda_kernels(dtype: str) -> list[Workload]:
    return [
        Workload("forward", 16, 32, 1024, 1024, 64, dtype, is_causal=True),
        Workload("forward", 4, 32, 4096, 4096, 64, dtype, is_causal=True),
        Workload("forward", 8, 16, 2048, 2048, 128, dtype),
        Workload("forward", 4, 16, 4096, 4096, 128, dtype, is_causal=True),
        Workload("forward", 2, 16, 8192, 8192, 128, dtype, is_causal=True),
        Workload("backward", 8, 16, 2048, 2048, 64, dtype, is_causal=True),
        Workload("backward", 8, 16, 2048, 2048, 128, dtype, is_causal=True),
        Workload("decode", 16, 16, 1, 4096, 128, dtype),
        Workload("decode", 4, 16, 1, 16384, 128, dtype),
        Workload("masked", 4, 16, 2048, 2048, 128, dtype),
        Workload("padded", 8, 16, 2048, 2048, 128, dtype),
        Workload("cross", 8, 16, 512, 4096, 128, dtype),
        Workload("grouped", 8, 16, 2048, 2048, 128, dtype, is_causal=True, Hkv=4),
    ]


def _cuda_modules(dtype: str) -> list[Workload]:
    """Of Whisper's size: 1024 features, and 1500 tokens of the other sequence.

    Nothing beyond 2048 tokens, and gradients of 512: the oracle projects them all in float64.
    """
    return [
        Workload("forward", 16, 16, 1024, 1024, 64, dtype, is_causal=True),
        Workload("forward", 8, 16, 1500, 1500, 64, dtype),
        Workload("forward", 8, 16, 2048, 2048, 64, dtype, is_causal=True),
        Workload("forward", 8, 16, 1024, 1024, 128, dtype, is_causal=True),
        Workload("backward", 16, 16, 512, 512, 64, dtype, is_causal=True),
        Workload("decode", 32, 16, 1, 2048, 64, dtype, is_causal=True),
        Workload("masked", 4, 16, 2048, 2048, 64, dtype),
        Workload("padded", 8, 16, 2048, 2048, 64, dtype),
        Workload("cross", 16, 16, 448, 1500, 64, dtype),
        Workload("cross-decode", 32, 16, 1, 1500, 64, dtype),
        Workload("grouped", 8, 16, 2048, 2048, 64, dtype, is_causal=True, Hkv=4),
    ]


def missing(workload: Workload, subject: Subject) -> str | None:
    """Why a workload cannot be posed to a subject, None if it can."""
    claims, kind = subject.claims, workload.kind
    if workload.work == "grouped" and kind == "module":
        return "the modules of the interface have no grouped heads"
    if workload.work in ("masked", "padded") and workload.is_causal:
        return "no mask goes with causality"
    if workload.dtype not in claims.dtypes:
        return f"{subject.target} does not serve {workload.dtype}"
    if claims.head_sizes and workload.D not in claims.head_sizes:
        return f"{subject.target} does not serve head size {workload.D}"
    needed = [NEEDS[workload.work]] if workload.work in NEEDS else []
    if workload.work in CACHED:
        needed.append("cache" if kind == "module" else "cross")
    if workload.is_causal and workload.work != "decode":
        needed.append("causal")
    lacking = [feature for feature in dict.fromkeys(needed) if feature not in claims.features]
    return f"{subject.target} does not claim {', '.join(lacking)}" if lacking else None
