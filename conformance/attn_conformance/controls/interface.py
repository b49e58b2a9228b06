"""Controls that differ in what they take and return: checks, layouts, the log-sum-exp."""

from __future__ import annotations

import numpy as np

from attn_conformance.controls import Inputs, control
from attn_conformance.controls.dense import late_normalisation
from attn_conformance.controls.inputs import Array, peak_of, share
from attn_reference.errors import check_kernel_call


@control("validating", features=("validates",), before=check_kernel_call)
def validating(x: Inputs) -> Array:
    """All arguments are checked first."""
    return np.asarray(late_normalisation(x))


@control("transposed-result")
def transposed_result(x: Inputs) -> Array:
    """The result is a view of (B, T, H, Dv), as a caller who merges heads likes it."""
    return np.ascontiguousarray(late_normalisation(x).swapaxes(1, 2)).swapaxes(1, 2)


@control("with-log-sum-exp", features=("lse",))
def with_log_sum_exp(x: Inputs) -> tuple[Array, Array]:
    """The natural log-sum-exp of each row is returned too."""
    logits = x.logits()
    peak = peak_of(logits)
    grown = np.exp(logits - peak)
    total = grown.sum(-1, keepdims=True)
    return share(grown @ x.values, total), (peak + np.log(total))[..., 0]
