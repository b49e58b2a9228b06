"""The script that shows a cliff: it times both shapes in turn, and needs the implementation and its framework alone.

Modules are built through the suite, since how is a matter of their adapters.
"""

from __future__ import annotations

from attn_conformance.bench.cliffs import Cliff
from attn_conformance.bench.pairs import SHORTEST
from attn_conformance.bench.posed_module import GROWTH
from attn_conformance.bench.workloads import Workload
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.reproducer.imports import importing
from attn_conformance.subject import Subject

ROUNDS = 30
"""Pairs that a script times: a few seconds."""


def script(cliff: Cliff, subject: Subject, factor: float) -> str:
    """A script that exits 1 if a unit of work costs more than `factor` times as much on the other side, else 0."""
    w, other = cliff.step.workload, cliff.step.neighbour
    extra = ", 1" if cliff.step.kind == "strides" else ""
    if isinstance(subject, KernelSubject):
        making, imported = _kernel(subject, w, extra), importing(subject.target, "attention")
    else:
        making, imported = _module(subject, w), _suite(subject)
    torch, cuda = subject.border.name == "torch", subject.device == "cuda"
    wait = ["    torch.cuda.synchronize()"] if cuda else []
    clock = "perf_counter" if cuda or subject.border.name == "jax" else "thread_time"
    lines = [
        f'"""{subject.target}, {cliff.step.describe()}:',
        f'{cliff.ratio:.2f} times the time for each unit of work (asked: at most {factor:g})."""',
        "",
        "import sys",
        "from statistics import median",
        f"from time import {clock}",
        "",
        "import numpy as np",
        *_framework(subject, w),
        *imported,
        "rng = np.random.default_rng(0)",
        *(
            ["torch.set_num_threads(1)"] if torch and not cuda else []
        ),  # the clock of the thread sees no others
        *(["torch.set_grad_enabled(False)"] if torch else []),
        "",
        "def array(*shape):",
        f"    return {_array(subject, w)}",
        "",
        *making,
        "",
        "def seconds(call, times):",
        *wait,
        f"    start = {clock}()",
        "    for _ in range(times):",
        "        jax.block_until_ready(call())" if subject.border.name == "jax" else "        call()",
        *wait,
        f"    return ({clock}() - start) / times",
        "",
        f"sizes = ({_sizes(w)}), ({_sizes(other)}{extra})",
        *_pairs(subject, w),
        f"ratio = median(b / a for a, b in pairs) / {cliff.step.more:.6g}  # for each unit of work",
        'print(f"{ratio:.2f} times the time for each unit of work")',
        f"sys.exit(ratio > {factor:g})",
    ]
    return "\n".join(lines) + "\n"


def _sizes(w: Workload) -> str:
    return f"{w.B}, {w.H}, {w.T}, {w.S}, {w.D}"


def _framework(subject: Subject, w: Workload) -> list[str]:
    name = subject.border.name
    if name == "numpy" and w.dtype == "bfloat16":
        return ["import ml_dtypes  # lets NumPy know bfloat16"]
    return [] if name == "numpy" else [f"import {name}"]


def _suite(subject: Subject) -> list[str]:
    return [
        "from attn_conformance.targets import Narrowing, subject",
        f'implementation = subject("{subject.target}", Narrowing(device="{subject.device}"))[0].implementation',
    ]


def _array(subject: Subject, w: Workload) -> str:
    """The expression of a random array; in NumPy's float32 first."""
    drawn = 'rng.standard_normal(shape, "float32")'
    if subject.border.name == "torch":
        return f'torch.from_numpy({drawn}).to("{subject.device}", torch.{w.dtype})'
    return (
        f'jax.numpy.asarray({drawn}, "{w.dtype}")'
        if subject.border.name == "jax"
        else f'{drawn}.astype("{w.dtype}")'
    )


def _kernel(subject: KernelSubject, w: Workload, extra: str) -> list[str]:
    """extra: numbers between rows are asked for."""
    convention = subject.convention
    rows, keys = ("B, T, H", "B, S, H") if convention.axes == "BTHD" else ("B, H, T", "B, H, S")
    causal = f", {convention.names['is_causal']}=True" if w.is_causal else ""
    return [
        f"def made(B, H, T, S, D{', extra=0' if extra else ''}):",
        f"    shapes = ({rows}), ({keys}), ({keys})",
        f"    q, k, v = (array(*rows, D{' + extra)[..., :D]' if extra else ')'} for rows in shapes)",
        f"    return lambda: attention(q, k, v{causal})",
    ]


def _module(subject: Subject, w: Workload) -> list[str]:
    causal = w.is_causal and "causal" in subject.claims.features
    lines = [
        "def made(B, H, T, S, D):",
        '    parts = ("query", "key", "value", "out")',
        '    params = {f"{part}.weight": array(H * D, H * D) / 8 for part in parts}',
        '    params |= {f"{part}.bias": array(H * D) for part in parts if part != "key"}',
        f"    handle = implementation.build(H * D, H, {causal}, params)",
        "    x = array(B, T, H * D)",
    ]
    if w.work == "forward":
        return [*lines, "    return lambda: implementation.forward(handle, x)"]
    return [
        *lines,
        "    session = implementation.open(handle)",
        "    session.step(array(B, S - 1, H * D))",
        "    return lambda: session.step(x)",
    ]


def _pairs(subject: Subject, w: Workload) -> list[str]:
    """A cache grows while it is timed, so that each pair begins with two new ones and takes a few steps."""
    if subject.kind == "module" and w.work == "decode":
        return [
            f"pairs = [[seconds(made(*n), {max(1, w.S // GROWTH)}) for n in sizes] for _ in range({ROUNDS})]"
        ]
    return [
        "calls = [made(*n) for n in sizes]",
        f"times = [1 + int({SHORTEST:g} / max(seconds(call, 3), 1e-5)) for call in calls]",
        f"pairs = [[seconds(call, n) for call, n in zip(calls, times)] for _ in range({ROUNDS})]",
    ]
