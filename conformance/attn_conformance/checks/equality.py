"""EQ: without mask and causality, the output equals the reference's at every size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import expect, simplified
from attn_conformance.cases import KernelCase, build
from attn_conformance.registry import check
from attn_conformance.scope import Scope
from attn_conformance.strategies import ORDINARY, kernel_cases, sizes, weighted
from attn_conformance.subject import Subject
from attn_reference import Problem


def even_weights(problem: Problem) -> Problem:
    """All visible keys weigh the same: what is left if the scores do not count."""
    return replace(problem, q=0 * problem.q)


def _small_and_single(scope: Scope) -> SearchStrategy[KernelCase]:
    # One batch element, one query, one key: axes of length 1 must survive. One head: EQ-5 judges several.
    small = st.integers(1, 4)
    one, below, eights = sizes.one(1), sizes.below_tiles, st.sampled_from((8, 16, 32, 64))
    families = (*ORDINARY, "zero-keys")
    return st.one_of(
        kernel_cases(scope, heads=one, queries=below, keys=below, head_size=eights, families=families),
        kernel_cases(scope, batch=small, heads=one, queries=small, keys=small, head_size=eights),
    )


@check("EQ-3", cases=_small_and_single, windows=("kernel", "qkv"), grounds=simplified.single)
def queries_and_keys_of_any_length(subject: Subject, case: KernelCase) -> bool:
    """The output equals softmax(q k^T / sqrt(D)) v, T and S independent."""
    return expect.reference(subject, build(case), without=even_weights)


def _heads_rolled(problem: Problem) -> Problem:
    if problem.k.shape[1] > 1:
        return replace(problem, k=np.roll(problem.k, 1, axis=1), v=np.roll(problem.v, 1, axis=1))
    q = problem.q.copy()
    q[..., -1] = 0
    return replace(problem, q=q)


@check(
    "EQ-5",
    cases=lambda scope: kernel_cases(
        scope,
        heads=sizes.any_counts,
        queries=sizes.below_tiles,
        keys=sizes.below_tiles,
        head_size=sizes.odd_head_sizes,
    ),
    grounds=simplified.heads,
)
def every_head_counts(subject: Subject, case: KernelCase) -> bool:
    """Each head attends with its own q, k and v, for any number of heads and any head size."""
    return expect.reference(subject, build(case), without=_heads_rolled)


def _around_tiles(scope: Scope) -> SearchStrategy[KernelCase]:
    even = ("even", "probe", "normal")
    many_keys = kernel_cases(scope, queries=sizes.short_lengths, keys=sizes.edges, families=even)
    many_of_both = kernel_cases(
        scope,
        batch=sizes.one(1),
        heads=sizes.one(2),
        queries=sizes.edges,
        keys=sizes.edges,
        head_size=st.sampled_from((4, 8, 16)),  # with many of both, the oracle's time
        families=even,
    )
    # More than 32767 elements of q: offsets kept in 16 bits wrap.
    much_work = kernel_cases(
        scope,
        queries=st.integers(200, 300),
        keys=sizes.short_lengths,
        head_size=sizes.one(64),
        families=even,
    )
    return weighted((1, many_keys), (2, many_of_both), (1, much_work))


def _last_key_lost(problem: Problem) -> Problem:
    visible = np.broadcast_to(problem.visible, (*problem.visible.shape[:3], problem.k.shape[2])).copy()
    visible[..., -1] = False
    return replace(problem, visible=visible)


@check("EQ-6", cases=_around_tiles, grounds=simplified.tiles)
def sizes_around_tile_edges(subject: Subject, case: KernelCase) -> bool:
    """Lengths one below, at and one above a multiple of 8 to 128 lose and add no key."""
    return expect.reference(subject, build(case), without=_last_key_lost)
