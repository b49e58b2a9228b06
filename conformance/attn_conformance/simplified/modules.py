"""Modules: of a call of forward, qkv_attention alone, self- or cross-attention, and what was done to the module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from attn_conformance.cases import ForwardCase, KernelCase
from attn_conformance.grounds import Ground
from attn_conformance.simplified.calls import shapes
from attn_conformance.simplified.causality import future
from attn_conformance.simplified.judges import ANY, MASKED, PLAIN
from attn_conformance.simplified.masks import masked
from attn_conformance.simplified.smaller import SHORT, repeated


def across(case: ForwardCase) -> Iterator[Ground]:
    """The shape of cross-attention: that of self-attention."""
    yield Ground(replace(case, keys=None), ("OUT-1",), "shape")


GAIN = 3.0
"""Of projected queries and keys: scores far enough apart that another scale shows, and near enough to be exact."""


def ordinary_call(case: ForwardCase) -> ForwardCase:
    """A call of forward by the same module, with weights in its own dtype, without mask, causality or anything else."""
    queries, keys = _lengths(case)
    return replace(
        case, gain=GAIN, mask=None, causal=False, weights_dtype=None, change="none", zeros=False,
        queries=queries, keys=None if case.keys is None else keys,
    )  # fmt: skip


def _lengths(case: ForwardCase) -> tuple[int, int]:
    """Numbers of queries and keys at which all shows, as unequal as those of the case."""
    if case.keys is None or case.keys == case.queries:
        return SHORT, SHORT
    return (SHORT - 2, SHORT) if case.queries < case.keys else (SHORT, SHORT - 2)


def _posed(case: ForwardCase, window: str, **changes: Any) -> KernelCase:
    """A call of the same heads through a window, of lengths at which all shows."""
    posed = KernelCase(
        case.batch, case.heads, case.heads, *_lengths(case), case.head_size, case.head_size, case.dtype,
        seed=case.seed, window=window,
    )  # fmt: skip
    return replace(posed, **changes)


def _window(case: ForwardCase) -> str:
    return "self" if case.keys is None else "cross"


def _other_kind(case: ForwardCase) -> ForwardCase:
    """Self-attention in place of cross-attention, or the reverse."""
    return replace(ordinary_call(case), keys=SHORT - 1 if case.keys is None else None)


def _parts(case: ForwardCase) -> Iterator[Ground]:
    """qkv_attention alone, with one head and with as many."""
    one = {"heads": 1, "kv_heads": 1, "head_size": 8, "value_size": 8}
    yield Ground(_posed(case, "qkv", **one), ("EQ-3",))
    yield Ground(_posed(case, "qkv"), ("EQ-5",))
    yield Ground(_posed(case, "qkv", values="lifted"), ("NUM-2",))


def _meeting(case: ForwardCase) -> Iterator[Ground]:
    """Batch elements beside each other and alone."""
    uneven = _posed(case, _window(case), batch=max(case.batch, 2))
    yield Ground(uneven, ("PURE-3",), "check")
    yield Ground(replace(uneven, values="uneven-batch"), ("PURE-3",), "check")


def self_attention(case: ForwardCase) -> Iterator[Ground]:
    """What the value of a call of forward on itself rests on; if cross-attention fails, too, it is the composition."""
    yield Ground(case, ("OUT-1",), "shape")
    yield from repeated(case)
    yield from _parts(case)
    yield from _meeting(case)
    yield Ground(_other_kind(case), ("EQ-4",))


def cross_attention(case: ForwardCase) -> Iterator[Ground]:
    """What the value of a call of forward across rests on: self-attention is one thing."""
    yield Ground(replace(case, keys=None), ("EQ-1", "EQ-4"))
    yield Ground(_other_kind(case), ("EQ-1", "EQ-4"))
    yield Ground(case, ("OUT-2",), "shape")
    yield from repeated(case)
    yield from _parts(case)
    yield from _meeting(case)


def composed(case: ForwardCase) -> Iterator[Ground]:
    """Of what forward is composed of: the shape, the same call twice; and self- or cross-attention, if one fails alone.

    Then masks and causality: where forward is wrong in a simpler case, that it is not its composition is no news.
    """
    yield from shapes(case)
    yield from repeated(case)
    yield from _meeting(case)
    yield Ground(_other_kind(case), ("EQ-4",))
    yield Ground(ordinary_call(case), ("EQ-1",) if case.keys is None else ("EQ-2",))
    yield from _conditions(case)


def _conditions(case: ForwardCase) -> Iterator[Ground]:
    """Masks of one plane and of several, and causality, through forward and through qkv_attention."""
    for window in (_window(case), "qkv"):
        posed = _posed(case, window)
        if case.mask is not None:
            one = replace(posed, mask=case.mask)
            yield masked(one, ("MASK-1",), dtype="bool", planes="same", structure="random", bias="none")
            yield masked(one, planes="same", structure="random")
            yield masked(one, ("MASK-3",), planes="each", structure="random")
            yield masked(one, ("MASK-7",), planes="same", structure="all", bias="none")
        if case.causal:
            yield from future(posed)


def forward(case: ForwardCase) -> Iterator[Ground]:
    """The same call of forward with nothing done to the module, twice; and without mask, causality and cast weights.

    Also of the other module, or of the other weights, that a change is about.
    """
    yield from repeated(case)
    usual = replace(case, change="none")
    yield from _parts(case)
    yield from _meeting(case)
    yield Ground(ordinary_call(case), PLAIN)
    for heads in (1, 2, 4, 3):
        if case.n_state % heads == 0:
            size = case.n_state // heads
            yield Ground(replace(ordinary_call(case), heads=heads, head_size=size), PLAIN)
    yield from _conditions(case)
    if case.mask is not None:
        mask = replace(case.mask, empty_rows=False, planes="same")
        yield Ground(replace(usual, mask=mask), MASKED)
    if case.weights_dtype is not None:
        yield Ground(replace(ordinary_call(case), weights_dtype=case.weights_dtype), ("OUT-3",))
    yield Ground(replace(usual, weights_dtype=None), ANY)
    yield Ground(replace(usual, mask=None, causal=False, weights_dtype=None), PLAIN)
