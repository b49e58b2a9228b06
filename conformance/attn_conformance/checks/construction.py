"""CTOR: which sizes are refused, and which names a drop-in class has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import simplified
from attn_conformance.cases import ForwardCase, SizesCase, build_forward, draw_params
from attn_conformance.expect import within
from attn_conformance.implementation import PARAMETERS
from attn_conformance.judge import Failed
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.registry import FEW, MODULE, check
from attn_conformance.scope import Scope
from attn_conformance.strategies import constructor_arguments, forward_cases
from attn_conformance.subject import Raised, blaming


def _indivisible(scope: Scope) -> SearchStrategy[SizesCase]:
    return constructor_arguments(scope, n_state=st.integers(1, 64), n_head=st.integers(2, 12)).filter(
        lambda case: case.n_state % case.n_head != 0
    )


def _not_positive(scope: Scope) -> SearchStrategy[SizesCase]:
    low, size = st.sampled_from((0, -1, -2, -8)), st.sampled_from((8, 1, 16))
    return st.one_of(
        constructor_arguments(scope, n_state=size, n_head=low),
        constructor_arguments(scope, n_state=low, n_head=st.sampled_from((1, 2, 4))),
    )


def _refused(subject: ModuleSubject, case: SizesCase) -> bool:
    rng = np.random.default_rng(case.seed)
    params = draw_params(rng, max(case.n_state, 1), case.dtype)
    try:
        subject.build(params, case.n_head, case.causal, n_state=case.n_state)
    except Raised as raised:
        if isinstance(raised.error, ValueError):
            return True
        raise Failed(f"{raised.message}; ValueError was expected") from raised
    raise Failed(f"accepted n_state={case.n_state}, n_head={case.n_head}")


@check("CTOR-1", cases=_indivisible, floor=1, kinds=MODULE, at_most=FEW)
def heads_divide_the_state(subject: ModuleSubject, case: SizesCase) -> bool:
    """An n_head that does not divide n_state raises ValueError at construction."""
    return _refused(subject, case)


@check("CTOR-2", cases=_not_positive, floor=1, kinds=MODULE, at_most=FEW)
def sizes_are_positive(subject: ModuleSubject, case: SizesCase) -> bool:
    """An n_state or n_head of zero or below raises ValueError at construction."""
    return _refused(subject, case)


@contextmanager
def _without_sdpa() -> Iterator[None]:
    from torch.nn import functional

    kept: Any = functional.scaled_dot_product_attention
    del functional.scaled_dot_product_attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = kept


@check("CTOR-3", cases=forward_cases, floor=1, kinds=MODULE, at_most=5, grounds=simplified.forward)
def scaled_dot_product_attention_may_be_missing(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Without scaled_dot_product_attention construction raises ValueError, or the results are right all the same."""
    call = build_forward(case)
    with _without_sdpa():
        try:
            handle = subject.build(call.params, call.n_head, call.is_causal)
        except Raised as raised:
            if isinstance(raised.error, ValueError):
                return True
            raise Failed(f"construction {raised.message}; ValueError was expected") from raised
        within(subject.forward(call, handle)[:, None], subject.answer_forward(call))
    return True


@check("CTOR-4", cases=forward_cases, floor=1, kinds=MODULE, at_most=5)
def a_drop_in_has_the_names(subject: ModuleSubject, case: ForwardCase) -> bool:
    """n_head, causal, query, key, value and out exist, parameters have the names of the seed, causal is no default."""
    call = build_forward(case)
    handle = subject.build(call.params, call.n_head, call.is_causal)
    missing = [n for n in ("n_head", "causal", "query", "key", "value", "out") if not hasattr(handle, n)]
    if missing:
        raise Failed(f"has no attribute {', '.join(missing)}")
    if (handle.n_head, handle.causal) != (case.heads, case.causal):
        raise Failed(
            f"n_head and causal are {handle.n_head} and {handle.causal}; "
            f"it was built with {case.heads} and {case.causal}"
        )
    lacking = [name for name in PARAMETERS if name not in handle.state_dict()]
    if lacking:
        raise Failed(f"its parameters lack {', '.join(lacking)}")
    with blaming():
        usual = type(handle)(case.heads * case.head_size, case.heads)
    if usual.causal:
        raise Failed(f"built without causal, it is causal: its attribute is {usual.causal!r}")
    return True
