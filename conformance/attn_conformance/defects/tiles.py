"""Defects of the running softmax: what is carried from tile to tile, and how it is rescaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from attn_conformance.controls import Inputs
from attn_conformance.controls.inputs import Array, share
from attn_conformance.controls.online import LOG2_E
from attn_conformance.defects import defect
from attn_conformance.defects.scores import lowered

TILE = 16
"""Narrow, so that short sequences have several."""


def tiled(
    x: Inputs,
    *,
    exp: Callable[[Array], Array] = np.exp,
    shrink: Callable[[Array], Array] | None = None,
    last_out: bool = True,
    last_total: bool = True,
    low_out: bool = False,
    low_total: bool = False,
) -> Array:
    """Tiles of keys, as in `controls.online`.

    exp: e^x or 2^x. All others are defects: shrink is what rescales, in place of exp; last_out and last_total tell
    whether the last tile rescales them; low_out and low_total whether they are held in a dtype too small for them.
    """
    logits, values = x.logits() * (LOG2_E if exp is np.exp2 else 1), x.values
    m: Any = np.full((*logits.shape[:3], 1), -np.inf, logits.dtype)
    total: Any = np.zeros_like(m)
    out: Any = np.zeros((*logits.shape[:3], values.shape[3]), logits.dtype)
    for j in range(0, logits.shape[3], TILE):
        part = logits[..., j : j + TILE]
        new = np.maximum(m, part.max(-1, keepdims=True))
        base = np.where(np.isneginf(new), 0, new)
        weights, factor = exp(part - base), (shrink or exp)(m - base)
        last = j > 0 and j + TILE >= logits.shape[3]
        total = total * (factor if last_total or not last else 1) + weights.sum(-1, keepdims=True)
        out = out * (factor if last_out or not last else 1) + x.stored(weights) @ values[:, :, j : j + TILE]
        total = lowered(x, total) if low_total else total
        out = lowered(x, out) if low_out else out
        m = new
    return share(out, total)


def right(x: Inputs) -> Array:
    """Right: powers of e."""
    return tiled(x)


def right_in_base_two(x: Inputs) -> Array:
    """Right: powers of two."""
    return tiled(x, exp=np.exp2)


@defect("output-carried-low", twin=right)
def output_carried_low(x: Inputs) -> Array:
    """The running sum of weighted values is held in a dtype too small for it."""
    return tiled(x, low_out=True)


@defect("total-carried-low", twin=right)
def total_carried_low(x: Inputs) -> Array:
    """The running sum of weights is held in a dtype too small for it."""
    return tiled(x, low_total=True)


@defect("output-not-rescaled-by-the-last-tile", twin=right)
def output_not_rescaled_by_the_last_tile(x: Inputs) -> Array:
    """A new maximum in the last tile leaves the sum of weighted values as it is."""
    return tiled(x, last_out=False)


@defect("total-not-rescaled-by-the-last-tile", twin=right)
def total_not_rescaled_by_the_last_tile(x: Inputs) -> Array:
    """A new maximum in the last tile leaves the sum of weights as it is."""
    return tiled(x, last_total=False)


@defect("rescaled-in-another-base", twin=right_in_base_two)
def rescaled_in_another_base(x: Inputs) -> Array:
    """Weights are powers of two, and what came before is rescaled by powers of e."""
    return tiled(x, exp=np.exp2, shrink=np.exp)
