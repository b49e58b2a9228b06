"""Masks: no mask, simpler ones, and what masks do besides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from attn_conformance.cases import KernelCase
from attn_conformance.grounds import Ground
from attn_conformance.simplified.judges import MASKED
from attn_conformance.simplified.numbers import edges, many_queries, ordinary, plain, together
from attn_conformance.simplified.smaller import SHORT, bare, in_chunks, repeated, seeds, small


def masked(case: KernelCase, judged_by: tuple[str, ...] = MASKED, **changes: Any) -> Ground:
    """The same over ordinary numbers, with a mask of all four axes, every row of which sees a key; with its changes."""
    assert case.mask is not None
    usual = {"axes": "bhts", "empty_rows": False, "layout": "contiguous"}
    mask = replace(case.mask, **{**usual, **changes})
    return Ground(replace(bare(case), mask=mask, values="normal"), judged_by)


def enough(case: KernelCase) -> KernelCase:
    """The same with as many queries and keys as show which mask is which."""
    queries = max(case.queries, SHORT)
    keys = queries if case.keys == case.queries else max(case.keys, SHORT)
    return replace(case, queries=queries, keys=keys + (keys == queries and case.window == "cached"))


def planes_apart(case: KernelCase) -> Iterator[Ground]:
    """Planes of their own for each batch element and head."""
    yield masked(enough(case), ("MASK-3",), planes="each", structure="random", bias="none")


def hidden(case: KernelCase) -> Iterator[Ground]:
    """What masks do besides: huge numbers hidden, batch elements with other masks, and masks that hide nothing."""
    assert case.mask is not None
    uneven = masked(enough(case), structure="first-shortest", bias="none", planes="each")
    assert isinstance(uneven.case, KernelCase)
    yield Ground(replace(uneven.case, batch=max(case.batch, 2)), ("PURE-3",), "check")
    hiding = masked(enough(case), ("MASK-6",), structure="padding-right", bias="none", planes="same")
    assert isinstance(hiding.case, KernelCase)
    for seed in seeds(case):  # not every draw is of the largest numbers
        yield replace(hiding, case=replace(hiding.case, poison="both", seed=seed))
    yield masked(case, ("MASK-7",), structure="all", bias="none", dtype="bool", planes="same")
    if case.mask.dtype != "bool":
        yield masked(case, ("MASK-7",), structure="all", bias="row-constant", planes="same")


def allowed(case: KernelCase) -> Iterator[Ground]:
    """Of a boolean mask: no mask, a mask over ordinary numbers, and what masks do besides."""
    yield from plain(case)
    yield masked(enough(case), ("MASK-1",), structure="random")
    yield from hidden(case)
    yield masked(case, ("MASK-1",))


def hiding(case: KernelCase) -> Iterator[Ground]:
    """Of a mask that adds: no mask, boolean ones that hide as much, and what masks do besides."""
    yield from plain(case)
    assert case.mask is not None
    for structure in dict.fromkeys(("random", case.mask.structure)):
        if structure != "all":
            yield masked(enough(case), ("MASK-1",), dtype="bool", bias="none", structure=structure)
    yield masked(enough(case), ("MASK-2",), structure="all", bias="noise")
    yield from hidden(case)


def one_plane(case: KernelCase) -> Iterator[Ground]:
    """No mask, one plane for all heads and batch elements, ordinary planes of their own, and what masks do besides."""
    yield from plain(case)
    yield masked(case, planes="same")
    yield masked(enough(case), planes="same", structure="random", bias="none")
    yield from planes_apart(case)
    yield from hidden(case)


def written_out(case: KernelCase) -> Iterator[Ground]:
    """No mask, one plane for all, and one for each."""
    yield from one_plane(case)
    yield masked(case, (*MASKED, "MASK-3"), planes="each")


def visible_numbers(case: KernelCase) -> Iterator[Ground]:
    """No mask, the same mask over ordinary numbers, and numbers that are hard without one or under a low one."""
    yield from plain(case)
    yield Ground(replace(small(bare(case)), values="huge"), ("NUM-2",))
    yield masked(case)
    if case.mask is not None and case.mask.dtype != "bool":
        yield masked(enough(case), ("NUM-3",), structure="padding-right", bias="below-10000")


def neutral(case: KernelCase) -> Iterator[Ground]:
    """The same call twice, no mask, and masks that do something."""
    yield from repeated(case)
    yield from plain(case)
    yield masked(enough(case), structure="random", bias="none")
    if case.mask is not None and case.mask.dtype != "bool":
        yield masked(case, ("MASK-2",), bias="noise")


def low(case: KernelCase) -> Iterator[Ground]:
    """Ordinary numbers, large ones, and where there is a mask, one that is no lower than scores, or that hides."""
    yield from ordinary(case)
    yield from edges(case)
    yield from many_queries(case)
    yield from together(case)
    yield Ground(replace(small(bare(case)), values="lifted"), ("NUM-2",))
    if case.mask is not None:
        yield masked(case, bias="noise")
        yield from hidden(case)


def squarely_masked(case: KernelCase) -> Iterator[Ground]:
    """No mask, masks with as many queries as keys, of one plane and of several, without gradients; cached ones."""
    yield from plain(case)
    length = max(case.queries, SHORT)
    square = replace(case, queries=length, keys=length)
    yield masked(square, planes="same", structure="random")
    yield masked(square, ("MASK-3",), planes="each", structure="random")
    if case.window == "cached":
        yield Ground(in_chunks(case), ("CACHE-2",))  # where the order of keys counts as it does under a mask
        yield masked(replace(case, queries=SHORT, keys=2 * SHORT), ("CACHE-6",), structure="random")
    yield from hidden(square)


def mask_in_one_call(case: KernelCase) -> Iterator[Ground]:
    """Of a mask with a cache: no mask, masks without a cache, and causal chunks on one."""
    yield from plain(case)
    alone = enough(replace(case, window="self", keys=case.queries))
    yield masked(alone, planes="same")
    yield masked(alone, planes="same", structure="random")
    yield masked(alone, ("MASK-3",), planes="each")
    yield from hidden(alone)
    yield Ground(in_chunks(case), ("CACHE-2",))
