"""Defects of precision before the sums: inputs, scores and weights held in too few bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from attn_conformance.controls import Inputs
from attn_conformance.controls.dense import scaled_query
from attn_conformance.controls.inputs import Array, peak_of, share
from attn_conformance.controls.precision import to_tf32
from attn_conformance.defects import defect
from attn_conformance.defects.right import finished, right
from attn_conformance.mutants.plain import LOWER

CUT: dict[str, Any] = {
    "float64": np.float32,
    "float32": ml_dtypes.bfloat16,
    "float16": ml_dtypes.bfloat16,
    "bfloat16": ml_dtypes.float8_e4m3fn,
}
"""The next narrower dtype, for each dtype of the inputs."""

LARGEST_FLOAT8 = 448.0
"""Beyond it float8_e4m3fn has NaN only."""


def lowered(x: Inputs, array: Array) -> Array:
    """The array rounded to a dtype too small to compute in: that of the inputs, or half of it."""
    return array.astype(LOWER[x.storage.name]).astype(array.dtype)


def cut(x: Inputs, array: Array) -> Array:
    """The array rounded to the next narrower dtype."""
    if CUT[x.storage.name] is ml_dtypes.float8_e4m3fn:
        array = np.clip(array, -LARGEST_FLOAT8, LARGEST_FLOAT8)
    return array.astype(CUT[x.storage.name]).astype(array.dtype)


def cut_input(x: Inputs, array: Array) -> Array:
    """An input as a matrix unit for fewer bits takes it: TF32 for float32, else the next narrower dtype."""
    return to_tf32(array) if x.storage == np.float32 else cut(x, array)


@defect("scores-stored-low", twin=right)
def scores_stored_low(x: Inputs) -> Array:
    """Masked scores are stored in a dtype too small for them."""
    return finished(x, lowered(x, x.logits()))


@defect("softmax-in-low-precision", twin=right)
def softmax_in_low_precision(x: Inputs) -> Array:
    """Scores, their exponentials and the sum of these are all held in a dtype too small for them."""
    logits = lowered(x, x.logits())
    grown = lowered(x, np.exp(lowered(x, logits - peak_of(logits))))
    return share(grown @ x.values, lowered(x, grown.sum(-1, keepdims=True)))


@defect("scaled-query-rounded", twin=scaled_query, dtypes=("float16", "bfloat16"))
def scaled_query_rounded(x: Inputs) -> Array:
    """Q is scaled and stored in the dtype of the inputs before the product."""
    return finished(x, x.hide(x.stored(x.scale * x.q) @ x.keys.swapaxes(-1, -2)))


@defect("weights-in-fewer-bits", twin=right)
def weights_in_fewer_bits(x: Inputs) -> Array:
    """Weights are rounded to the next narrower dtype: float8 for bfloat16."""
    return finished(x, x.logits(), rounded=lambda weights: cut(x, weights))


@defect("query-and-key-cut", twin=right)
def query_and_key_cut(x: Inputs) -> Array:
    """Q and k are rounded to fewer bits before their product: TF32 for float32."""
    scores = cut_input(x, x.q) @ cut_input(x, x.keys).swapaxes(-1, -2)
    return finished(x, x.hide(x.scale * scores))


@defect("values-cut", twin=right)
def values_cut(x: Inputs) -> Array:
    """V is rounded to fewer bits before it meets the weights: TF32 for float32."""
    return finished(x, x.logits(), values=cut_input(x, x.values))
