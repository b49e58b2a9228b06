"""The specification in loops: one query, one key, one number at a time. Slow on purpose; shares no code."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

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
    B, H, T, _ = q.shape
    g, Dv = H // k.shape[1], v.shape[3]
    values = v.astype(np.float64).tolist()
    out = np.zeros((B, H, T, Dv))
    for (b, h, i), weights in _rows(q, k, mask, is_causal, scale):
        total = math.fsum(weights.values())
        for c in range(Dv):
            out[b, h, i, c] = math.fsum(w * values[b][h // g][j][c] for j, w in weights.items()) / total
    return out


def attention_gradients(
    q: Array,
    k: Array,
    v: Array,
    do: Array,
    mask: Array | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> dict[str, Array]:
    """The gradients of sum(do * o), o being what `attention` returns: "q", "k", "v" and, if floating, "mask".

    do: (B, H, T, Dv). Each row's softmax is differentiated by its whole Jacobian dp_n/ds_j = p_n ([n = j] - p_j).
    """
    D, Dv, g = q.shape[3], v.shape[3], q.shape[1] // k.shape[1]
    factor = _scale(D) if scale is None else scale
    qs, ks, vs, dos = (x.astype(np.float64).tolist() for x in (q, k, v, do))
    terms: dict[tuple[str, tuple[int, ...]], list[float]] = {}  # of each element of each gradient

    def add(name: str, index: tuple[int, ...], term: float) -> None:
        terms.setdefault((name, index), []).append(term)

    for (b, h, i), weights in _rows(q, k, mask, is_causal, scale):
        total = math.fsum(weights.values())
        p = {j: w / total for j, w in weights.items()}
        dp = {j: math.fsum(dos[b][h][i][c] * vs[b][h // g][j][c] for c in range(Dv)) for j in p}
        for j in p:
            ds = math.fsum(dp[n] * p[n] * ((1.0 if n == j else 0.0) - p[j]) for n in p)
            for d in range(D):
                add("q", (b, h, i, d), factor * ds * ks[b][h // g][j][d])
                add("k", (b, h // g, j, d), factor * ds * qs[b][h][i][d])
            for c in range(Dv):
                add("v", (b, h // g, j, c), p[j] * dos[b][h][i][c])
            if mask is not None and mask.dtype != bool:
                add("mask", _position(mask, b, h, i, j), ds)

    gradients = {name: np.zeros(x.shape) for name, x in (("q", q), ("k", k), ("v", v))}
    if mask is not None and mask.dtype != bool:
        gradients["mask"] = np.zeros(mask.shape)
    for (name, index), summands in terms.items():
        gradients[name][index] = math.fsum(summands)
    return gradients


def _scale(D: int) -> float:
    return 1 / math.sqrt(D) if D else 1.0


def _position(mask: Array, *index: int) -> tuple[int, ...]:
    """Where a mask, (T, S) or 4-D, holds what concerns [b, h, i, j]: 0 on axes of size 1."""
    return tuple(at if n > 1 else 0 for at, n in zip(index[4 - mask.ndim :], mask.shape, strict=True))


def _rows(
    q: Array, k: Array, mask: Array | None, is_causal: bool, scale: float | None
) -> Iterator[tuple[tuple[int, int, int], dict[int, float]]]:
    """The rows (b, h, i) that see a key; for each, visible key j -> e^(s_j - m), its weight up to a factor."""
    B, H, T, D = q.shape
    S, g = k.shape[2], H // k.shape[1]
    factor = _scale(D) if scale is None else scale
    queries, keys = (x.astype(np.float64).tolist() for x in (q, k))  # nested lists of Python floats
    for b in range(B):
        for h in range(H):
            for i in range(T):
                scores = {}  # visible key j -> scaled score
                for j in range(S):
                    if is_causal and not j <= i + (S - T):
                        continue
                    added = 0.0
                    if mask is not None:
                        entry = mask[_position(mask, b, h, i, j)]
                        if mask.dtype == bool:
                            if not entry:
                                continue
                        else:
                            added = float(entry)
                            if added == -math.inf:
                                continue
                    query, key = queries[b][h][i], keys[b][h // g][j]
                    scores[j] = factor * math.fsum(query[d] * key[d] for d in range(D)) + added
                if scores:  # without a visible key the row stays 0 (MASK-5)
                    top = max(scores.values())
                    yield (b, h, i), {j: math.exp(s - top) for j, s in scores.items()}


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
    q, k, v = (_split(_project(params, *of), n_head) for of in (("query", x), ("key", src), ("value", src)))
    return _project(params, "out", _merge(attention(q, k, v, mask, is_causal)))


def forward_gradients(
    params: Mapping[str, Array],
    x: Array,
    src: Array,
    dy: Array,
    n_head: int,
    mask: Array | None = None,
    is_causal: bool = False,
) -> dict[str, Array]:
    """The gradients of sum(dy * y), y being what `forward` returns: "x", "src", all eight parameters, "mask".

    In self-attention the gradient of x is the sum of "x" and "src".
    """
    q, k, v = (_split(_project(params, *of), n_head) for of in (("query", x), ("key", src), ("value", src)))
    merged = _merge(attention(q, k, v, mask, is_causal))
    dmerged, gradients = _unproject(params, "out", merged, dy)
    found = attention_gradients(q, k, v, _split(dmerged, n_head), mask, is_causal)
    dsources = []
    for name, source in (("query", x), ("key", src), ("value", src)):
        dsource, dparams = _unproject(params, name, source, _merge(found[name[0]]))
        dsources.append(dsource)
        gradients |= dparams
    gradients |= {"x": dsources[0], "src": dsources[1] + dsources[2]}
    return gradients | ({"mask": found["mask"]} if "mask" in found else {})


def _split(y: Array, n_head: int) -> Array:
    D = y.shape[2] // n_head
    return np.stack([y[:, :, h * D : (h + 1) * D] for h in range(n_head)], 1)


def _merge(o: Array) -> Array:
    return np.concatenate([o[:, h] for h in range(o.shape[1])], -1)


def _project(params: Mapping[str, Array], name: str, rows: Array) -> Array:
    N = rows.shape[2]
    weight = params[f"{name}.weight"].astype(np.float64).tolist()
    bias = params[f"{name}.bias"].astype(np.float64).tolist() if f"{name}.bias" in params else [0.0] * N
    y = np.zeros(rows.shape)
    for b in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            row = rows[b, i].astype(np.float64).tolist()
            for n in range(N):
                y[b, i, n] = math.fsum([bias[n], *(weight[n][m] * row[m] for m in range(N))])
    return y


def _unproject(
    params: Mapping[str, Array], name: str, rows: Array, dy: Array
) -> tuple[Array, dict[str, Array]]:
    """The gradients of a projection's input rows and of its parameters, dy being that of its result."""
    B, T, N = rows.shape
    weight = params[f"{name}.weight"].astype(np.float64).tolist()
    row, out = rows.astype(np.float64).tolist(), dy.astype(np.float64).tolist()
    tokens = [(b, i) for b in range(B) for i in range(T)]
    drows, dweight, dbias = np.zeros((B, T, N)), np.zeros((N, N)), np.zeros(N)
    for n in range(N):
        dbias[n] = math.fsum(out[b][i][n] for b, i in tokens)
        for b, i in tokens:
            drows[b, i, n] = math.fsum(out[b][i][m] * weight[m][n] for m in range(N))
        for m in range(N):
            dweight[n, m] = math.fsum(out[b][i][n] * row[b][i][m] for b, i in tokens)
    return drows, {f"{name}.weight": dweight, f"{name}.bias": dbias}
