"""OUT and EQ of modules: forward is attention between projections, and its result has the shape of x."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import simplified
from attn_conformance.cases import Call, Forward, ForwardCase, Mask, build_forward, split
from attn_conformance.cases.values import STORAGE
from attn_conformance.expect import same, within
from attn_conformance.judge import Failed, differs
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.registry import FEW, MODULE, SOME, check
from attn_conformance.scope import Scope
from attn_conformance.strategies import forward_cases, kinds, masks
from attn_conformance.subject import Array, Raised

ANY = st.booleans()
COUNTS = st.integers(1, 4)
LENGTHS = st.one_of(st.integers(1, 4), st.integers(1, 24))


def reference(subject: ModuleSubject, call: Forward, without: Forward) -> bool:
    """The result of forward equals the reference's; True if what `without` lacks mattered."""
    answer = subject.answer_forward(call)
    within(subject.forward(call)[:, None], answer)
    return differs(answer, subject.answer_forward(without))


def without_a_parameter(call: Forward, seed: int) -> Forward:
    """The call with one of its parameters lost (not key.bias, which does not count)."""
    names = [name for name in call.params if name != "key.bias"]
    lost = names[seed % len(names)]
    return replace(call, params={**call.params, lost: 0 * call.params[lost]})


@check(
    "OUT-1",
    cases=lambda s: forward_cases(s, batch=COUNTS, queries=LENGTHS, causal=ANY),
    floor=1,
    kinds=MODULE,
    at_most=SOME,
)
def self_attention_keeps_the_shape(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Self-attention returns one array (B, T, n_state)."""
    subject.forward(build_forward(case))  # which raises Failed for any other shape
    return True


@check(
    "OUT-2",
    cases=lambda s: forward_cases(s, cross=st.just(True), batch=COUNTS, queries=LENGTHS, keys=LENGTHS),
    floor=1,
    kinds=MODULE,
    at_most=SOME,
    grounds=simplified.across,
)
def cross_attention_has_the_shape_of_x(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Cross-attention returns (B, T, n_state) for any S, shorter, equal or longer than T."""
    subject.forward(build_forward(case))
    return True


def _other_weights(scope: Scope) -> SearchStrategy[ForwardCase]:
    return forward_cases(scope, cross=ANY, weights_dtype=st.sampled_from(tuple(STORAGE)))


@check("OUT-3", cases=_other_weights, kinds=MODULE, needs=("casts-weights",), grounds=simplified.forward)
def weights_are_cast_to_the_dtype_of_x(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Weights held in another dtype are cast to x's, which is that of the result."""
    call = build_forward(case)
    y = subject.forward(call)
    if y.dtype.name != case.dtype:
        raise Failed(f"x is {case.dtype}, the weights {case.weights_dtype}, the result {y.dtype.name}")
    within(y[:, None], subject.answer_forward(call))
    return case.weights_dtype != case.dtype


@check(
    "OUT-5",
    cases=lambda s: forward_cases(s, cross=st.just(True), batch=st.integers(2, 4)),
    kinds=MODULE,
    needs=("cross",),
    at_most=FEW,
)
def a_batch_of_one_beside_a_larger_one(subject: ModuleSubject, case: ForwardCase) -> str:
    """What happens where x or xa has a batch of 1 and the other a larger one."""
    call = build_forward(case)
    which = ("x", "xa")[case.seed % 2]
    assert call.xa is not None
    short = replace(call, x=call.x[:1]) if which == "x" else replace(call, xa=call.xa[:1])
    assert short.xa is not None
    shape = (case.batch, *call.x.shape[1:])
    full = replace(
        short,
        x=np.broadcast_to(short.x, shape).copy(),
        xa=np.broadcast_to(short.xa, (case.batch, *call.xa.shape[1:])).copy(),
    )
    handle = subject.build(call.params, call.n_head, call.is_causal)
    try:
        y = subject.forward(short, handle, full.x.shape)
        within(y[:, None], subject.answer_forward(full))
    except Raised as raised:
        return f"a batch of 1 in {which} is refused ({type(raised.error).__name__})"
    except Failed:
        return f"a batch of 1 in {which} gives something else than the broadcast"
    return f"a batch of 1 in {which} is broadcast"


@check(
    "EQ-1",
    cases=lambda s: forward_cases(s, batch=COUNTS, queries=LENGTHS, zeros=ANY),
    kinds=MODULE,
    grounds=simplified.self_attention,
)
def self_attention_equals_the_reference(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Forward without mask and xa equals the reference, projections and biases included."""
    call = build_forward(case)
    return reference(subject, call, without_a_parameter(call, case.seed))


@check(
    "EQ-2",
    cases=lambda s: forward_cases(
        s, cross=st.just(True), batch=COUNTS, queries=LENGTHS, keys=LENGTHS, zeros=ANY
    ),
    kinds=MODULE,
    grounds=simplified.cross_attention,
)
def cross_attention_equals_the_reference(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Forward with xa equals the reference, also where xa has the shape of x."""
    call = build_forward(case)
    if case.seed % 4 == 0 and call.xa is not None:  # one shape, other values: easily taken for self-attention
        call = replace(call, xa=np.roll(call.x, 1, axis=2))
    return reference(
        subject, call, replace(call, xa=None) if case.seed % 2 else without_a_parameter(call, case.seed // 2)
    )


def _with_masks(scope: Scope) -> SearchStrategy[ForwardCase]:
    dtypes = kinds(scope)
    options: list[SearchStrategy[Mask | None]] = [st.none()]
    if dtypes:
        options.append(masks(dtypes=dtypes, biases=("none", "noise"), planes="each"))
    return forward_cases(scope, cross=ANY, causal=ANY, mask=st.one_of(*options))


@check("EQ-4", cases=_with_masks, kinds=MODULE, grounds=simplified.composed)
def forward_is_the_composition(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Forward is out(qkv_attention(query(x), key(src), value(src))), with whatever that qkv_attention does."""
    call = build_forward(case)
    answer = subject.answer_forward(call)
    y = subject.forward(call)
    if subject.scope.has("qkv"):
        same(
            _composed(subject, call)[:, None],
            y[:, None],
            answer,
            "forward is not the composition of its parts",
        )
    else:
        within(y[:, None], answer)
    return differs(answer, subject.answer_forward(without_a_parameter(call, case.seed)))


def _composed(subject: ModuleSubject, call: Forward) -> Array:
    """The projections and out by value, around the subject's own qkv_attention."""
    src = call.x if call.xa is None else call.xa
    params = {name: array.astype(np.float64) for name, array in call.cast.items()}

    def project(array: Array, name: str) -> Array:
        y = array.astype(np.float64) @ params[f"{name}.weight"].T
        if name != "key" or subject.key_bias:
            y = y + params[f"{name}.bias"]
        return np.asarray(y.astype(call.x.dtype))

    q, k, v = (
        split(project(a, n), call.n_head) for a, n in ((call.x, "query"), (src, "key"), (src, "value"))
    )
    heads = subject.attention(Call(q, k, v, call.mask, call.is_causal, window="qkv"))
    B, H, T, D = heads.shape
    return project(heads.transpose(0, 2, 1, 3).reshape(B, T, H * D), "out")


def _with_empty_rows(scope: Scope) -> SearchStrategy[ForwardCase]:
    empty = masks(
        dtypes=kinds(scope),
        structures=("some-rows-empty", "none", "single-key"),
        planes="each",
        empty_rows=True,
    )
    return forward_cases(scope, cross=ANY, mask=empty)


@check("MASK-5", cases=_with_empty_rows, kinds=MODULE, grounds=simplified.forward)
def empty_rows_give_the_bias_of_out(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Through forward, a query that may attend to no key gives out(0), the bias of out."""
    call = build_forward(case)
    return reference(
        subject, call, replace(call, params={**call.params, "out.bias": 0 * call.params["out.bias"]})
    )
