"""The specification in loops: one query, one key, one number at a time. Slow on purpose; shares no code."""

from __future__ import annotations

import math

import numpy as np

from .problem import Array


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Array:
    """Softmax attention as in section 1 of the specification, (B, H, T, Dv) in float64.

    Arguments as for `lower`. Sums are correctly rounded (math.fsum). Only visible keys are looked at, so NaN
    in hidden ones is harmless, NaN in visible ones reaches the result; infinite inputs are not specified.
    """
    B, H, T, D = q.shape
    Hkv, S, Dv = k.shape[1], k.shape[2], v.shape[3]
    g = H // Hkv
    if scale is None:
        scale = 1 / math.sqrt(D) if D else 1.0
    if mask is not None and mask.ndim == 2:
        mask = mask[None, None]
    qs, ks, vs = (x.astype(np.float64).tolist() for x in (q, k, v))  # nested lists of Python floats
    out = np.zeros((B, H, T, Dv))

    for b in range(B):
        for h in range(H):
            for i in range(T):
                scores = {}  # visible key j -> scaled score
                for j in range(S):
                    if is_causal and not j <= i + (S - T):
                        continue
                    added = 0.0
                    if mask is not None:
                        entry = mask[
                            b if mask.shape[0] > 1 else 0,
                            h if mask.shape[1] > 1 else 0,
                            i if mask.shape[2] > 1 else 0,
                            j if mask.shape[3] > 1 else 0,
                        ]
                        if mask.dtype == bool:
                            if not entry:
                                continue
                        else:
                            added = float(entry)
                            if added == -math.inf:
                                continue
                    query, key = qs[b][h][i], ks[b][h // g][j]
                    scores[j] = scale * math.fsum(query[d] * key[d] for d in range(D)) + added
                if not scores:
                    continue  # no visible key: the row stays 0 (MASK-5)
                top = max(scores.values())
                weights = {j: math.exp(s - top) for j, s in scores.items()}
                total = math.fsum(weights.values())
                for c in range(Dv):
                    out[b, h, i, c] = math.fsum(w * vs[b][h // g][j][c] for j, w in weights.items()) / total
    return out
