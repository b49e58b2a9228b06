"""Controls that compute in more or less precision than others, each as it claims."""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.controls import Inputs, control
from attn_conformance.controls.dense import exponentials
from attn_conformance.controls.inputs import Array, share


def _normalised(x: Inputs) -> Array:
    grown, total = exponentials(x.logits())
    return share(grown, total) @ x.values


@control("float64-inside")
def float64_inside(x: Inputs) -> Array:
    """Everything in float64, rounded once at the end."""
    return _normalised(x.to(np.float64))


@control("precise", arithmetic="precise")
def precise(x: Inputs) -> Array:
    """Nothing is rounded to the storage dtype before the result, and the claim says so."""
    return _normalised(x)


@control("eager", arithmetic="eager", dtypes=("float16", "bfloat16"))
def eager(x: Inputs) -> Array:
    """Scaled scores and weights are both held in the storage dtype, as separate operations leave them."""
    scores = x.stored(x.scale * (x.q @ x.keys.swapaxes(-1, -2)))
    grown, total = exponentials(x.hide(scores))
    return np.asarray(x.stored(share(grown, total)) @ x.values)


@control("eager-scaled-query", arithmetic="eager", dtypes=("float16", "bfloat16"))
def eager_scaled_query(x: Inputs) -> Array:
    """As `eager`, with the scale in q, which is held in the storage dtype too."""
    scores = x.stored(x.stored(x.scale * x.q) @ x.keys.swapaxes(-1, -2))
    grown, total = exponentials(x.hide(scores))
    return np.asarray(x.stored(share(grown, total)) @ x.values)


def to_tf32(x: Array) -> Array:
    """Each float32 rounded to a significand of 11 bits."""
    rounded = ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)


@control("tf32", arithmetic="tf32", dtypes=("float32",))
def tf32(x: Inputs) -> Array:
    """The operands of both products are rounded to TF32, as matrix units do with float32."""
    scores = x.scale * (to_tf32(x.q) @ to_tf32(x.keys).swapaxes(-1, -2))
    grown, total = exponentials(x.hide(scores))
    return share(to_tf32(grown) @ to_tf32(x.values), total)


def chopped(a: Array, b: Array) -> Array:
    """A @ b in float32, the running sum cut towards zero after every 8 products."""
    total: Any = np.zeros((*a.shape[:-1], b.shape[-1]))
    for i in range(0, a.shape[-1], 8):
        exact = total + a[..., i : i + 8].astype(np.float64) @ b[..., i : i + 8, :].astype(np.float64)
        near = exact.astype(np.float32)
        total = np.where(np.abs(near) > np.abs(exact), np.nextafter(near, np.float32(0)), near)
        total = total.astype(np.float64)
    return np.asarray(total.astype(np.float32))


@control("truncating-accumulators", dtypes=("float16", "bfloat16"))
def truncating_accumulators(x: Inputs) -> Array:
    """Both products are accumulated as matrix units do: cut towards zero, not rounded."""
    scores = x.scale * chopped(x.q, x.keys.swapaxes(-1, -2))
    grown, total = exponentials(x.hide(scores))
    return share(chopped(x.stored(grown), x.values), total)
