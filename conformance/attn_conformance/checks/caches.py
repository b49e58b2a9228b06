"""CACHE: sessions on caches, played as scripts; whatever was fed in pieces equals the whole."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from attn_conformance import expect, simplified
from attn_conformance.cases import KernelCase, ScriptCase, Step, build
from attn_conformance.checks.masks import unmasked
from attn_conformance.judge import Failed, NotAsked
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.registry import FEW, MODULE, check
from attn_conformance.scope import Scope
from attn_conformance.stage import CAUSAL_REJECTED, REJECTED, Stage
from attn_conformance.strategies import (
    appended,
    chunks,
    crossed,
    decoded,
    kernel_cases,
    kinds,
    masks,
    scripts,
)
from attn_conformance.subject import Raised, blaming

CACHED = ("cached",)
EITHER = st.booleans()
MOSTLY = st.sampled_from((False, True, True))
"""causal, where caches or modules are several: those of decoders are."""
WEIGHTS = st.sampled_from((True, True, True, False))
"""carried: mostly exact, sometimes with projections and biases that count."""


def _fresh(scope: Scope) -> SearchStrategy[ScriptCase]:
    plain = st.builds(Step, act=st.just("plain"), length=chunks)
    first = st.builds(Step, act=st.just("self"), length=chunks)
    steps = st.one_of(
        st.tuples(first),
        st.tuples(plain, first),
        st.tuples(plain, plain),
        st.tuples(first, plain),
        st.tuples(first, plain, plain),
    )
    return scripts(scope, steps=steps, causal=EITHER, carried=WEIGHTS)


@check("CACHE-1", cases=_fresh, floor=0, kinds=MODULE, windows=CACHED, grounds=simplified.whole)
def no_cache_is_stateless_and_an_empty_one_changes_nothing(subject: ModuleSubject, case: ScriptCase) -> bool:
    """Calls without a cache remember nothing, and the first call on an empty cache equals one without."""
    Stage(subject, case).play()
    return True


@check(
    "CACHE-2",
    cases=lambda s: scripts(s, steps=appended(), causal=st.just(True), carried=WEIGHTS),
    grounds=simplified.chunked,
    kinds=MODULE,
    windows=CACHED,
)
def causal_chunks_equal_the_whole(subject: ModuleSubject, case: ScriptCase) -> bool:
    """Causal: any split of a sequence into chunks, fed with one cache, equals the call on the whole."""
    return Stage(subject, case).play()


@check(
    "CACHE-3",
    cases=lambda s: scripts(s, steps=appended(), carried=WEIGHTS),
    kinds=MODULE,
    windows=CACHED,
    grounds=simplified.first_step,
)
def without_causality_all_keys_so_far_are_seen(subject: ModuleSubject, case: ScriptCase) -> bool:
    """Not causal: each chunk attends to all keys so far, cached and new."""
    return Stage(subject, case).play()


def _with_an_empty_chunk(scope: Scope) -> SearchStrategy[ScriptCase]:
    empty = Step("self", length=0)
    steps = st.tuples(appended(at_least=1, at_most=2), appended(at_least=1, at_most=2))
    return scripts(scope, steps=steps.map(lambda parts: (*parts[0], empty, *parts[1])))


@check("OUT-4", cases=_with_an_empty_chunk, kinds=MODULE, windows=CACHED, grounds=simplified.steps_only)
def empty_chunks_change_nothing(subject: ModuleSubject, case: ScriptCase) -> bool:
    """A chunk of no tokens gives an empty result, or an exception, and the sequence goes on."""
    return Stage(subject, case).play()


@check(
    "CACHE-4",
    cases=lambda s: scripts(s, steps=crossed(), carried=WEIGHTS),
    grounds=simplified.first_step,
    kinds=MODULE,
    windows=CACHED,
    needs=("cross",),
)
def the_cross_entry_wins(subject: ModuleSubject, case: ScriptCase) -> bool:
    """Cross: the first call stores keys and values, and later calls use these whatever xa holds."""
    return Stage(subject, case).play()


def _lockstep(*turns: Step) -> SearchStrategy[tuple[Step, ...]]:
    """Self-attention of some length, and the next: each in all of these turns."""
    lengths = st.lists(chunks, min_size=2, max_size=3)
    return lengths.map(lambda some: tuple(replace(step, length=n) for n in some for step in turns))


def _several(scope: Scope) -> SearchStrategy[ScriptCase]:
    """Two caches of a module, and two modules on a cache: at random, and in lockstep.

    What goes by the length of a cache takes one sequence for the other; of two layers, what goes by another's.
    """
    numbers = st.integers(0, 1)
    sequences = [appended(cache=numbers), _lockstep(Step(cache=0), Step(cache=1))]
    options = [scripts(scope, steps=steps, causal=MOSTLY) for steps in sequences]
    if scope.has("cross"):
        options.append(scripts(scope, steps=crossed(cache=numbers)))
    if scope.has("shared-cache"):
        layers = [
            appended(module=numbers),
            appended(module=numbers, cache=numbers),
            _lockstep(Step(module=0), Step(module=1)),
        ]
        options += [scripts(scope, steps=steps, causal=MOSTLY, copied=EITHER) for steps in layers]
        if scope.has("cross"):
            options.append(scripts(scope, steps=crossed(module=numbers), copied=EITHER))
    return st.one_of(*options)


@check("CACHE-5", cases=_several, kinds=MODULE, windows=CACHED, grounds=simplified.steps_only)
def modules_and_caches_do_not_mix(subject: ModuleSubject, case: ScriptCase) -> bool:
    """Several modules share a cache, and several caches serve a module, without mixing."""
    return Stage(subject, case).play()


@check(
    "CACHE-6",
    cases=lambda s: kernel_cases(s, mask=masks(dtypes=kinds(s), planes="each")),
    grounds=simplified.mask_in_one_call,
    kinds=MODULE,
    windows=CACHED,
)
def masks_cover_cached_and_new_keys(subject: ModuleSubject, case: KernelCase) -> bool:
    """A mask given with a cache has last size S = cached + new, and covers both."""
    call = build(case)
    return expect.reference(subject, call, without=unmasked(call))


def _fed(scope: Scope, **fields: Any) -> SearchStrategy[ScriptCase]:
    """Self-attention steps, or cross-attention ones where that is claimed; fields: others of a Step that are drawn."""
    acts = (appended, crossed) if scope.has("cross") else (appended,)
    return st.one_of(*(scripts(scope, steps=act(**fields)) for act in acts))


@check(
    "CACHE-6",
    cases=lambda s: _fed(s, masked=EITHER),
    grounds=simplified.steps_only,
    kinds=MODULE,
    windows=CACHED,
    needs=("bool-mask",),
)
def masks_come_and_go(subject: ModuleSubject, case: ScriptCase) -> bool:
    """Masks that cover cached and new keys, or all keys of a cross entry, in some steps of a sequence."""
    return Stage(subject, case).play()


@st.composite
def _disturbed(draw: DrawFn, scope: Scope) -> ScriptCase:
    across = scope.has("cross") and draw(EITHER, label="cross")
    case: ScriptCase = draw(scripts(scope, steps=crossed(at_most=3) if across else appended(at_most=3)))
    steps = [part for step in case.steps for part in (step, Step("disturb"))]
    if draw(EITHER, label="misfit"):
        steps.append(replace(case.steps[-1], act="misfit"))
    return replace(case, steps=tuple(steps))


@check("CACHE-7", cases=_disturbed, kinds=MODULE, windows=CACHED, grounds=simplified.steps_only)
def entries_are_the_caches_own(subject: ModuleSubject, case: ScriptCase) -> bool:
    """An entry stays as it is when the caller overwrites an input, and a batch that does not fit raises."""
    return Stage(subject, case).play()


@check("CACHE-8", cases=_fed, kinds=MODULE, windows=CACHED, grounds=simplified.whole)
def the_length_grows_by_the_new_keys(subject: ModuleSubject, case: ScriptCase) -> bool:
    """The cached length grows by exactly the new keys, or stays S; cached cross-attention does not project xa."""
    stage = Stage(subject, case, judging=False)  # what the steps give, other requirements judge
    expected = 0
    for number, step in enumerate(case.steps):
        session = stage.session(step)
        work = subject.border.work(partial(stage.act, step))
        expected = case.keys if step.act == "cross" else expected + step.length
        length = getattr(session, "length", None)
        if length is None:
            raise NotAsked("the cache does not tell its length")
        if length != expected:
            where = f"after step {number + 1} ({step.describe()})"
            raise Failed(f"{where} the cache has length {length}, expected {expected}")
        if step.act == "cross" and number > 0:
            _projects_once(subject, stage, step, work)
    return True


def _projects_once(subject: ModuleSubject, stage: Stage, step: Step, work: int | None) -> None:
    """The call did less than one of the same shapes without a cache, by the projections of xa."""
    if work is None:
        return
    handle, _ = stage.module(step.module)
    arrays = [subject.border.asnumpy(stage.last[name]) for name in ("x", "xa")]

    def plain() -> None:
        # Arrays handed over are counted from where they are made.
        x, xa = (subject.border.asarray(array, subject.device) for array in arrays)
        subject.implementation.forward(handle, x, xa)

    with blaming(), subject.border.grad_mode("off"):
        uncached = subject.border.work(plain)
    assert uncached is not None
    B, S, n_state = arrays[1].shape
    projections = 2 * 2 * B * S * n_state * n_state  # key and value, two operations for each product
    if uncached < projections:
        return  # made where nobody counts them
    # Attention itself may pad its heads, but it does so in both calls; one projection alone would be half of them.
    if uncached - work < projections * 3 // 4:
        raise Failed(
            f"a cached cross-attention call did {work} operations in matrix products, and {uncached} without the "
            f"cache; the projections of xa, which it need not do, are {projections}"
        )


@st.composite
def _edited(draw: DrawFn, scope: Scope) -> ScriptCase:
    """Steps with an edit before each but the first, on caches of which a fork makes one more; a last step on each."""
    case: ScriptCase = draw(scripts(scope, steps=appended(at_most=4), causal=EITHER, batch=st.integers(2, 3)))
    first, *later = case.steps
    steps, held = [first], [first.length]  # held: the length of each cache
    for step in later:
        cache = draw(st.integers(0, len(held) - 1), label="edited cache")
        acts = ("reorder", "fork", "truncate") if held[cache] > 1 else ("reorder", "fork")
        act = draw(st.sampled_from(acts), label="act")
        if act == "reorder":
            elements = st.lists(st.integers(0, case.batch - 1), min_size=case.batch, max_size=case.batch)
            steps.append(Step(act, cache=cache, order=tuple(draw(elements, label="order"))))
        elif act == "truncate":
            held[cache] = draw(st.integers(1, held[cache] - 1), label="keep")
            steps.append(Step(act, cache=cache, length=held[cache]))
        else:
            steps.append(Step(act, cache=cache))
            held.append(held[cache])
        cache = draw(st.integers(0, len(held) - 1), label="cache")
        steps.append(replace(step, cache=cache))
        held[cache] += step.length
    steps += [Step("self", cache=cache) for cache in range(len(held))]
    return replace(case, steps=tuple(steps))


@check("CACHE-9", cases=_edited, kinds=MODULE, windows=CACHED, grounds=simplified.steps_only)
def edits_of_the_caller_are_honoured(subject: ModuleSubject, case: ScriptCase) -> bool:
    """Entries reordered, repeated or truncated by the caller count as they are, and a shallow copy is a fork."""
    return Stage(subject, case).play()


CORNERS = (
    "xa of another length",
    "one module for self and cross",
    "a cached batch of 1",
    "a deepcopy of the module",
)


@check(
    "CACHE-10",
    cases=lambda s: scripts(s, steps=appended(at_least=2, at_most=2), batch=st.integers(2, 3)),
    kinds=MODULE,
    windows=CACHED,
    at_most=FEW,
)
def corners_of_caching(subject: ModuleSubject, case: ScriptCase) -> str:
    """What happens with an xa of another length, with self and cross on one cache, and with an entry of batch 1."""
    corner = CORNERS[case.seed % len(CORNERS)]
    stage = Stage(subject, case)
    handle, weights = stage.module(0)
    session = subject.session(handle)
    rng = np.random.default_rng((case.seed, 7))

    def tokens(length: int, batch: int = case.batch) -> Any:
        return weights.tokens(rng, replace(case, batch=batch), length)

    x, xa = tokens(2), tokens(case.keys)
    try:
        if corner == "xa of another length":
            stage.step_of(session, x, xa)
            stage.step_of(session, x, tokens(case.keys + 1))
        elif corner == "one module for self and cross":
            stage.step_of(session, x, xa)
            stage.step_of(session, x)
        elif corner == "a cached batch of 1":
            stage.step_of(session, tokens(2, 1))
            stage.step_of(session, x)
        else:
            import copy

            stage.step_of(session, x)
            stage.step_of(subject.session(copy.deepcopy(handle), session.cache), x)
    except Raised as raised:
        return f"{corner} raises {type(raised.error).__name__}"
    except Failed as failed:
        return f"{corner}: {failed.message}"
    return f"{corner}: numbers came back"


@st.composite
def _rejected(draw: DrawFn, scope: Scope, faults: tuple[str, ...], *, causal: bool) -> ScriptCase:
    """Good steps with a rejected call between them."""
    across = not causal and scope.has("cross") and draw(EITHER, label="cross")
    steps = crossed() if across else decoded() if causal else appended(at_most=3)
    case: ScriptCase = draw(scripts(scope, steps=steps, causal=st.just(causal)))
    fitting = [fault for fault in faults if across or "xa" not in fault]
    fault = draw(st.sampled_from(fitting), label="fault")
    rejected = Step("rejected", length=draw(st.integers(1, 4), label="length"), fault=fault)
    return replace(case, steps=(case.steps[0], rejected, *case.steps[1:]))


@check(
    "CAUSAL-6",
    cases=lambda s: _rejected(s, CAUSAL_REJECTED, causal=True),
    grounds=simplified.steps_only,
    kinds=MODULE,
    windows=CACHED,
)
def a_forbidden_mask_leaves_the_cache(subject: ModuleSubject, case: ScriptCase) -> bool:
    """A call rejected for its mask leaves the cache as it was, and the sequence goes on."""
    return Stage(subject, case).play()


@check(
    "ERR-3",
    cases=lambda s: _rejected(s, tuple(f for f in REJECTED if f not in CAUSAL_REJECTED), causal=False),
    kinds=MODULE,
    windows=CACHED,
    grounds=simplified.steps_only,
)
def rejected_calls_leave_the_cache(subject: ModuleSubject, case: ScriptCase) -> bool:
    """A call rejected for whatever reason leaves the cache as it was, and the sequence goes on."""
    return Stage(subject, case).play()
