"""PURE: the result is a function of the arguments alone, element by element, in any layout and order."""

from __future__ import annotations

import contextlib
import random
import threading
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray

from attn_conformance import expect, simplified
from attn_conformance.cases import Call, KernelCase, build, layouts
from attn_conformance.judge import Answer, Evidence, Failed, compare, moves
from attn_conformance.process_state import changes, keeping_threads
from attn_conformance.registry import SOME, check
from attn_conformance.scope import Scope
from attn_conformance.strategies import (
    CAUSAL,
    CONTIGUOUS,
    ORDINARY,
    PARTIAL,
    kernel_cases,
    kinds,
    masks,
    sizes,
    weighted,
)
from attn_conformance.subject import Raised, Subject
from attn_reference import Problem

Array = NDArray[Any]

PATIENCE = 0.1
"""Seconds for a thread that a call has left running: far more than it would take to write to the result."""


def _maybe_masked(
    scope: Scope,
    structures: tuple[str, ...] = PARTIAL,
    mask_layout: SearchStrategy[str] = CONTIGUOUS,
    **options: Any,
) -> SearchStrategy[KernelCase]:
    plain = kernel_cases(scope, **options)
    dtypes = kinds(scope)
    if not dtypes:
        return plain
    mask = masks(
        dtypes=dtypes, structures=structures, biases=("none", "noise"), planes="each", layout=mask_layout
    )
    return st.one_of(plain, kernel_cases(scope, mask=mask, **options))


@check(
    "PURE-1",
    cases=lambda scope: _maybe_masked(scope, grad=st.sampled_from(scope.grad_modes)),
    grounds=simplified.shapes,
)
def arguments_are_never_modified(subject: Subject, case: KernelCase) -> bool:
    """q, k, v and the mask are bit for bit the same after the call, and so is its result after a further call."""
    call = build(case)
    natives = subject.natives(call)
    running = threading.enumerate()
    returned: Any = None
    with contextlib.suppress(Raised):
        returned = subject.run(call, natives).native
    expect.untouched(subject, call, natives)
    if returned is None:
        return False
    before = subject.received(returned)
    with contextlib.suppress(Raised):
        subject.run(build(replace(case, seed=case.seed + 1)))
    for thread in set(threading.enumerate()).difference(running):
        thread.join(PATIENCE)
    if subject.received(returned).tobytes() != before.tobytes():
        raise Failed("a result that was returned has changed in a later call")
    return True


def _without_traces(subject: Subject, call: Call, seed: int) -> Array | None:
    """The output of a call, None if it raised; Failed if it drew from a global generator, or changed global state."""
    before = (random.getstate(), subject.border.get_random_state())
    random.seed(seed)
    subject.border.seed_random(seed)
    try:
        state = (random.getstate(), subject.border.get_random_state())
        with keeping_threads() as changed:
            out = expect.answered(subject, call)
        if changed := changes(subject.state) + changed:
            raise Failed(f"a call changed {'; '.join(changed)}")
        if (random.getstate(), subject.border.get_random_state()) != state:
            raise Failed("the state of a global random generator changed")
        return out
    finally:
        random.setstate(before[0])
        subject.border.set_random_state(before[1])


@check("PURE-2", cases=_maybe_masked, grounds=simplified.shapes)
def the_same_call_gives_the_same_result(subject: Subject, case: KernelCase) -> bool:
    """A repeated call agrees, in every grad mode, draws no random numbers and changes nothing in the process."""
    call = build(case)
    subject.prepare(call)
    answer = subject.answer(call)
    first = _without_traces(subject, call, case.seed)
    if first is None:
        return False
    expect.same(first, subject.attention(call), answer, "the same call gave another result")
    for mode in subject.scope.grad_modes[1:]:
        again = subject.attention(replace(call, grad=mode))
        expect.same(first, again, answer, f"grad mode {mode!r} gave another result than 'off'")
    return True


def _pick(call: Call, batch: Array) -> Call:
    """The call for some batch elements, in the order of `batch`."""
    mask = call.mask
    if mask is not None and mask.ndim == 4 and mask.shape[0] > 1:
        mask = mask[batch]
    return replace(call, q=call.q[batch], k=call.k[batch], v=call.v[batch], mask=mask)


def _of(answer: Answer, index: Array, axis: int = 0) -> Answer:
    """The answer for some batch elements (axis 0) or heads (axis 1) of its problem, in the order of `index`."""

    def taken(array: Array) -> Array:
        return array if array.shape[axis] == 1 else array.take(index, axis)

    problem = answer.problem
    if isinstance(problem, Problem):
        q, k, v = taken(problem.q), taken(problem.k), taken(problem.v)
        problem = Problem(q, k, v, taken(problem.visible), taken(problem.bias), problem.scale)
    return replace(answer.part(index, axis), problem=problem)


FAMILIES_APART = (*ORDINARY, "uneven-batch", "uneven-batch", "uneven-heads")
UNEQUAL = (*PARTIAL, *["first-shortest"] * 3)
"""Structures of masks: what is taken from the first element to serve all shows where that one is short."""


@check(
    "PURE-3",
    cases=lambda scope: _maybe_masked(
        scope, UNEQUAL, batch=st.integers(2, 9), queries=sizes.short_lengths, families=FAMILIES_APART
    ),
    grounds=simplified.one_element,
)
def batch_elements_do_not_meet(subject: Subject, case: KernelCase) -> bool:
    """An element alone gives what it gives in the batch, and a permuted batch the permuted result."""
    call = build(case)
    answer = subject.answer(call)
    full = expect.answered(subject, call)
    if full is None:
        return False
    rng = np.random.default_rng((case.seed, 5))
    one, order = rng.integers(case.batch, size=1), rng.permutation(case.batch)
    alone = subject.attention(_pick(call, one))
    whole, part = Evidence(full, answer), _of(answer, one)
    what = f"batch element {one[0]} alone differs from itself in the batch"
    expect.same(full[one], alone, part, what, (whole, Evidence(alone, part)))
    permuted = subject.attention(_pick(call, order))
    part = _of(answer, order)
    what = "a permuted batch gave another result"
    expect.same(full[order], permuted, part, what, (whole, Evidence(permuted, part)))
    rolled = np.roll(np.arange(case.batch), 1)
    return moves(answer, subject.lower(replace(call, k=call.k[rolled], v=call.v[rolled])))


@check(
    "PURE-4",
    cases=lambda scope: _maybe_masked(scope, heads=sizes.any_counts, families=FAMILIES_APART),
    grounds=simplified.ordered,
)
def order_of_heads_and_keys_is_free(subject: Subject, case: KernelCase) -> bool:
    """Permuted heads give the permuted result, and permuted keys (with their mask columns) the same one."""
    call = build(case)
    answer = subject.answer(call)
    plain = expect.answered(subject, call)
    if plain is None:
        return False
    rng = np.random.default_rng((case.seed, 6))
    heads, keys = rng.permutation(case.heads), rng.permutation(case.keys)
    mask = call.mask
    by_head = replace(
        call, q=call.q[:, heads], k=call.k[:, heads], v=call.v[:, heads],
        mask=mask if mask is None else mask[:, heads],
    )  # fmt: skip
    expected = _of(answer, heads, axis=1)
    permuted = subject.attention(by_head.contiguous())
    expect.same(plain[:, heads], permuted, expected, "permuted heads gave another result")
    by_key = replace(
        call, k=call.k[:, :, keys], v=call.v[:, :, keys], mask=mask if mask is None else mask[..., keys]
    )
    permuted = subject.attention(by_key.contiguous())
    posed = replace(answer, problem=subject.lower(by_key))
    what = "permuted keys gave another result"
    expect.same(plain, permuted, answer, what, (Evidence(plain, answer), Evidence(permuted, posed)))
    return moves(answer, subject.lower(replace(call, k=by_key.k)))


def _laid_out(scope: Scope) -> SearchStrategy[KernelCase]:
    other = tuple(layout for layout in scope.layouts if layout != "contiguous")
    if not other:
        return kernel_cases(scope)
    options: dict[str, Any] = {
        "layout": st.sampled_from(other),
        "laid_out": st.sampled_from(("qkv", "q", "k", "v")),
        "head_size": st.one_of(sizes.head_sizes, st.integers(1, 9)),
    }
    sliced = st.sampled_from(("contiguous", "sliced"))
    usual = _maybe_masked(scope, mask_layout=sliced, **options)
    if "expanded" not in other or not {"cross", "qkv"}.intersection(scope.windows):
        return usual
    # One xa for several x, as for the beams of a search: expanded over the batch.
    beams = replace(scope, windows=tuple(w for w in scope.windows if w in ("cross", "qkv")))
    shared = options | {"layout": st.just("expanded"), "laid_out": st.sampled_from(("qkv", "k", "v"))}
    return weighted((4, usual), (1, _maybe_masked(beams, mask_layout=sliced, **shared)))


@check("PURE-5", cases=_laid_out, grounds=simplified.one_element)
def strides_do_not_matter(subject: Subject, case: KernelCase) -> bool:
    """Transposed, sliced, expanded and reversed views give what their contiguous copies give."""
    call = build(case)
    if case.layout == "contiguous":  # a framework without strides
        return expect.reference(subject, call)
    answer = subject.answer(call)
    plain = expect.answered(subject, call.contiguous())
    if plain is None:
        return False
    viewed = subject.attention(call)
    expect.same(plain, viewed, answer, f"{case.layout} inputs give another result than contiguous ones")

    def misread(name: str) -> Array:
        array = call.arrays()[name]
        if name not in case.laid_out:
            return array
        return layouts.misread(layouts.arrange(array, case.layout, expandable=name != "q"))

    wrong = replace(call, q=misread("q"), k=misread("k"), v=misread("v"))
    # An expanded view has nothing to misread if only one copy is looked at: it counts by its strides.
    return case.layout == "expanded" or moves(answer, subject.lower(wrong))


@st.composite
def _with_history(draw: DrawFn, scope: Scope) -> KernelCase:
    """A last call after one to three that differ from it in one respect each: what might be remembered wrongly."""
    dtypes = kinds(scope)
    mask = masks(
        dtypes=dtypes,
        structures=("random", "padding-right", "some-rows-empty"),
        planes="each",
        empty_rows=True,
    )
    options = [(1, kernel_cases(scope, queries=sizes.short_lengths))]
    if scope.has("causal"):
        options.append((2, kernel_cases(scope, square=True, causal=CAUSAL, queries=st.integers(2, 24))))
    if dtypes:
        options.append((2, kernel_cases(scope, queries=sizes.short_lengths, mask=mask)))
    last: KernelCase = draw(weighted(*options), label="last")
    respects = ["values", "length"]
    if not scope.claims.head_sizes:
        # Calls whose H * D agree while H does not: what is remembered by the product alone is wrong.
        last = replace(last, heads=2, kv_heads=2, head_size=8, value_size=8) if draw(st.booleans()) else last
        respects += ["heads"] * 2
    if len(scope.claims.dtypes) > 1:
        respects += ["dtype"] * 2
    if dtypes:
        respects += ["mask", "rejected"]
        # What a call without a mask may have kept of one with it, and what a rejected one may have switched off.
        respects += [] if last.causal else ["mask"] * 4 if last.mask is None else ["rejected"] * 4
    if last.causal:
        respects += ["length"] * 6
    before = []
    for respect in draw(st.lists(st.sampled_from(respects), min_size=1, max_size=3), label="respects"):
        earlier = replace(last, seed=draw(sizes.seeds, label="seed"))
        if respect == "length":
            # A single token and a shorter call: what is built for them has no room for the last one.
            lengths = st.one_of(st.integers(1, 24), st.just(1), st.integers(1, last.queries))
            queries = draw(lengths, label="queries")
            keys = queries if last.queries == last.keys else draw(st.integers(1, 24), label="keys")
            earlier = replace(earlier, queries=queries, keys=keys)
        elif respect == "heads":
            heads = draw(st.sampled_from((1, 2, 4, 8)), label="heads")
            width = last.heads * last.head_size
            size = max(width // heads, 1)
            earlier = replace(earlier, heads=heads, kv_heads=heads, head_size=size, value_size=size)
        elif respect == "dtype":
            others = [dtype for dtype in scope.claims.dtypes if dtype != last.dtype]
            earlier = replace(earlier, dtype=draw(st.sampled_from(others), label="dtype"))
        elif respect == "mask":
            earlier = replace(earlier, causal=False, mask=draw(mask, label="mask"))
        elif respect == "rejected":
            fault = "rank-1-mask" if scope.has("validates") else "mask-one-key-more"
            earlier = replace(earlier, causal=False, mask=None, fault=fault)
        before.append(earlier)
    return replace(last, before=tuple(before))


@check("PURE-6", cases=_with_history, grounds=simplified.alone)
def earlier_calls_leave_no_trace(subject: Subject, case: KernelCase) -> bool:
    """After calls of other shapes, masks and values, and rejected ones, a call gives what it gives alone."""
    for earlier in case.before:
        try:
            subject.run(build(earlier))
        except Failed:
            continue  # what earlier calls give is judged by other requirements
    call = build(case)
    answer, fresh = subject.answer(call), subject.open()
    if fresh is not subject:
        alone = expect.answered(fresh, call)
        if alone is None:
            return False
        expect.same(
            alone, subject.attention(call), answer, "after other calls a call differs from itself alone"
        )
        return True
    got = expect.answered(subject, call)
    if got is None:
        return False
    # What an implementation without handles gives alone cannot be had: the reference stands in for it. Rows
    # without a visible key are left to MASK-5.
    empty = np.asarray(~subject.lower(call).visible.any(-1, keepdims=True))
    got = np.where(empty, np.zeros((), got.dtype), got)
    expect.within(got, answer, "differs from the reference after other calls")
    _same_arrays_other_values(subject, call, empty)
    return True


def _same_arrays_other_values(subject: Subject, call: Call, empty: Any) -> None:
    """Failed if what a kernel gives for arrays that their owner has overwritten is not what the new values give."""
    natives = subject.natives(call)
    subject.run(call, natives)
    subject.border.overwrite(natives["v"])
    if not (subject.read(natives)["v"] == 1).all():  # of a framework whose arrays never change
        return
    got = subject.run(call, natives).out
    later = replace(call, v=np.ones_like(call.v))
    what = "differs from the reference once v is overwritten and used again"
    expect.within(np.where(empty, np.zeros((), got.dtype), got), subject.answer(later), what)


@check("PURE-7", cases=lambda scope: kernel_cases(scope, batch=st.integers(2, 9)), floor=0, at_most=SOME)
def invariances(subject: Subject, case: KernelCase) -> str:
    """Whether an element is bitwise the same in any batch, and a repeated call bitwise the same."""
    call = build(case)
    try:
        full, again = subject.attention(call), subject.attention(call)
        alone = subject.attention(_pick(call, np.arange(1)))
    except Raised as raised:
        return str(raised)
    levels = {}
    for name, first, second, what in (
        ("run-determinism", full, again, "a repeated call"),
        ("batch-invariance", full[:1], alone, "the first element alone"),
    ):
        bitwise = first.tobytes() == second.tobytes()
        if not bitwise and subject.scope.has(name):
            different = int((first != second).sum())
            raise Failed(f"claims {name}, yet {what} differs in {different} of {first.size} elements")
        answer = subject.answer(call)
        bounded = compare(second, _of(answer, np.arange(len(second))).doubled(first)).ok
        levels[name] = "bitwise" if bitwise else ("within the bound" if bounded else "beyond the bound")
    return ", ".join(f"{name}: {level}" for name, level in levels.items())
