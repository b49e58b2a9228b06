"""Causality: none, later keys, and as many keys as queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attn_conformance.cases import KernelCase, Mask, ScriptCase
from attn_conformance.grounds import Ground
from attn_conformance.simplified.masks import hidden
from attn_conformance.simplified.numbers import plain
from attn_conformance.simplified.smaller import SHORT, bare, in_chunks, repeated, seeds

LONGEST = 200
"""Most keys of a ground that has more queries than its case: work grows with both."""


def _causal(case: KernelCase) -> KernelCase:
    """The same without mask and with causality, as many queries as keys, and ordinary numbers."""
    length = min(max(case.queries, SHORT), LONGEST)
    window = "self" if case.window in ("cross", "cached") else case.window
    return replace(
        bare(case), queries=length, keys=length, values="normal", causal=True, window=window, heads=2, kv_heads=2
    )  # fmt: skip


def future(case: KernelCase) -> Iterator[Ground]:
    """Causal self-attention of ordinary numbers: whether later keys count."""
    for seed in seeds(case):  # each is about what lies behind another position
        yield Ground(replace(_causal(case), seed=seed), ("CAUSAL-1",), "check")


def uncaused(case: KernelCase) -> Iterator[Ground]:
    """The same call twice, the same without causality, later keys, an ordinary triangle, and huge numbers hidden."""
    yield from repeated(case)
    yield from plain(case)
    yield from future(case)
    yield Ground(_causal(case), ("CAUSAL-2",))
    hiding = replace(case, mask=Mask("padding-right", dtype="bool", axes="bhts"))
    yield from hidden(hiding)


def square(case: KernelCase) -> Iterator[Ground]:
    """Of a causal case with more keys: no causality, as many keys as queries, few or many; chunks if cached."""
    yield from plain(case)
    yield from future(case)
    for length in (case.queries, case.keys):
        if length <= LONGEST:
            equal = replace(case, queries=length, keys=length)
            yield Ground(equal, ("CAUSAL-1", "CAUSAL-2", "CACHE-1", "CACHE-2"))
    if case.window == "cached":
        yield Ground(anchored(case), ("CAUSAL-3",))
        yield Ground(in_chunks(case), ("CACHE-2",))


def anchored(case: KernelCase | ScriptCase) -> KernelCase:
    """Causal qkv_attention with more keys than queries, which no cache is needed for."""
    return KernelCase(
        case.batch, 2, 2, SHORT - 3, SHORT, 8, 8, case.dtype, seed=case.seed, causal=True, window="qkv"
    )
