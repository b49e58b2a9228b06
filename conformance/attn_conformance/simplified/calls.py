"""Calls: the same twice, the same alone, its shape; without NaN, and without what only kernels offer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attn_conformance.cases import ForwardCase, KernelCase
from attn_conformance.grounds import Ground
from attn_conformance.simplified.causality import uncaused
from attn_conformance.simplified.judges import ANY, CACHED, ONE_HEAD, RESULTS
from attn_conformance.simplified.masks import enough, hidden, masked, planes_apart
from attn_conformance.simplified.numbers import plain
from attn_conformance.simplified.smaller import bare, repeated


def shapes(case: KernelCase | ForwardCase) -> Iterator[Ground]:
    """The shape alone; of a case without queries, keys or batch, that of one which has them."""
    if isinstance(case, KernelCase):
        some = replace(bare(case), batch=case.batch or 2, queries=case.queries or 2, keys=case.keys or 2)
        yield Ground(some, (*ONE_HEAD, *CACHED), "shape")
        yield Ground(replace(some, batch=1), (*ONE_HEAD, *CACHED), "shape")
    else:
        yield Ground(
            replace(case, change="none", mask=None, causal=False, weights_dtype=None), ONE_HEAD, "shape"
        )


def no_keys(case: KernelCase) -> Iterator[Ground]:
    """The shape of what is not empty; and of no keys, that there is no NaN."""
    yield from shapes(case)
    if case.keys == 0:
        yield Ground(case, ("OUT-6",), "check")


def with_nan(case: KernelCase) -> Iterator[Ground]:
    """The same without NaN."""
    yield from repeated(case)
    yield from plain(case)


def offered(case: KernelCase) -> Iterator[Ground]:
    """The same without what kernels may offer besides, and without mask and causality, too."""
    yield from plain(case)
    usual = replace(case, kv_heads=case.heads, value_size=case.head_size, scale=None)
    yield Ground(usual, ANY)


def alone(case: KernelCase) -> Iterator[Ground]:
    """The same call with nothing before it: twice, without mask and causality, and with each of them.

    No checks, of which each makes several calls: what one leaves behind may be all that is wrong with the next.
    """
    yield from (ground for ground in _alone(case) if ground.asked != "check")


def _alone(case: KernelCase) -> Iterator[Ground]:
    yield from repeated(case)
    yield from plain(case)
    if case.causal:
        yield from uncaused(case)
    if case.mask is not None:
        yield masked(enough(case), planes="same", structure="random")
        yield from planes_apart(case)
        yield from hidden(case)
    yield Ground(replace(case, before=()), (*ANY, "PURE-3"))


def result(case: KernelCase | ForwardCase) -> Iterator[Ground]:
    """The result that gradients are of: those of another function are wrong as well."""
    yield Ground(case, RESULTS, "bound")
