"""Elements: of a batch, of heads and of keys, a single one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attn_conformance.cases import KernelCase
from attn_conformance.grounds import Ground
from attn_conformance.simplified.calls import shapes
from attn_conformance.simplified.judges import MASKED, ONE_HEAD
from attn_conformance.simplified.masks import masked, planes_apart
from attn_conformance.simplified.numbers import large, rising, steep, work
from attn_conformance.simplified.smaller import bare, few, one, repeated


def one_element(case: KernelCase) -> Iterator[Ground]:
    """The shape alone, the same call twice, and a single batch element, with the mask if there is one."""
    yield from shapes(case)
    yield from repeated(case)
    alone = replace(bare(case), batch=1)
    yield Ground(replace(few(alone), heads=1, kv_heads=1), ONE_HEAD)
    if case.mask is not None:
        yield Ground(replace(alone, mask=case.mask), (*MASKED, "MASK-3"))
        yield from planes_apart(case)
    yield from work(case)


def ordered(case: KernelCase) -> Iterator[Ground]:
    """Of an order of heads and keys: what has one without many heads; forward, masks, batches, heads and sizes."""
    yield from shapes(case)
    yield from repeated(case)
    usual, single = few(case), one(case)
    if case.window in ("self", "cross"):
        yield Ground(replace(single, window="qkv"), ("PURE-4",), "check")
        yield Ground(single, ("EQ-1", "EQ-2", "EQ-4"))
        yield Ground(replace(usual, window="qkv"), ("EQ-5",))
        yield Ground(usual, ("EQ-1", "EQ-2", "EQ-4"))
    yield Ground(replace(single, batch=1), ("PURE-4",), "check")
    yield Ground(replace(single, batch=1), ("EQ-3",))
    if case.batch > 1:
        yield Ground(case, ("PURE-3",), "check")
    if case.mask is not None:
        yield Ground(replace(bare(case), mask=case.mask, batch=1), (*MASKED, "MASK-3"))
        yield from planes_apart(case)
        yield masked(case, planes="same", structure="random")
    keyed = replace(usual, heads=2, kv_heads=2, batch=1)
    yield Ground(keyed, ("PURE-4",), "check") if case.heads == 1 else Ground(keyed, ("EQ-5",))
    yield Ground(usual, ("EQ-5",))
    yield from steep(case)
    yield from large(case)
    yield from rising(case)
