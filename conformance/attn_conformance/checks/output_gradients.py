"""GRAD: output gradients of any strides, and gradients of gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import simplified
from attn_conformance.cases import (
    ForwardCase,
    KernelCase,
    Upstream,
    build,
    build_forward,
    build_upstream,
    upstream,
)
from attn_conformance.cases.layouts import misread
from attn_conformance.checks.forward import ANY
from attn_conformance.checks.gradients import HEADS, WINDOWS, forward_gradients, of_forward
from attn_conformance.gradients import Gradient, compared, departs
from attn_conformance.judge import MATTERS, Failed, NotAsked, compare
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.registry import FEW, MODULE, SOME, check
from attn_conformance.scope import Scope
from attn_conformance.second_gradients import ask_second_gradients
from attn_conformance.strategies import CAUSAL, forward_cases, kernel_cases, kinds, masks, sizes, with_dout
from attn_conformance.subject import Array, Raised, Subject

# --- GRAD-5

STRIDES = tuple(layout for layout in upstream.LAYOUTS if layout != "contiguous")


@check(
    "GRAD-5",
    cases=lambda s: with_dout(
        kernel_cases(s, queries=sizes.short_lengths), families=("normal", "ones"), layouts=STRIDES
    ),
    windows=WINDOWS,
    at_most=SOME,
    grounds=simplified.one_element,
)
def strides_of_output_gradients_do_not_matter(subject: Subject, case: KernelCase) -> bool:
    """Output gradients that are views, or expanded, give what their contiguous copies give, and stay what they are."""
    if subject.scope.layouts == ("contiguous",):
        raise NotAsked("its arrays have no strides")
    call, dout = build(case), build_upstream(case)
    asked = subject.answer_gradients(call, dout, HEADS)
    plain = subject.gradients(subject.differentiated(call, HEADS), Upstream(dout.values)).gradients
    posed = subject.differentiated(call, HEADS)
    pulled = subject.gradients(posed, dout)
    wrong = misread(upstream.arrange(dout.values, dout.layout))
    _alike(plain, pulled.gradients, asked, case.dout_layout, wrong)
    if pulled.dout.tobytes() != posed.outward(dout).tobytes():
        raise Failed("the backward pass modified the output gradient in place")
    # One number in memory for many elements is misread in ways of its own: such a view counts by its strides.
    if case.dout_layout in upstream.EXPANDED:
        return True
    return departs(asked, subject.answer_gradients(call, Upstream(wrong), HEADS))


@check(
    "GRAD-5",
    cases=lambda s: with_dout(forward_cases(s, cross=ANY), families=("normal", "ones"), layouts=STRIDES),
    kinds=MODULE,
    at_most=FEW,
    grounds=simplified.composed,
)
def strides_of_output_gradients_of_forward_do_not_matter(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Through forward, too, views and expanded output gradients give what contiguous ones give."""
    if subject.scope.layouts == ("contiguous",):
        raise NotAsked("its arrays have no strides")
    call, dout = build_forward(case), build_upstream(case)
    of = of_forward(call)
    _, plain = forward_gradients(subject, call, Upstream(dout.values), of)
    asked, viewed = forward_gradients(subject, call, dout, of)
    _alike(plain, viewed, asked, case.dout_layout)
    return True


def _alike(
    plain: Mapping[str, Array | None],
    viewed: Mapping[str, Array | None],
    asked: Mapping[str, Gradient],
    layout: str,
    wrong: Array | None = None,
) -> None:
    """Two gradients of one call agree: each may lie within the limit of one truth. wrong: dout in memory order."""
    for name, gradient in asked.items():
        first, second = (np.zeros(gradient.shape) if a is None else a for a in (plain[name], viewed[name]))
        comparison = compared(second, gradient.doubled(first))
        if not comparison.ok:
            what = f"gradient of {name}: {STRIDED.format(layout)}: {comparison.explain()}"
            raise Failed(what, comparison, gradient.evidence(second, wrong))


STRIDED = "an output gradient with other strides ({}) gives another one than its contiguous copy"


# --- GRAD-6


def _exact_enough(scope: Scope) -> SearchStrategy[KernelCase]:
    """Small cases in the dtypes in which a missing term is far larger than what roundings add up to."""
    dtypes = tuple(name for name in scope.claims.dtypes if name in ("float32", "float64"))
    narrow = replace(scope, claims=replace(scope.claims, dtypes=dtypes or scope.claims.dtypes))
    small = st.integers(2, 8)
    lengths: dict[str, Any] = {"queries": small, "keys": small, "head_size": st.sampled_from((4, 8))}
    options = [kernel_cases(narrow, **lengths, families=("normal",))]
    if dtypes := kinds(scope):
        options.append(kernel_cases(narrow, **lengths, families=("normal",), mask=masks(dtypes=dtypes)))
    if scope.has("causal"):
        options.append(kernel_cases(narrow, **lengths, families=("normal",), square=True, causal=CAUSAL))
    return with_dout(st.one_of(*options))


@check("GRAD-6", cases=_exact_enough, windows=WINDOWS, at_most=SOME, grounds=simplified.result)
def second_gradients_are_right_or_refused(subject: Subject, case: KernelCase) -> bool:
    """Gradients of gradients equal the closed form, or an exception says that there are none."""
    if case.dtype not in ("float32", "float64"):
        raise NotAsked("neither float32 nor float64 is claimed, and lower dtypes would hide a missing term")
    call, dout = build(case), build_upstream(case)
    rng = np.random.default_rng((case.seed, 6))
    directions = {
        name: rng.standard_normal(array.shape).astype(array.dtype)
        for name, array in call.arrays().items()
        if name != "mask"
    }
    try:
        got = subject.second_gradients(call, dout, directions)
    except Raised:
        return True
    exact = {name: array.astype(np.float64) for name, array in directions.items()}
    problem = subject.lower(call)
    answers = ask_second_gradients(problem, dout.exact, exact, case.dtype, subject.claims.arithmetic)
    for name, answer in answers.items():
        array = got[name]
        comparison = compare(np.zeros_like(answer.value) if array is None else array, answer)
        if not comparison.ok:
            gone = "; none came back" if array is None else ""
            raise Failed(f"second gradient of {name}{gone}: {comparison.explain()}", comparison)
    return any(np.any(np.abs(answer.value) > MATTERS * answer.limit) for answer in answers.values())
