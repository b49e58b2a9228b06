"""PURE of modules: parameters are never changed, and are used as they are at the time of the call."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import simplified
from attn_conformance.cases import ForwardCase, build_forward, draw_params
from attn_conformance.checks.forward import ANY
from attn_conformance.expect import same, within
from attn_conformance.judge import Failed, NotAsked, differs
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.registry import MODULE, check
from attn_conformance.scope import Scope
from attn_conformance.strategies import forward_cases
from attn_conformance.subject import Raised


def _parameters(subject: ModuleSubject, handle: Any) -> dict[str, np.ndarray[Any, Any]]:
    read: Any = getattr(subject.implementation, "parameters", None)
    if read is None:
        raise NotAsked("the implementation does not show its parameters")
    return {name: subject.border.asnumpy(native) for name, native in read(handle).items()}


def _maybe_cast(scope: Scope) -> SearchStrategy[ForwardCase]:
    other = st.sampled_from((None, "float32", "float64")) if scope.has("casts-weights") else st.none()
    return forward_cases(scope, cross=ANY, weights_dtype=other)


@check("PURE-1", cases=_maybe_cast, floor=1, kinds=MODULE, grounds=simplified.shapes)
def parameters_are_never_modified(subject: ModuleSubject, case: ForwardCase) -> bool:
    """The parameters are bit for bit the same after a call of forward."""
    call = build_forward(case)
    handle = subject.build(call.params, call.n_head, call.is_causal)
    before = _parameters(subject, handle)
    with contextlib.suppress(Raised):  # which weights are cast, OUT-3 judges
        subject.forward(call, handle)
    for name, array in _parameters(subject, handle).items():
        if array.tobytes() != before[name].tobytes():
            raise Failed(f"a call of forward modified the parameter {name}")
    return True


@check(
    "PURE-2",
    cases=lambda s: forward_cases(s, cross=ANY),
    kinds=MODULE,
    floor=1,
    needs=("torch-module",),
    grounds=simplified.repeated,
)
def training_mode_changes_nothing(subject: ModuleSubject, case: ForwardCase) -> bool:
    """A module in training mode gives what it gives in evaluation mode."""
    call = build_forward(case)
    handle = subject.build(call.params, call.n_head, call.is_causal)
    calm = subject.forward(call, handle.eval())
    trained = subject.forward(call, handle.train())
    same(
        calm[:, None],
        trained[:, None],
        subject.answer_forward(call),
        "train() gives another result than eval()",
    )
    return True


def _changes(scope: Scope) -> SearchStrategy[ForwardCase]:
    other = st.sampled_from((None, None, "float64", "float32")) if scope.has("casts-weights") else st.none()
    changes = st.sampled_from(
        ("new weights are loaded", "another module is used in between", "another thread calls")
    )
    return forward_cases(scope, cross=ANY, weights_dtype=other, change=changes)


@check("PURE-6", cases=_changes, kinds=MODULE, grounds=simplified.forward)
def parameters_count_as_they_are(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Weights loaded between calls are used at once, and modules or threads used in turn do not meet."""
    call = build_forward(case)
    answer = subject.answer_forward(call)
    other = draw_params(np.random.default_rng((case.seed, 4)), case.n_state, case.weights_dtype or case.dtype)
    changed = replace(call, params=other)
    handle = subject.build(call.params, call.n_head, call.is_causal)
    if case.change == "new weights are loaded":
        load: Any = getattr(subject.implementation, "load", None)
        if load is None:
            raise NotAsked("the implementation loads no other parameters into a built module")
        subject.forward(call, handle)
        load(handle, subject.native_params(other))
        answer = subject.answer_forward(changed)
        within(
            subject.forward(changed, handle)[:, None], answer, "with weights that were loaded after a call"
        )
        return differs(answer, subject.answer_forward(call))
    # Another module of the same n_state: with other weights and, where that is possible, another number of heads.
    heads = next((n for n in (1, 2, 4, 3) if n != case.heads and case.n_state % n == 0), case.heads)
    if subject.claims.head_sizes:
        heads = case.heads
    beside = replace(changed, n_head=heads, mask=None)
    second = subject.build(other, heads, case.causal)
    if case.change == "another thread calls":
        with ThreadPoolExecutor(1) as pool:
            pool.submit(subject.forward, beside, second).result()
            y = subject.forward(call, handle)
            within(pool.submit(subject.forward, call, handle).result()[:, None], answer, "in another thread")
    else:
        within(
            subject.forward(beside, second)[:, None], subject.answer_forward(beside), "of the other module"
        )
        y = subject.forward(call, handle)
    within(y[:, None], answer, case.change)
    return differs(answer, subject.answer_forward(changed))
