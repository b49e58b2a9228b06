"""GRAD: the gradients of every input equal the closed form, and what is not seen gets none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import simplified
from attn_conformance.cases import (
    Call,
    Forward,
    ForwardCase,
    KernelCase,
    Mask,
    Upstream,
    build,
    build_forward,
    build_upstream,
)
from attn_conformance.cases.values import STORAGE
from attn_conformance.checks.forward import ANY
from attn_conformance.gradients import Gradient, departs, within
from attn_conformance.judge import Failed
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.registry import FEW, MODULE, check
from attn_conformance.scope import Scope
from attn_conformance.strategies import (
    BROADCASTS,
    CAUSAL,
    PARTIAL,
    floating_kinds,
    forward_cases,
    kernel_cases,
    kinds,
    masks,
    sizes,
    weighted,
    with_dout,
)
from attn_conformance.subject import Array, Subject
from attn_reference import Problem, solve

HEADS = ("q", "k", "v")
WINDOWS = ("kernel", "qkv")
"""Gradients are asked for where q, k and v are handed over: through forward, with random weights, there is GRAD-1."""

NUMBERS = ("normal", "normal", "ones", "single", "zeros", "large", "tiny")
PLAIN_NUMBERS = ("normal", "ones", "single", "large")

LENGTHS = weighted((2, sizes.short_lengths), (1, st.integers(13, 34)), (1, st.integers(60, 70)))
"""Up to one more than a tile of 32, and now and then a few more than 64: a backward pass costs several forward ones."""


# --- GRAD-1


def _forward_calls(scope: Scope) -> SearchStrategy[ForwardCase]:
    mask: SearchStrategy[Mask | None] = st.none()
    if dtypes := kinds(scope):
        mask = st.one_of(mask, masks(dtypes=dtypes, biases=("none", "noise"), planes="each"))
    other = st.sampled_from((None, *STORAGE)) if scope.has("casts-weights") else st.none()
    cases = forward_cases(scope, cross=ANY, mask=mask, causal=ANY, weights_dtype=other)
    return with_dout(cases, families=NUMBERS)


def of_forward(call: Forward) -> list[str]:
    """The inputs of a forward call that GRAD-1 is about."""
    return ["x", *([] if call.xa is None else ["xa"]), *call.params]


@check("GRAD-1", cases=_forward_calls, kinds=MODULE, at_most=FEW, grounds=simplified.result)
def gradients_of_forward_equal_the_closed_form(subject: ModuleSubject, case: ForwardCase) -> bool:
    """The gradients of x, xa and every parameter equal the closed form."""
    call, dout = build_forward(case), build_upstream(case)
    asked, got = forward_gradients(subject, call, dout, of_forward(call))
    within(got, asked)
    other = replace(call, mask=None) if call.mask is not None else _without_a_weight(call, case.seed)
    return departs(asked, subject.answer_forward_gradients(other, dout, asked))


def forward_gradients(
    subject: ModuleSubject, call: Forward, dout: Upstream, of: Iterable[str]
) -> tuple[dict[str, Gradient], dict[str, Array | None]]:
    """What is allowed, and what came back, for those inputs of a forward call that the module shows."""
    handle = subject.build(call.params, call.n_head, call.is_causal)
    posed = subject.differentiated_forward(call, handle, of)
    asked = subject.answer_forward_gradients(call, dout, posed.inputs)
    return asked, subject.gradients(posed, dout).gradients


def _without_a_weight(call: Forward, seed: int) -> Forward:
    """The call as if one of the projections were constant."""
    lost = ("query.weight", "key.weight", "value.weight", "out.weight")[seed % 4]
    return replace(call, params={**call.params, lost: 0 * call.params[lost]})


# --- GRAD-2


def _plain_masked_causal_grouped(scope: Scope) -> SearchStrategy[KernelCase]:
    lengths: dict[str, Any] = {"queries": LENGTHS, "keys": LENGTHS}
    options = [kernel_cases(scope, **lengths)]
    if dtypes := kinds(scope):
        mask = masks(dtypes=dtypes, biases=("none", "noise"), planes="each")
        options.append(kernel_cases(scope, **lengths, mask=mask))
    if scope.has("causal"):
        options.append(kernel_cases(scope, queries=LENGTHS, square=True, causal=CAUSAL))
    if scope.has("gqa"):
        groups = st.sampled_from(((4, 2), (6, 2), (6, 3), (2, 1), (5, 1)))
        grouped = st.tuples(st.one_of(*options), groups)
        options.append(grouped.map(lambda t: replace(t[0], heads=t[1][0], kv_heads=t[1][1])))
    return with_dout(st.one_of(*options), families=NUMBERS)


@check("GRAD-2", cases=_plain_masked_causal_grouped, windows=WINDOWS, grounds=simplified.result)
def gradients_equal_the_closed_form(subject: Subject, case: KernelCase) -> bool:
    """The gradients of q, k and v equal the closed form, with and without mask and causal."""
    call, dout = build(case), build_upstream(case)
    asked = subject.answer_gradients(call, dout, HEADS)
    within(subject.gradients(subject.differentiated(call, HEADS), dout).gradients, asked)
    problem = subject.lower(call)
    if case.kv_heads != case.heads:
        return departs(asked, _of_the_last_heads(subject, call, dout))
    if call.mask is not None or call.is_causal:
        seen = replace(call, mask=None, is_causal=False)
        return departs(asked, subject.answer_gradients(seen, dout, HEADS))
    return departs(asked, {"q": _without_row_term(problem, dout.exact)})


def _of_the_last_heads(subject: Subject, call: Call, dout: Upstream) -> dict[str, Gradient]:
    """Gradients to which the last query head of each group alone contributes."""
    group = call.q.shape[1] // call.k.shape[1]
    last = np.arange(call.q.shape[1]) % group == group - 1
    kept = np.where(last[:, None, None], dout.values, np.zeros((), dout.values.dtype))
    return subject.answer_gradients(call, Upstream(kept), ("k", "v"))


def _without_row_term(problem: Problem, dout: Array) -> Array:
    """The gradient of q if D, the row's mean of dp, is not subtracted; a key head for each query head."""
    dp = dout @ problem.v.swapaxes(-1, -2)
    return np.asarray(problem.scale * ((solve(problem).p * dp) @ problem.k))


@check("GRAD-2", cases=_plain_masked_causal_grouped, windows=WINDOWS, at_most=FEW, grounds=simplified.result)
def later_calls_leave_gradients_alone(subject: Subject, case: KernelCase) -> bool:
    """The gradients of a call equal the closed form when other calls came before its backward pass."""
    call, dout = build(case), build_upstream(case)
    other = build(replace(case, seed=case.seed ^ 1))
    asked = subject.answer_gradients(call, dout, HEADS)

    def between() -> None:
        subject.run(replace(other, grad="on"))

    within(subject.gradients(subject.differentiated(call, HEADS), dout, between).gradients, asked)
    return departs(asked, subject.answer_gradients(other, dout, HEADS))


# --- GRAD-3

EMPTYING = ("some-rows-empty", "single-key", "padding-right", "none")
"""Structures that leave queries without keys, or keys without queries."""


def _emptying(scope: Scope) -> SearchStrategy[Mask]:
    return masks(dtypes=kinds(scope), structures=EMPTYING, planes="each", empty_rows=True)


@check(
    "GRAD-3",
    cases=lambda s: with_dout(kernel_cases(s, mask=_emptying(s)), families=("normal", "ones")),
    windows=WINDOWS,
    grounds=simplified.result,
)
def what_is_not_seen_gets_no_gradient(subject: Subject, case: KernelCase) -> bool:
    """With empty rows gradients are finite, zero for their queries and for keys that no query sees."""
    call, dout = build(case), build_upstream(case)
    got = subject.gradients(subject.differentiated(call, HEADS), dout).gradients
    finite(got)
    visible = np.broadcast_to(subject.lower(call).visible, call.sizes)
    empty, unseen = ~visible.any(3), ~visible.any(2)
    exactly_zero(got["q"], empty, "q", "of a query that sees no key")
    for name in ("k", "v"):
        exactly_zero(got[name], unseen, name, "of a key that no query sees")
    return bool(empty.any() or unseen.any())


def finite(got: Mapping[str, Array | None]) -> None:
    """No gradient holds NaN or an infinity, else Failed."""
    for name, array in got.items():
        if array is not None and not (fine := np.isfinite(array.astype(np.float64))).all():
            at = ", ".join(map(str, np.argwhere(~fine)[0]))
            raise Failed(f"the gradient of {name} is {array[~fine][0]} at [{at}]")


def exactly_zero(array: Array | None, where: Any, name: str, what: str) -> None:
    """A gradient is zero at all places (B, H or none, L) where it must be, else Failed."""
    if array is not None and np.any(array[where] != 0):
        value = array[where][array[where] != 0][0]
        raise Failed(f"the gradient {what} is not zero: {float(value):.3g} in that of {name}")


@check(
    "GRAD-3",
    cases=lambda s: with_dout(forward_cases(s, cross=ANY, mask=_emptying(s)), families=("normal", "ones")),
    kinds=MODULE,
    at_most=FEW,
    grounds=simplified.result,
)
def tokens_that_are_not_seen_get_no_gradient(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Through forward all gradients are finite, and zero for tokens of xa that no query sees in any head."""
    call, dout = build_forward(case), build_upstream(case)
    _, got = forward_gradients(subject, call, dout, of_forward(call))
    finite(got)
    core = subject.lower_forward(call)
    visible = np.broadcast_to(core.visible, core.shape)
    unseen, empty = ~visible.any((1, 2)), ~visible.any((1, 3))
    if call.xa is not None:
        exactly_zero(got["xa"], unseen, "xa", "of a token that no query sees")
        exactly_zero(got["x"], empty, "x", "of a token that sees no key")
    return bool(unseen.any() or not visible.any(3).all())


# --- GRAD-4


def of_kernel(seed: int) -> tuple[str, ...]:
    """The inputs that require a gradient: in every second case nothing but the mask does."""
    return ("mask",) if seed % 2 else (*HEADS, "mask")


SEVERAL_KEYS = ("all", *(name for name in PARTIAL if name != "single-key"))
"""Where a query sees one key alone, its mask's gradient is 0."""


def _broadcast_biases(scope: Scope) -> SearchStrategy[Mask]:
    return masks(
        dtypes=floating_kinds(scope),
        structures=SEVERAL_KEYS,
        biases=("noise", "alibi"),
        axes=st.sampled_from(BROADCASTS),
        planes="each",
    )


@check(
    "GRAD-4",
    cases=lambda s: with_dout(
        kernel_cases(s, mask=_broadcast_biases(s), families=("normal", "integers")), families=PLAIN_NUMBERS
    ),
    windows=WINDOWS,
    at_most=100,
    grounds=simplified.result,
)
def floating_masks_get_their_gradient(subject: Subject, case: KernelCase) -> bool:
    """The gradient of a floating mask is that of the scores, summed over the axes along which it is broadcast."""
    call, dout, of = build(case), build_upstream(case), of_kernel(case.seed)
    asked = subject.answer_gradients(call, dout, ("mask",))
    within(subject.gradients(subject.differentiated(call, of), dout).gradients, asked)
    return departs(asked, {"mask": 0 * asked["mask"].value})


@check(
    "GRAD-4",
    cases=lambda s: with_dout(forward_cases(s, cross=ANY, mask=_broadcast_biases(s)), families=NUMBERS),
    kinds=MODULE,
    at_most=FEW,
    grounds=simplified.result,
)
def floating_masks_of_forward_get_their_gradient(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Through forward, too, a floating mask that requires a gradient receives it."""
    call, dout = build_forward(case), build_upstream(case)
    asked, got = forward_gradients(subject, call, dout, ("mask",))
    within(got, asked)
    return departs(asked, {"mask": 0 * asked["mask"].value})
