"""Simplified: what a case rests on, and by which requirements that is judged; functions from a case to its grounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from attn_conformance.cases import ForwardCase, KernelCase, ScriptCase, Step
from attn_conformance.grounds import Ground

ONE_HEAD = ("OUT-1", "OUT-2", "EQ-1", "EQ-2", "EQ-3")
"""What judges a single ordinary head, at lengths below any tile."""

SMALL = (*ONE_HEAD, "EQ-4", "EQ-5")
"""What judges ordinary numbers, at lengths below any tile."""

PLAIN = (*SMALL, "EQ-6", "NUM-1")
"""What judges ordinary numbers without mask and causality."""

STEEP = ("NUM-2", "NUM-3")
"""What judges scores that lie far apart, or far from zero."""

CACHED = ("CACHE-1", "CACHE-3")
"""What judges that the last of two steps on a cache gives what one call gives, without mask and causality."""

MASKED = ("MASK-1", "MASK-2")
"""What judges masks that hide, or that add, and are alike for all heads and batch elements."""

CAUSAL = ("CAUSAL-1", "CAUSAL-2", "CAUSAL-3", "CACHE-2")

ANY = (*PLAIN, *STEEP, *CACHED, *MASKED, "MASK-3", "MASK-5", *CAUSAL)
"""What judges a call that is in order."""

RESULTS = (*ANY, "MASK-4", "MASK-8", "OUT-3", "OUT-6", "KERN-1", "PURE-2")
"""What judges the results that gradients are asked of."""

LONGEST = 200
"""Most keys of a ground that has more queries than its case: work grows with both."""

SHORT = 7
"""Most queries and keys of what is small."""

RAMPS = ("growing", "falling")
"""Families in which scores lie further apart than exp reaches, along the keys."""

EVEN = ("normal", "probe", "integers", "shifted", "even", "zero-keys", "tiny", "counted")
"""Families in which they never do."""


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


def _with_a_cache(case: KernelCase, judged_by: tuple[str, ...]) -> tuple[str, ...]:
    return (*judged_by, *CACHED) if case.window == "cached" else judged_by


# --- without mask and causality


def one_head(case: KernelCase) -> Iterator[Ground]:
    """A single head of eight features with ordinary numbers, few queries and keys."""
    plain = replace(small(bare(case)), values="normal", heads=1, kv_heads=1, head_size=8, value_size=8)
    yield Ground(plain, _with_a_cache(case, ONE_HEAD))


def ordinary(case: KernelCase) -> Iterator[Ground]:
    """Ordinary numbers, few queries and keys, in as many heads of the same size."""
    yield from one_head(case)
    yield Ground(replace(small(bare(case)), values="normal"), _with_a_cache(case, SMALL))


def sizes(case: KernelCase) -> Iterator[Ground]:
    """Of a plain case: ordinary numbers at the same sizes, and at small ones."""
    yield from ordinary(case)
    yield Ground(replace(bare(case), values="even"), ("EQ-6",))


def plain(case: KernelCase) -> Iterator[Ground]:
    """The same without mask and causality; where scores may lie far apart, rows that rise and fall, too."""
    without = bare(case)
    judged_by = _with_a_cache(case, PLAIN)
    yield Ground(without, judged_by if case.values in EVEN else (*judged_by, *STEEP))
    yield Ground(replace(small(without), values="normal"), judged_by)
    if case.values not in EVEN or (case.mask is not None and case.mask.bias in ("fine", "row-constant")):
        yield from (Ground(replace(small(without), values=values), STEEP) for values in RAMPS)


def hard(case: KernelCase) -> Iterator[Ground]:
    """Of a plain case with any numbers: ordinary ones, and the same and harder ones at small sizes."""
    yield from sizes(case)
    if case.values not in EVEN:
        yield Ground(small(bare(case)), STEEP)
        yield from (Ground(replace(small(bare(case)), values=values), STEEP) for values in RAMPS)


def repeated(case: KernelCase | ForwardCase) -> Iterator[Ground]:
    """The same call twice."""
    alone = (
        replace(case, before=(), fault="none")
        if isinstance(case, KernelCase)
        else replace(case, change="none")
    )
    yield Ground(alone, ("PURE-2",), "repeat")


def shapes(case: KernelCase | ForwardCase) -> Iterator[Ground]:
    """The shape alone; of a case without queries, keys or batch, that of one which has them."""
    if isinstance(case, KernelCase):
        some = replace(bare(case), batch=case.batch or 2, queries=case.queries or 2, keys=case.keys or 2)
        yield Ground(some, (*ONE_HEAD, *CACHED), "shape")
    else:
        yield Ground(
            replace(case, change="none", mask=None, causal=False, weights_dtype=None), ONE_HEAD, "shape"
        )


def one_element(case: KernelCase) -> Iterator[Ground]:
    """The shape alone, the same call twice, and if there is a mask, a single batch element."""
    yield from shapes(case)
    yield from repeated(case)
    if case.mask is not None:
        yield Ground(replace(bare(case), mask=case.mask, batch=1), (*MASKED, "MASK-3"))


def with_nan(case: KernelCase) -> Iterator[Ground]:
    """The same without NaN."""
    yield from repeated(case)
    yield from plain(case)


# --- masks


def masked(case: KernelCase, judged_by: tuple[str, ...] = MASKED, **changes: Any) -> Ground:
    """The same over ordinary numbers, with a mask of all four axes, every row of which sees a key; with its changes."""
    assert case.mask is not None
    usual = {"axes": "bhts", "empty_rows": False, "layout": "contiguous"}
    mask = replace(case.mask, **{**usual, **changes})
    return Ground(replace(bare(case), mask=mask, values="normal"), judged_by)


def hiding(case: KernelCase) -> Iterator[Ground]:
    """Of a mask that adds: no mask, and a boolean one that hides as much."""
    yield from plain(case)
    if case.mask is not None and case.mask.structure != "all":
        yield masked(case, ("MASK-1",), dtype="bool", bias="none")


def one_plane(case: KernelCase) -> Iterator[Ground]:
    """No mask, and one plane for all heads and batch elements."""
    yield from plain(case)
    yield masked(case, planes="same")
    yield masked(case, planes="same", structure="random", bias="none")


def written_out(case: KernelCase) -> Iterator[Ground]:
    """No mask, one plane for all, and one for each."""
    yield from one_plane(case)
    yield masked(case, (*MASKED, "MASK-3"), planes="each")


def visible_numbers(case: KernelCase) -> Iterator[Ground]:
    """No mask, and the same mask over ordinary numbers."""
    yield from plain(case)
    yield masked(case)


def neutral(case: KernelCase) -> Iterator[Ground]:
    """The same call twice, no mask, and masks that do something."""
    yield from repeated(case)
    yield from plain(case)
    yield masked(case, structure="random", bias="none")
    if case.mask is not None and case.mask.dtype != "bool":
        yield masked(case, ("MASK-2",), bias="noise")


def low(case: KernelCase) -> Iterator[Ground]:
    """Ordinary numbers, and where there is a mask, values of it that are no lower than scores."""
    yield from sizes(case)
    if case.mask is not None:
        yield masked(case, bias="noise")


def squarely_masked(case: KernelCase) -> Iterator[Ground]:
    """No mask, and as many queries as keys under masks, of one plane and of several, without gradients."""
    yield from plain(case)
    square = replace(case, queries=max(case.queries, SHORT), keys=max(case.queries, SHORT))
    yield masked(square, planes="same", structure="random")
    yield masked(square, ("MASK-3",), planes="each", structure="random")


def mask_in_one_call(case: KernelCase) -> Iterator[Ground]:
    """Of a mask with a cache: no mask, and masks without a cache."""
    yield from plain(case)
    alone = replace(case, window="self", keys=case.queries)
    yield masked(alone, planes="same")
    yield masked(alone, ("MASK-3",), planes="each")


# --- causality


def uncaused(case: KernelCase) -> Iterator[Ground]:
    """The same call twice, and the same without causality."""
    yield from repeated(case)
    yield from plain(case)


def square(case: KernelCase) -> Iterator[Ground]:
    """Of a causal case with more keys: no causality, and as many keys as queries, few or many."""
    yield from plain(case)
    for length in (case.queries, case.keys):
        if length <= LONGEST:
            equal = replace(case, queries=length, keys=length)
            yield Ground(equal, ("CAUSAL-1", "CAUSAL-2", "CACHE-1", "CACHE-2"))


# --- what kernels offer, and what came before


def offered(case: KernelCase) -> Iterator[Ground]:
    """The same without what kernels may offer besides, and without mask and causality, too."""
    yield from plain(case)
    usual = replace(case, kv_heads=case.heads, value_size=case.head_size, scale=None)
    yield Ground(usual, ANY)


def alone(case: KernelCase) -> Iterator[Ground]:
    """The same call with nothing before it."""
    yield from repeated(case)
    yield Ground(replace(case, before=()), ANY)


# --- forward


def _random_weights(case: ForwardCase, own: str, shape: str) -> Iterator[Ground]:
    """The shape, the same call twice, one ordinary head; and heads of other sizes, which the projections carry."""
    yield Ground(case, (shape,), "shape")
    yield from repeated(case)
    if case.heads > 1 or case.head_size != 8:
        yield Ground(replace(case, heads=1, head_size=8), (own,))
        window, keys = ("self", case.queries) if case.keys is None else ("cross", case.keys)
        carried = KernelCase(
            case.batch, case.heads, case.heads, case.queries, keys, case.head_size, case.head_size, case.dtype,
            seed=case.seed, window=window,
        )  # fmt: skip
        yield Ground(carried, ("EQ-5",))


def self_attention(case: ForwardCase) -> Iterator[Ground]:
    """What the value of a call of forward on itself rests on."""
    yield from _random_weights(case, "EQ-1", "OUT-1")


def cross_attention(case: ForwardCase) -> Iterator[Ground]:
    """What the value of a call of forward across rests on: self-attention is one thing."""
    yield Ground(replace(case, keys=None), ("EQ-1",))
    yield from _random_weights(case, "EQ-2", "OUT-2")


def composed(case: ForwardCase) -> Iterator[Ground]:
    """Of what forward is composed of: the shape, and the same call twice."""
    yield from shapes(case)
    yield from repeated(case)


def forward(case: ForwardCase) -> Iterator[Ground]:
    """The same call of forward with nothing done to the module, twice; and without mask, causality and cast weights."""
    yield from repeated(case)
    usual = replace(case, change="none")
    if case.mask is not None:
        mask = replace(case.mask, empty_rows=False, planes="same")
        yield Ground(replace(usual, mask=mask), MASKED)
    yield Ground(replace(usual, weights_dtype=None), ANY)
    yield Ground(replace(usual, mask=None, causal=False, weights_dtype=None), PLAIN)


# --- gradients


def result(case: KernelCase | ForwardCase) -> Iterator[Ground]:
    """The result that gradients are of: those of another function are wrong as well."""
    yield Ground(case, RESULTS, "bound")


# --- scripts


def whole(case: ScriptCase) -> Iterator[Ground]:
    """As many tokens in one call without a cache; and calls of forward across that have as many as a step."""
    length = sum(step.length for step in case.steps if step.act in ("self", "plain"))
    one = replace(case, steps=(Step("plain", length=max(length, 1)),))
    yield Ground(one, (*PLAIN, "CAUSAL-1", "CAUSAL-2") if case.causal else PLAIN)
    for queries in {step.length for step in case.steps if step.act == "cross"}:
        across = ForwardCase(
            case.batch, case.heads, case.head_size, queries, case.keys, case.dtype, seed=case.seed
        )
        yield Ground(across, PLAIN)


def first_step(case: ScriptCase) -> Iterator[Ground]:
    """As many tokens in one call, and the first step alone, on an empty cache."""
    yield from whole(case)
    yield Ground(replace(case, steps=case.steps[:1]), ("CACHE-1",))


def steps_only(case: ScriptCase) -> Iterator[Ground]:
    """As many tokens in one call, and the plain steps of the script alone, by one module on one cache."""
    yield from whole(case)
    steps = tuple(Step(s.act, length=s.length) for s in case.steps if s.act in ("self", "cross") and s.length)
    one = replace(case, steps=steps, copied=False)
    yield Ground(replace(one, steps=steps[:1]), ("CACHE-1",))
    yield Ground(one, ("CACHE-2", "CACHE-3", "CACHE-4"))
