"""How far a correct backward pass may lie from the closed form: a bound for every element of every gradient.

`pair_errors` says what may go wrong at each pair of a query and a key; here sums over keys and over queries add it
up. A backward pass may keep p or recompute it from the scores and the log-sum-exp; it may take D from the output,
stored or not, or from the p it kept and dp; it may store p and ds before they are multiplied, where the arithmetic
stores weights; and it may sum in any order, the heads of a group one by one.
"""

from __future__ import annotations

import numpy as np

from .backward import Backward
from .bound import Roundings, largest, roundings
from .claims import Arithmetic
from .forward_bound import Error, alike
from .matrices import finite, grouped
from .pair_errors import CHANCE, FINE, PairErrors, across, copies, of_terms, pair_errors
from .problem import Array, Problem

PRODUCTS = 1.02  # products of errors; the largest single one is bfloat16's 2^-7, of p and ds both rounded


@np.errstate(all="ignore")  # as in `bound`
def backward_bound(
    problem: Problem, backward: Backward, dtype: str, arithmetic: Arithmetic = "fused"
) -> dict[str, Array]:
    """The error allowed before the last rounding, for each element of backward.gradients, by the same names.

    dtype: that of the inputs and of dO, which count as exact; a gradient may be stored in another one, whose rounding
    `limit` adds. 0 where nothing contributes; inf where an array that may be stored in the dtype may overflow, and
    where errors of the scores leave open which key has the weight. Some thirty arrays of the scores' shape are held.
    """
    r = roundings(dtype, arithmetic)
    e = pair_errors(problem, backward, dtype, r)
    q, k, do, scale = finite(problem.q), finite(problem.k), backward.do, abs(problem.scale)
    Hkv, seen = k.shape[1], np.broadcast_to(problem.visible, problem.shape).astype(np.float64)
    a_query, a_key = np.ones((*q.shape[:3], 1)), np.ones((*k.shape[:3], 1))

    dq = (over_keys(e, k) + sums_over_keys(e, k)).times(scale)
    dk = (over_queries(e, q) + sums_over_queries(e, q)).times(scale)
    dv = of_values(e, do) + sums_of_values(e, do)
    # The scale may be applied to ds before that is stored.
    dq = dq.plus(r.eta_p * grouped(seen, np.abs(k)))
    dk = dk.plus(r.eta_p * across(seen, np.abs(q), Hkv))
    if r.us:
        # Factors that are scaled beforehand are stored, and so are results that are scaled in the end.
        eta = r.eta_p * max(1.0, scale)
        dq = dq.plus(eta * (1 + grouped(e.sizes.ds, a_key)) + r.us * np.abs(backward.gradients["q"]))
        dk = dk.plus(eta * (1 + across(e.sizes.ds, a_query, Hkv)) + r.us * np.abs(backward.gradients["k"]))
    if r.up and Hkv < q.shape[1]:
        dk = dk + stored_heads(scale * backward.ds.swapaxes(-1, -2) @ q, Hkv, r)
        dv = dv + stored_heads(e.sizes.p.swapaxes(-1, -2) @ do, Hkv, r)

    lost = 1.0 * e.lost
    bounds = {
        "q": least(dq, r, grouped(seen, a_key), grouped(lost, a_key)),
        "k": least(dk, r, across(seen, a_query, Hkv), across(lost, a_query, Hkv)),
        "v": least(dv, r, across(seen, a_query, Hkv), across(lost, a_query, Hkv)),
        "bias": bias_bound(problem, e, r),
    }
    for name in ("q", "k") if r.us else ():
        reach = np.abs(backward.gradients[name]) + bounds[name]  # stored before the scale makes it smaller
        bounds[name] = np.where(reach > min(1.0, scale) * largest(dtype), np.inf, bounds[name])
    return bounds


def least(error: Error, r: Roundings, seen: Array, lost: Array) -> Array:
    """The smaller of worst and probable; 0 where no pair is seen, inf where one of them is lost."""
    bound = np.minimum(error.worst, error.probable) + r.eta_0
    return np.where(seen > 0, np.where(lost > 0, np.inf, bound), 0.0)


def over_keys(e: PairErrors, y: Array) -> Error:
    """What the errors of ds do to ds @ y; y: (B, Hkv, S, n)."""
    y_abs, p = np.abs(y), e.sizes.p
    flushed = grouped(e.ds_flushed, y_abs)
    worst = PRODUCTS * grouped(e.ds_worst, y_abs)
    random = grouped(e.ds_random**2 * e.sizes.of_row, y * y)
    # One error of D for the whole row; where its effects cancel, they do so up to the errors of p.
    share = np.abs(grouped(p, y)) + grouped(p * (e.probable.p + e.p_stored), y_abs)
    probable = grouped(e.probable.ds, y_abs) + np.sqrt(random + (e.probable.D * share) ** 2)
    return Error(worst + flushed, probable + flushed)


def over_queries(e: PairErrors, y: Array) -> Error:
    """What the errors of ds do to ds^T @ y, summed over the heads of a group; y: (B, H, T, n)."""
    y_abs, Hkv = np.abs(y), e.sizes.v.shape[1]
    flushed = across(e.ds_flushed, y_abs, Hkv)
    worst = PRODUCTS * across(e.ds_worst, y_abs, Hkv)
    random = e.ds_random**2 * e.sizes.of_key + e.d_shares**2 * e.sizes.of_rows
    probable = across(e.probable.ds, y_abs, Hkv) + np.sqrt(across(random, y * y, Hkv))
    return Error(worst + flushed, probable + flushed)


def of_values(e: PairErrors, y: Array) -> Error:
    """What the errors of p do to p^T @ y, summed over the heads of a group; y: (B, H, T, n)."""
    y_abs, p, Hkv = np.abs(y), e.sizes.p, e.sizes.v.shape[1]
    flushed = across(e.p_flushed, y_abs, Hkv)
    worst = PRODUCTS * across(p * (e.worst.p + e.p_stored), y_abs, Hkv)
    random = e.p_random**2 * across(p**2 * e.sizes.of_key, y * y, Hkv)
    return Error(worst + flushed, across(p * e.probable.p, y_abs, Hkv) + np.sqrt(random) + flushed)


def sums_over_keys(e: PairErrors, y: Array) -> Error:
    """What the summation of ds @ y adds."""
    terms = grouped(e.sizes.ds, np.abs(y))
    return Error(e.worst.keys * terms, e.probable.keys * terms)


def sums_over_queries(e: PairErrors, y: Array) -> Error:
    """What the summation of ds^T @ y adds."""
    terms = across(e.sizes.ds, np.abs(y), e.sizes.v.shape[1])
    return Error(e.worst.queries * terms, e.probable.queries * terms)


def sums_of_values(e: PairErrors, y: Array) -> Error:
    """What the summation of p^T @ y adds."""
    terms = across(e.sizes.p, np.abs(y), e.sizes.v.shape[1])
    return Error(e.worst.queries * terms, e.probable.queries * terms)


def stored_heads(products: Array, Hkv: int, r: Roundings) -> Error:
    """What storing each head's share (B, H, S, n) of a group's sum adds."""
    B, H, S, n = products.shape
    shares = np.abs(products).reshape(B, Hkv, H // Hkv, S, n)
    chance = np.sqrt((alike(shares, 2) * shares * shares).sum(2))
    return Error(r.up * shares.sum(2), CHANCE * r.up * chance).plus(np.asarray(r.eta_p * (H // Hkv)))


def bias_bound(problem: Problem, e: PairErrors, r: Roundings) -> Array:
    """The bound of ds summed over the axes that bias is broadcast along; each ds may be stored before."""
    shape = problem.bias.shape
    axes = [axis for axis in range(4) if shape[axis] != problem.shape[axis]]

    def folded(x: Array) -> Array:
        """The summed axes as one, at the end."""
        x = np.moveaxis(x, axes, range(4 - len(axes), 4))
        return x.reshape(*x.shape[: 4 - len(axes)], -1)

    def total(x: Array) -> Array:
        return np.asarray(folded(x).sum(-1))

    p, seen = folded(e.sizes.p), total(1.0 * np.broadcast_to(problem.visible, problem.shape))
    same, terms, flushed = copies(p, r.up / FINE), total(e.sizes.ds), total(e.ds_flushed)
    ties = (same * (p > 0)).sum(-1)
    shares = e.d_shares
    if 3 in axes:
        shares = shares.sum(-1, keepdims=True)  # one error for all keys of a row
    of_D = (shares**2 * e.sizes.of_rows).sum(tuple(axes)).reshape(terms.shape)
    random = (folded(e.ds_random) ** 2 * same).sum(-1) + of_D
    error = Error(
        PRODUCTS * total(e.ds_worst) + r.ua * of_terms(seen, ties, True) * terms,
        total(e.probable.ds) + np.sqrt(random) + r.ua * of_terms(seen, ties, False) * terms,
    )
    return least(error.plus(flushed), r, seen, total(1.0 * e.lost)).reshape(shape)
