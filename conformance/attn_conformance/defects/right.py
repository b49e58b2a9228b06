"""The plain right rule that most defects are made from, in steps that a defect can replace."""

from __future__ import annotations

from collections.abc import Callable

from attn_conformance.controls import Inputs
from attn_conformance.controls.dense import exponentials
from attn_conformance.controls.inputs import Array, share


def finished(
    x: Inputs, logits: Array, rounded: Callable[[Array], Array] | None = None, values: Array | None = None
) -> Array:
    """Attention from masked logits (B, H, T, S): weights are rounded, and the sum of values divided at the end."""
    grown, total = exponentials(logits)
    weights = (rounded or x.stored)(grown)
    return share(weights @ (x.values if values is None else values), total)


def right(x: Inputs) -> Array:
    """Right: scores scaled after the product, weights rounded to the storage dtype, the sum divided at the end."""
    return finished(x, x.logits())
