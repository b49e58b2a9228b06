"""The specification in loops: one query, one key, one number at a time. Slow on purpose; shares no code."""

from __future__ import annotations

import math
from collections.abc import Mapping

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


def forward(
    params: Mapping[str, Array],
    x: Array,
    src: Array,
    n_head: int,
    mask: Array | None = None,
    is_causal: bool = False,
) -> Array:
    """A module's forward call as in section 1 of the specification, (B, T, n_state) in float64.

    Arguments as for `lower_forward`; sums as in `attention`.
    """
    N = x.shape[2]
    D = N // n_head

    def project(name: str, rows: Array) -> Array:
        weight = params[f"{name}.weight"].astype(np.float64).tolist()
        bias = params[f"{name}.bias"].astype(np.float64).tolist() if f"{name}.bias" in params else [0.0] * N
        y = np.zeros(rows.shape)
        for b in range(rows.shape[0]):
            for i in range(rows.shape[1]):
                row = rows[b, i].astype(np.float64).tolist()
                for n in range(N):
                    y[b, i, n] = math.fsum([bias[n], *(weight[n][m] * row[m] for m in range(N))])
        return y

    def head(y: Array, h: int) -> Array:
        return y[:, None, :, h * D : (h + 1) * D]

    q, k, v = project("query", x), project("key", src), project("value", src)
    merged = np.zeros(x.shape)
    for h in range(n_head):
        plane = mask[:, h : h + 1] if mask is not None and mask.ndim == 4 and mask.shape[1] > 1 else mask
        merged[:, :, h * D : (h + 1) * D] = attention(head(q, h), head(k, h), head(v, h), plane, is_causal)[
            :, 0
        ]
    return project("out", merged)
