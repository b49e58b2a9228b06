"""The script that shows a cliff: it times both shapes in turn, and needs the implementation and its framework alone.

Modules are built through the suite, since how is a matter of their adapters.
"""

from __future__ import annotations

from attn_conformance.bench.cliffs import Cliff
from attn_conformance.bench.workloads import Workload
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.reproducer.imports import importing
from attn_conformance.subject import Subject

ROUNDS = 30
"""Pairs that a script times: a few seconds."""


def script(cliff: Cliff, subject: Subject, factor: float) -> str:
    """A script that exits 1 if a unit of work costs more than `factor` times as much on the other side, else 0."""
    kernel = isinstance(subject, KernelSubject)
    w, other = cliff.step.workload, cliff.step.neighbour
    making = _kernel(subject, w) if isinstance(subject, KernelSubject) else _module(subject, w)
    extra = ", extra=1" if cliff.step.kind == "strides" else ""
    imported = importing(subject.target, "attention") if kernel else _suite(subject)
    wait = {"jax": "jax.block_until_ready(call())", "torch": "call()"}.get(subject.border.name, "call()")
    cuda = subject.device == "cuda"
    clock = "perf_counter" if cuda or subject.border.name == "jax" else "thread_time"
    lines = [
        f'"""{subject.target}, {cliff.step.describe()}:',
        f'{cliff.ratio:.2f} times the time for each unit of work (asked: at most {factor:g})."""',
        "",
        "import sys",
        f"from time import {clock}",
        "from statistics import median",
        "",
        "import numpy as np",
        *_framework(subject, w),
        *imported,
        "",
        "rng = np.random.default_rng(0)",
        "",
        "",
        *making,
        "",
        "",
        "def seconds(call, times):",
        *(["    torch.cuda.synchronize()"] if cuda else []),
        f"    start = {clock}()",
        "    for _ in range(times):",
        f"        {wait}",
        *(["    torch.cuda.synchronize()"] if cuda else []),
        f"    return ({clock}() - start) / times",
        "",
        "",
        f"calls = made({_sizes(w)}), made({_sizes(other)}{extra})",
        "times = [1 + int(0.005 / max(seconds(call, 3), 1e-5)) for call in calls]",
        f"pairs = [[seconds(call, n) for call, n in zip(calls, times)] for _ in range({ROUNDS})]",
        f"ratio = median(b / a for a, b in pairs) / {cliff.step.more:.6g}  # for each unit of work",
        'print(f"{ratio:.2f} times the time for each unit of work")',
        f"sys.exit(ratio > {factor:g})",
    ]
    return "\n".join(lines) + "\n"


def _sizes(w: Workload) -> str:
    return f"{w.B}, {w.H}, {w.T}, {w.S}, {w.D}"


def _framework(subject: Subject, w: Workload) -> list[str]:
    lines = ["import ml_dtypes  # noqa: F401  # lets NumPy know bfloat16"] if w.dtype == "bfloat16" else []
    if subject.border.name == "torch":
        lines.append("import torch")
    return [*lines, "import jax"] if subject.border.name == "jax" else lines


def _suite(subject: Subject) -> list[str]:
    return [
        "from attn_conformance.targets import Narrowing, subject",
        "",
        f'implementation = subject("{subject.target}", Narrowing(device="{subject.device}"))[0].implementation',
    ]


def _array(subject: Subject, w: Workload, shape: str) -> str:
    """The expression of a random array; in NumPy's float32 first."""
    drawn = f'rng.standard_normal({shape}, "float32")'
    if subject.border.name == "torch":
        return f'torch.from_numpy({drawn}).to("{subject.device}", torch.{w.dtype})'
    return (
        f'jax.numpy.asarray({drawn}, "{w.dtype}")'
        if subject.border.name == "jax"
        else f'{drawn}.astype("{w.dtype}")'
    )


def _kernel(subject: KernelSubject, w: Workload) -> list[str]:
    convention = subject.convention
    rows, keys = ("B, T, H", "B, S, H") if convention.axes == "BTHD" else ("B, H, T", "B, H, S")
    causal = f", {convention.names['is_causal']}=True" if w.is_causal else ""
    return [
        "def made(B, H, T, S, D, extra=0):  # extra: numbers between rows",
        f"    q, k, v = ({_array(subject, w, '(*rows, D + extra)')}[..., :D]",
        f"               for rows in (({rows}), ({keys}), ({keys})))",
        f"    return lambda: attention(q, k, v{causal})",
    ]


def _module(subject: Subject, w: Workload) -> list[str]:
    causal = w.is_causal and "causal" in subject.claims.features
    lines = [
        "def made(B, H, T, S, D):",
        '    names = [f"{part}.{kind}" for part in ("query", "key", "value", "out") for kind in ("weight", "bias")]',
        '    names.remove("key.bias")',
        f"    params = {{n: {_array(subject, w, '(H * D,) * (1 + n.endswith(chr(116)))')} / 8 for n in names}}",
        f"    handle = implementation.build(H * D, H, {causal}, params)",
        f"    x = {_array(subject, w, '(B, T, H * D)')}",
    ]
    if w.work == "forward":
        return [*lines, "    return lambda: implementation.forward(handle, x)"]
    return [
        *lines,
        "    session = implementation.open(handle)",
        f"    session.step({_array(subject, w, '(B, S - 1, H * D)')})",
        "    return lambda: session.step(x)  # the cache grows a little meanwhile",
    ]
