"""Numbers: of a call without mask and causality, the same with other numbers, and at other sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attn_conformance.cases import KernelCase
from attn_conformance.grounds import Ground
from attn_conformance.simplified.judges import CACHED, ONE_HEAD, PLAIN, SMALL, STEEP
from attn_conformance.simplified.smaller import SHORT, bare, few, one, repeated, seeds, small

RAMPS = ("growing", "falling")
"""Families in which scores lie further apart than exp reaches, along the keys."""

LOW = ("negative", "deep")
"""Families in which all scores lie far below zero."""

WORK = 2**15
"""Elements of an array from which on offsets of 16 bits wrap."""

TILES = (32, 64)
"""Tile widths whose residues shorter cases keep: what goes wrong at every tile goes wrong there."""

BEYOND = 33
"""Keys of which one is alone in the last tile of 8, 16 or 32."""

EVEN = ("normal", "probe", "integers", "shifted", "even", "zero-keys", "tiny", "counted")
"""Families in which they never do."""


def _with_a_cache(case: KernelCase, judged_by: tuple[str, ...]) -> tuple[str, ...]:
    return (*judged_by, *CACHED) if case.window == "cached" else judged_by


def one_head(case: KernelCase) -> Iterator[Ground]:
    """A single head of eight features, few queries and keys, with ordinary numbers, and with keys of zeros."""
    judged_by = _with_a_cache(case, ONE_HEAD)
    yield Ground(one(case), judged_by)
    yield Ground(replace(one(case), values="zero-keys"), judged_by)


def steep(case: KernelCase, ramps: tuple[str, ...] = STEEP) -> Iterator[Ground]:
    """Few queries and keys, with scores that all lie far above zero, far apart along the keys, and far below zero."""
    yield Ground(replace(few(case), values="lifted"), ("NUM-2",))
    yield from (Ground(replace(few(case), values=values), ramps) for values in (*RAMPS, *LOW))


def rising(case: KernelCase, judged_by: tuple[str, ...] = STEEP) -> Iterator[Ground]:
    """Few queries, and as many keys as show what goes on between tiles, of scores that rise along them."""
    keys = _around(case.keys, max(TILES))
    queries = keys if case.queries == case.keys else min(case.queries, SHORT)
    yield Ground(replace(bare(case), values="growing", queries=queries, keys=keys), judged_by)


def together(case: KernelCase) -> Iterator[Ground]:
    """Batch elements of which one has other scores than the rest, each beside them and alone."""
    uneven = replace(small(bare(case)), batch=max(case.batch, 3), values="uneven-batch")
    for seed in seeds(case):  # one may look at the element that is unlike the others
        yield Ground(replace(uneven, seed=seed), ("PURE-3",), "check")


def ordinary(case: KernelCase) -> Iterator[Ground]:
    """Ordinary numbers, few queries and keys, in as many heads of the same size."""
    yield from one_head(case)
    yield Ground(few(case), _with_a_cache(case, SMALL))


def _around(length: int, tile: int) -> int:
    """A length that is no longer than need be to have the same place in a tile beyond the first."""
    return length if length < 2 * tile else tile + length % tile


def _shorter(case: KernelCase) -> Iterator[KernelCase]:
    """The same without mask and causality, with no more queries and keys than have the same places in tiles."""
    for tile in TILES:
        queries, keys = _around(case.queries, tile), _around(case.keys, tile)
        if case.window == "cached":  # of which the queries are the last
            queries = min(queries, keys)
        yield replace(bare(case), queries=queries, keys=keys)


def edges(case: KernelCase) -> Iterator[Ground]:
    """Keys of equal weight, at the same sizes, at shorter ones around the same edges, and one beyond an edge."""
    even = replace(bare(case), values="even")
    yield Ground(even, ("EQ-6",))
    yield from (Ground(replace(short, values="even"), ("EQ-6",)) for short in _shorter(case))
    queries = BEYOND if case.queries == case.keys else min(case.queries, SHORT)
    yield Ground(replace(even, queries=queries, keys=BEYOND), ("EQ-6",))


def many_queries(case: KernelCase) -> Iterator[Ground]:
    """As many queries, and few keys."""
    window = "cross" if case.window in ("self", "cached") else case.window
    yield Ground(replace(bare(case), keys=min(case.keys, SHORT), values="probe", window=window), ("EQ-6",))


def work(case: KernelCase) -> Iterator[Ground]:
    """Arrays of many elements, if those of the case have many."""
    if case.batch * case.heads * max(case.queries, case.keys) * case.head_size > WORK:
        much = replace(
            bare(case), batch=4, heads=2, kv_heads=2, queries=250, head_size=64, value_size=64, values="probe"
        )
        yield Ground(replace(much, keys=250 if case.queries == case.keys else SHORT), ("EQ-6",))


def large(case: KernelCase) -> Iterator[Ground]:
    """Numbers in which each key shows, at sizes around edges, and with much work."""
    yield from edges(case)
    for short in _shorter(case):
        yield from (Ground(replace(short, values=values), ("EQ-6",)) for values in ("probe", "normal"))
    yield from work(case)


def tiles(case: KernelCase) -> Iterator[Ground]:
    """Of any sizes: ordinary numbers at small ones; keys of equal weight around edges; and scores that rise."""
    yield from ordinary(case)
    yield from edges(case)
    yield from rising(case, ("NUM-3",))


def plain(case: KernelCase) -> Iterator[Ground]:
    """The same without mask and causality, also with numbers that are hard, or harder than those of other elements."""
    without = bare(case)
    judged_by = _with_a_cache(case, PLAIN)
    yield from one_head(case)
    yield Ground(few(case), judged_by)
    yield from steep(case)
    yield from together(case)
    yield Ground(without, judged_by if case.values in EVEN else (*judged_by, *STEEP))
    yield Ground(replace(without, values="normal"), judged_by)
    yield from large(case)
    yield from rising(case)


def hard(case: KernelCase) -> Iterator[Ground]:
    """Of a plain case with any numbers: ordinary ones, and the same and harder ones at small sizes."""
    yield from ordinary(case)
    yield from together(case)
    yield from steep(case)
    yield Ground(replace(small(bare(case)), values="huge"), ("NUM-2",))
    if case.values not in EVEN:
        yield Ground(small(bare(case)), STEEP)
    yield from large(case)
    yield from rising(case)


def huge(case: KernelCase) -> Iterator[Ground]:
    """Of large logits: ordinary numbers; logits that all lie near one large value; and such as lie far apart or low."""
    yield from ordinary(case)
    yield from together(case)
    yield from steep(case, ("NUM-3",))


def single(case: KernelCase) -> Iterator[Ground]:
    """Of one head: the same call twice, a batch of one; elements that meet; and scores far apart."""
    yield from repeated(case)
    alone = replace(few(case), batch=1)
    yield from (Ground(replace(alone, values=values), ("EQ-3",)) for values in ("normal", "zero-keys"))
    if case.batch > 1:
        yield Ground(case, ("PURE-3",), "check")
    yield from steep(case)


def heads(case: KernelCase) -> Iterator[Ground]:
    """Of several heads: a single one; through forward, qkv_attention; few queries and keys; scores far apart; work."""
    yield from one_head(case)
    usual = few(case)
    if case.window in ("self", "cross"):
        yield Ground(replace(usual, window="qkv"), ("EQ-5",))
        yield Ground(usual, ("EQ-1", "EQ-2", "EQ-4"))
    yield Ground(usual, ("EQ-5",))
    yield from together(case)
    yield from steep(case)
    yield from large(case)
    yield from rising(case)
