"""OUT: dtype and device of the result, and sizes of zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from attn_conformance import simplified
from attn_conformance.cases import KernelCase, build
from attn_conformance.judge import Failed
from attn_conformance.registry import check
from attn_conformance.scope import Scope
from attn_conformance.strategies import floating_kinds, kernel_cases, kinds, masks
from attn_conformance.subject import Raised, Subject


def _with_and_without_mask(scope: Scope) -> st.SearchStrategy[KernelCase]:
    dtypes = tuple(dict.fromkeys((*kinds(scope), *floating_kinds(scope))))
    mask = st.one_of(st.none(), masks(dtypes=dtypes)) if dtypes else st.none()
    return kernel_cases(scope, mask=mask, grad=st.sampled_from(scope.grad_modes))


@check("OUT-3", cases=_with_and_without_mask, grounds=simplified.shapes)
def result_has_the_dtype_of_q(subject: Subject, case: KernelCase) -> bool:
    """The result has q's dtype and device, whatever the mask's dtype."""
    try:
        result = subject.run(build(case))
    except Raised:
        return False
    if result.out.dtype.name != case.dtype:
        raise Failed(f"q is {case.dtype}, the result is {result.out.dtype.name}")
    if not result.device.lower().startswith((subject.device, "tfrt_" + subject.device)):
        raise Failed(f"q is on {subject.device}, the result on {result.device}")
    return True


def _empty(scope: Scope) -> st.SearchStrategy[KernelCase]:
    zero = st.just(0)
    return st.one_of(
        kernel_cases(scope, queries=zero),
        kernel_cases(scope, batch=zero),
        kernel_cases(scope, keys=zero),
    ).map(lambda case: case if scope.has("cross") else replace(case, keys=case.queries))


def _zeros_or_exception(subject: Subject, case: KernelCase) -> None:
    try:
        out = subject.attention(build(case)).astype(np.float64)
    except Raised:
        return
    if np.any(out != 0):
        found = "NaN" if np.isnan(out).any() else f"{out[out != 0][0]!r}"
        raise Failed(f"{found} without a single key; zeros (or an exception) were expected")


@check("OUT-4", cases=_empty, windows=("kernel", "qkv", "cross"), grounds=simplified.no_keys)
def empty_sizes_give_empty_or_zero(subject: Subject, case: KernelCase) -> bool:
    """T = 0 or B = 0 gives an empty result, S = 0 rows of zeros; an exception passes too."""
    _zeros_or_exception(subject, case)
    return True


@check(
    "OUT-6",
    cases=lambda scope: kernel_cases(scope, keys=st.just(0)),
    windows=("kernel", "qkv", "cross"),
    grounds=simplified.shapes,
)
def no_keys_never_give_nan(subject: Subject, case: KernelCase) -> bool:
    """S = 0 gives zeros or raises; it never gives NaN."""
    _zeros_or_exception(subject, case)
    return True
