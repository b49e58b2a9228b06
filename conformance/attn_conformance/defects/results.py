"""Defects of what comes out: gains, small additions to the denominator, single elements and columns."""

from __future__ import annotations

import numpy as np

from attn_conformance.controls import Inputs
from attn_conformance.controls.dense import exponentials
from attn_conformance.controls.inputs import Array, share
from attn_conformance.defects import defect
from attn_conformance.defects.right import right


@defect("gain-1.002", twin=right)
def gain_1_002(x: Inputs) -> Array:
    """Every result is 0.2 % too large."""
    return np.asarray(1.002 * right(x))


@defect("denominator-plus-1e-6", twin=right)
def denominator_plus_1e_6(x: Inputs) -> Array:
    """1e-6 is added to the sum of exponentials."""
    grown, total = exponentials(x.logits())
    return share(x.stored(grown) @ x.values, total + total.dtype.type(1e-6))


@defect("one-weight-in-a-hundred-dropped", twin=right)
def one_weight_in_a_hundred_dropped(x: Inputs) -> Array:
    """Dropout of 1 % is on, the same weights in every call."""
    grown, total = exponentials(x.logits())
    kept = np.random.default_rng(3).random(grown.shape) >= 0.01
    return share(x.stored(np.where(kept, grown / grown.dtype.type(0.99), 0)) @ x.values, total)


@defect("one-element-3-percent-off", twin=right)
def one_element_3_percent_off(x: Inputs) -> Array:
    """The largest result is 3 % too large."""
    out = right(x)
    if out.size:
        out.reshape(-1)[np.argmax(np.abs(out))] *= 1.03
    return out


@defect("two-columns-swapped", twin=right)
def two_columns_swapped(x: Inputs) -> Array:
    """The first two features of the result have changed places."""
    out = right(x)
    out[..., :2] = out[..., :2][..., ::-1].copy()
    return out
