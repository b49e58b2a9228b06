"""The reference as an attention kernel on NumPy arrays: the `numpy-reference` target."""

from __future__ import annotations

import numpy as np

from .claims import DTYPES, Claims
from .errors import check_kernel_call
from .lowering import lower
from .matrices import solve
from .problem import Array


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Array:
    """Softmax attention, computed in float64 and rounded once to the dtype of q: (B, H, T, Dv).

    Arguments as for `lower`. For float64 inputs this is one implementation among others, judged against
    `solve_extended` as they are. Raises ValueError or TypeError for malformed calls.
    """
    check_kernel_call(q, k, v, mask, is_causal, scale)
    o = solve(lower(q, k, v, mask, is_causal, scale)).o
    with np.errstate(all="ignore"):  # results beyond the dtype's range become inf, as in every implementation
        return o.astype(q.dtype)


# A function's own dictionary, so that `attention` stays a plain function.
vars(attention)["claims"] = Claims(
    dtypes=DTYPES,
    features=frozenset(
        {
            "bool-mask",
            "float-mask",
            "float32-mask",
            "causal",
            "cross",
            "zero-sizes",
            "validates",
            "gqa",
            "scale",
            "dv",
            "run-determinism",
        }
    ),
    arithmetic="precise",
)
