"""MEM: no T x S buffer is held."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from hypothesis.strategies import SearchStrategy

from attn_conformance import memory
from attn_conformance.cases import KernelCase, build
from attn_conformance.judge import Failed, NotAsked
from attn_conformance.registry import check
from attn_conformance.scope import Scope
from attn_conformance.strategies import kernel_cases, sizes
from attn_conformance.subject import Raised, Subject

LENGTH = 4096
"""T = S on a CPU: the buffer of float32 scores would hold 64 MiB, far more than anything else in the call."""

GROWTH = (2048, 4096, 8192)
"""T = S on CUDA, where the allocator tells exactly what a call held."""

LARGEST_EXPONENT = 1.3


def _long(scope: Scope) -> SearchStrategy[KernelCase]:
    # One window suffices: the first in which T = S needs no carrier, whose width would only cost time.
    direct = replace(scope, windows=scope.windows[:1])
    return kernel_cases(
        direct,
        batch=sizes.one(1),
        heads=sizes.one(1),
        queries=sizes.one(LENGTH),
        square=True,
        head_size=sizes.one(32),
        families=("normal",),
    )


@check("MEM-1", cases=_long, floor=1, at_most=2, windows=("kernel", "qkv", "self"))
def no_buffer_of_scores_is_held(subject: Subject, case: KernelCase) -> bool:
    """Unmasked and causal calls hold no T x S buffer."""
    # Both each time: so few examples may draw all of one kind.
    kinds = (False, True) if subject.scope.has("causal") else (False,)
    judged = _grows_slowly if subject.device == "cuda" else _holds_little
    return all(judged(subject, replace(case, causal=causal)) for causal in kinds)


def _holds_little(subject: Subject, case: KernelCase) -> bool:
    call = build(case)
    subject.prepare(call)
    natives = subject.natives(call)
    try:
        # What is loaded or cached at the first call of its kind is no buffer of this one.
        subject.run(build(replace(case, queries=64, keys=64)))
        extra = memory.host_peak_of(lambda: subject.run(call, natives), subject.border.name)
    except Raised:
        return False
    if extra is None:
        raise NotAsked("this system does not tell the peak memory of a process")
    scores = LENGTH * LENGTH * call.q.itemsize
    if extra >= scores // 4:
        raise Failed(
            f"{_called(case)} held {extra / 2**20:.0f} MiB beyond its arguments; B H T S elements are "
            f"{scores >> 20} MiB"
        )
    return True


def _grows_slowly(subject: Subject, case: KernelCase) -> bool:
    peaks = []
    for length in GROWTH:
        call = build(replace(case, queries=length, keys=length))
        subject.prepare(call)
        natives = subject.natives(call)
        try:
            peaks.append(memory.cuda_peak_of(partial(subject.run, call, natives)))
        except Raised:
            return False
    exponent = float(np.polyfit(np.log(GROWTH), np.log(np.maximum(peaks, 1)), 1)[0])
    if exponent >= LARGEST_EXPONENT:
        shown = ", ".join(f"{peak / 2**20:.1f} MiB at T = {n}" for n, peak in zip(GROWTH, peaks, strict=True))
        raise Failed(f"allocated memory of {_called(case)} grows like T^{exponent:.2f}: {shown}")
    return True


def _called(case: KernelCase) -> str:
    return "the causal call" if case.causal else "the call"
