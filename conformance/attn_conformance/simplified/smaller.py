"""Smaller: the same call with less about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attn_conformance.cases import ForwardCase, KernelCase, ScriptCase, Step
from attn_conformance.grounds import Ground

SHORT = 7
"""Most queries and keys of what is small."""


def bare(case: KernelCase) -> KernelCase:
    """The same q, k and v, once, without mask, causality, or anything else that is a check's own."""
    return replace(
        case, mask=None, causal=False, scale=None, poison="none", layout="contiguous", grad="off", fault="none",
        before=(), kv_heads=case.heads, value_size=case.head_size,
    )  # fmt: skip


def small(case: KernelCase) -> KernelCase:
    """The same with few queries and keys; T and S stay equal if they were, and S > T stays so, too."""
    queries, keys = min(case.queries, SHORT), min(case.keys, SHORT)
    if queries == keys and case.queries != case.keys:
        queries, keys = (SHORT - 2, SHORT) if case.queries < case.keys else (SHORT, SHORT - 2)
    return replace(case, queries=queries, keys=keys)


def few(case: KernelCase) -> KernelCase:
    """The same heads over few queries and keys, with ordinary numbers and nothing else about it."""
    return replace(small(bare(case)), values="normal")


def one(case: KernelCase) -> KernelCase:
    """A single head of eight features, over few queries and keys, with ordinary numbers."""
    return replace(few(case), heads=1, kv_heads=1, head_size=8, value_size=8)


def in_chunks(case: KernelCase) -> ScriptCase:
    """Of a call with a cache: as many tokens in causal chunks on one."""
    steps = tuple(Step("self", length=n) for n in (case.keys - case.queries, case.queries) if n)
    return ScriptCase(case.batch, case.heads, 8, case.dtype, True, steps=steps, seed=case.seed)


def seeds(case: KernelCase) -> tuple[int, int, int]:
    """The seed of a case and two others, where what is drawn may not show all."""
    return case.seed, case.seed ^ 1, case.seed ^ 2


def repeated(case: KernelCase | ForwardCase) -> Iterator[Ground]:
    """The same call twice."""
    alone = (
        replace(case, before=(), fault="none")
        if isinstance(case, KernelCase)
        else replace(case, change="none")
    )
    yield Ground(alone, ("PURE-2",), "repeat")
