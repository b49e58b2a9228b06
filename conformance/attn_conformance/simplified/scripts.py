"""Scripts: the same tokens without a cache, and fewer steps on one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attn_conformance.cases import ForwardCase, KernelCase, Mask, ScriptCase, Step
from attn_conformance.grounds import Ground
from attn_conformance.simplified.causality import anchored
from attn_conformance.simplified.judges import PLAIN
from attn_conformance.simplified.masks import masked
from attn_conformance.simplified.smaller import SHORT


def lengths(case: ScriptCase) -> list[int]:
    """How many tokens calls without a cache would have: those of each step, and all that a cache holds after it."""
    held: dict[tuple[int, int], int] = {}
    found: list[int] = []
    for step in case.steps:
        key = (step.cache, step.module)
        if step.act == "truncate":
            held |= {other: step.length for other in held if other[0] == step.cache}
        elif step.act in ("self", "plain"):
            held[key] = step.length + (held.get(key, 0) if step.act == "self" else 0)
            found += [step.length, held[key]]
    found.append(sum(step.length for step in case.steps if step.act in ("self", "plain")))
    return sorted({max(length, 1) for length in found})


def whole(case: ScriptCase) -> Iterator[Ground]:
    """As many tokens in one call without a cache; and calls of forward across that have as many as a step."""
    for length in lengths(case):
        one = replace(case, steps=(Step("plain", length=length),), copied=False)
        yield Ground(one, (*PLAIN, "CAUSAL-1", "CAUSAL-2") if case.causal else PLAIN)
    for queries in {step.length for step in case.steps if step.act == "cross"}:
        across = ForwardCase(
            case.batch, case.heads, case.head_size, queries, case.keys, case.dtype, seed=case.seed
        )
        yield Ground(across, PLAIN)


def _first(case: ScriptCase) -> Iterator[Ground]:
    """The first step alone, and one of several tokens, on an empty cache."""
    yield Ground(replace(case, steps=case.steps[:1]), ("CACHE-1",))
    yield Ground(replace(case, steps=(Step("self", length=SHORT),), copied=False), ("CACHE-1",))


def first_step(case: ScriptCase) -> Iterator[Ground]:
    """As many tokens in one call, and the first step alone, on an empty cache; if causal, more keys without one."""
    yield from whole(case)
    yield from _first(case)
    if case.causal:
        yield Ground(anchored(case), ("CAUSAL-3",))


def chunked(case: ScriptCase) -> Iterator[Ground]:
    """Of causal chunks: the first step, and chunks of which each sees all keys so far."""
    yield from first_step(case)
    yield Ground(replace(case, causal=False), ("CACHE-3",))


def steps_only(case: ScriptCase) -> Iterator[Ground]:
    """As many tokens in one call, and the plain steps of the script alone, by one module on one cache; and masks."""
    yield from whole(case)
    steps = tuple(Step(s.act, length=s.length) for s in case.steps if s.act in ("self", "cross") and s.length)
    one = replace(case, steps=steps, copied=False)
    yield from _first(replace(one, steps=steps[:1]))
    yield Ground(one, ("CACHE-2", "CACHE-3", "CACHE-4"))
    if case.causal:
        yield Ground(anchored(case), ("CAUSAL-3",))
        yield Ground(replace(one, causal=False), ("CACHE-3",))
    elif all(step.act == "self" for step in steps):
        yield Ground(replace(one, causal=True), ("CACHE-2",))
    if any(step.masked for step in case.steps):
        across = any(step.act == "cross" for step in steps)
        keys, window = (2 * SHORT, "cross") if across else (SHORT, "self")
        posed = KernelCase(case.batch, 2, 2, SHORT, keys, 8, 8, case.dtype, seed=case.seed, window=window)
        hiding = replace(posed, mask=Mask("random", dtype="bool", axes="bhts"))
        yield masked(hiding)
        yield masked(hiding, ("MASK-3",), planes="each")
        if not across:
            cached = replace(hiding, keys=2 * SHORT, window="cached")
            yield masked(cached, ("CACHE-6",), planes="each")
