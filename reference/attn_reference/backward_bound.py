"""How far a correct backward pass may lie from the closed form: a bound for every element of every gradient.

`pair_errors` says what may go wrong at each pair of a query and a key; here sums over keys and over queries add it
up. A backward pass may keep p or recompute it from the scores and the log-sum-exp; it may take D from the output,
stored or not, or from the p it kept and dp; it may store p and ds before they are multiplied, where the arithmetic
stores weights; and it may sum in any order, the heads of a group one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .backward import Backward, stack
from .bound import Roundings, largest, roundings
from .claims import Arithmetic
from .forward_bound import Error, alike
from .matrices import finite, grouped
from .pair_errors import (
    CHANCE,
    FINE,
    Granted,
    PairErrors,
    across,
    copies,
    in_squares,
    of_one,
    of_terms,
    pair_errors,
)
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
    In float64 squares may vanish or overflow: where dO or its products with q, k and v are not 0 and lie outside of
    1e-150 to 1e150, the bound may be too small, or NaN.
    """
    r = roundings(dtype, arithmetic)
    e = pair_errors(problem, backward, dtype, r)
    q, k, do, scale = finite(problem.q), finite(problem.k), backward.do, abs(problem.scale)
    Hkv, seen, lost = k.shape[1], np.broadcast_to(problem.visible, problem.shape), e.lost
    a_query, a_key = np.ones((*q.shape[:3], 1)), np.ones((*k.shape[:3], 1))
    sums = sum_errors(problem, backward, e, reached(e), dtype, r)
    dq = over_keys(e, k).times(scale) + sums["q"]
    dk = over_queries(e, q).times(scale) + sums["k"]
    dv = of_values(e, do) + sums["v"]
    bounds = {
        "q": least(dq, r, grouped(seen, a_key), grouped(lost, a_key)),
        "k": least(dk, r, across(seen, a_query, Hkv), across(lost, a_query, Hkv)),
        "v": least(dv, r, across(seen, a_query, Hkv), across(lost, a_query, Hkv)),
        "bias": bias_bound(problem, e, r, np.zeros(())),
    }
    for name in ("q", "k") if r.us else ():
        reach = np.abs(backward.gradients[name]) + bounds[name]  # stored before the scale makes it smaller
        bounds[name] = np.where(reach > min(1.0, scale) * largest(dtype), np.inf, bounds[name])
    return bounds


def reached(e: PairErrors, of_ds: Any = 0.0, of_p: Any = 0.0) -> tuple[Error, Error]:
    """The sizes that ds and p may have with their errors, the worst and the probable.

    of_ds, and of_p, relative: what inexact inputs add to the probable.
    """
    ds, p = e.sizes.ds, e.sizes.p
    likely = e.probable.ds + e.probable.top + e.ds_random + e.d_shares + of_ds
    return (
        Error(ds + e.ds_worst, ds + likely),
        Error(p * (1 + e.worst.p + e.p_stored), p * (1 + e.probable.p + e.p_random + of_p)),
    )


def sum_errors(
    problem: Problem,
    backward: Backward,
    e: PairErrors,
    reach: tuple[Error, Error],
    dtype: str,
    r: Roundings,
) -> dict[str, Error]:
    """What the summation of dq, dk and dv adds, and what becomes of the scale and of a group's heads on the way.

    reach: of ds and p, as `reached` says: it is their sizes with errors that are summed.
    """
    q, k, do, scale = finite(problem.q), finite(problem.k), backward.do, abs(problem.scale)
    ds, p, Hkv = e.sizes.ds, e.sizes.p, k.shape[1]
    visible = np.broadcast_to(problem.visible, problem.shape)

    def summed(level: Granted, of_ds: Array, of_p: Array) -> dict[str, Array]:
        return {
            "q": level.keys * scale * grouped(of_ds, np.abs(k)),
            "k": level.queries * scale * across(of_ds, np.abs(q), Hkv),
            "v": level.queries * across(of_p, np.abs(do), Hkv),
        }

    worst = summed(e.worst, reach[0].worst, reach[1].worst)
    probable = summed(e.probable, reach[0].probable, reach[1].probable)
    sums = {name: Error(worst[name], probable[name]) for name in worst}
    # The scale may be applied to ds before that is stored.
    flushed = {"q": grouped(visible, np.abs(k)), "k": across(visible, np.abs(q), Hkv)}
    for name, size in flushed.items():
        sums[name] = sums[name].plus(r.eta_p * size)
    if r.us:
        # Factors that are scaled beforehand are stored, and so are results that are scaled in the end.
        a_query, a_key = np.ones_like(q[..., :1]), np.ones_like(k[..., :1])
        seen = {"q": grouped(visible, a_key) > 0, "k": across(visible, a_query, Hkv) > 0}
        for name, size in (("q", grouped(ds, a_key)), ("k", across(ds, a_query, Hkv))):
            stored = r.us * np.abs(backward.gradients[name])
            sums[name] = sums[name].plus(r.eta_p * max(1.0, scale) * (seen[name] + size) + stored)
    if r.up and Hkv < q.shape[1]:
        shares = {"k": scale * backward.ds.swapaxes(-1, -2) @ q, "v": p.swapaxes(-1, -2) @ do}
        for name, share in shares.items():
            sums[name] = sums[name] + stored_heads(share, Hkv, dtype, r)
    return sums


def least(error: Error, r: Roundings, seen: Array, lost: Array) -> Array:
    """The smaller of worst and probable; inf where a pair is lost, 0 where none is seen."""
    bound = np.minimum(error.worst, error.probable) + r.eta_0
    return np.where(lost > 0, np.inf, np.where(seen > 0, bound, 0.0))


def over_keys(e: PairErrors, y: Array) -> Error:
    """What the errors of ds do to ds @ y; y: (B, Hkv, S, n)."""
    y_abs, p = np.abs(y), e.sizes.p
    flushed = grouped(e.ds_flushed, y_abs)
    worst = PRODUCTS * grouped(e.ds_worst, y_abs)
    random = grouped(e.ds_random**2 * e.sizes.of_row, y * y)
    # One error of D for the whole row; where its effects cancel, they do so up to the errors of p.
    share = np.abs(grouped(p, y)) + grouped(p * (e.probable.p + e.p_stored), y_abs)
    probable = grouped(e.probable.ds, y_abs) + np.sqrt(
        random + (e.probable.D * share) ** 2 + of_one(e.probable.top, y_abs) ** 2
    )
    return Error(worst + flushed, probable + flushed)


def over_queries(e: PairErrors, y: Array) -> Error:
    """What the errors of ds do to ds^T @ y, summed over the heads of a group; y: (B, H, T, n)."""
    y_abs, Hkv = np.abs(y), e.sizes.v.shape[1]
    flushed = across(e.ds_flushed, y_abs, Hkv)
    worst = PRODUCTS * across(e.ds_worst, y_abs, Hkv)
    of_row = np.hypot(e.d_shares, e.probable.top)
    random = np.hypot(e.ds_random * np.sqrt(e.sizes.of_key), of_row * np.sqrt(e.sizes.of_rows))
    probable = across(e.probable.ds, y_abs, Hkv) + in_squares(
        stack(random, Hkv).swapaxes(-1, -2), stack(y, Hkv)
    )
    return Error(worst + flushed, probable + flushed)


def of_values(e: PairErrors, y: Array) -> Error:
    """What the errors of p do to p^T @ y, summed over the heads of a group; y: (B, H, T, n)."""
    y_abs, p, Hkv = np.abs(y), e.sizes.p, e.sizes.v.shape[1]
    flushed = across(e.p_flushed, y_abs, Hkv)
    worst = PRODUCTS * across(p * (e.worst.p + e.p_stored), y_abs, Hkv)
    random = stack(e.p_random * p * np.sqrt(e.sizes.of_key), Hkv).swapaxes(-1, -2)
    probable = across(p * e.probable.p, y_abs, Hkv) + in_squares(random, stack(y, Hkv))
    return Error(worst + flushed, probable + flushed)


def stored_heads(products: Array, Hkv: int, dtype: str, r: Roundings) -> Error:
    """What storing each head's share (B, H, S, n) of a group's sum adds; inf where one may overflow."""
    B, H, S, n = products.shape
    shares = np.abs(products).reshape(B, Hkv, H // Hkv, S, n)
    chance = np.sqrt((alike(shares, 2) * shares * shares).sum(2))
    lost = np.where(PRODUCTS * shares.max(2) > largest(dtype), np.inf, r.eta_p * (H // Hkv))
    return Error(r.up * shares.sum(2), CHANCE * r.up * chance).plus(lost)


def bias_bound(problem: Problem, e: PairErrors, r: Roundings, inputs: Array) -> Array:
    """The bound of ds summed over the axes that bias is broadcast along; each ds may be stored before.

    inputs: what inexact inputs add to the probable error of ds, (B, H, T, S) or ().
    """
    shape = problem.bias.shape
    axes = [axis for axis in range(4) if shape[axis] != problem.shape[axis]]

    def folded(x: Array) -> Array:
        """The summed axes as one, at the end."""
        x = np.moveaxis(x, axes, range(4 - len(axes), 4))
        return x.reshape(*x.shape[: 4 - len(axes)], -1)

    def total(x: Array) -> Array:
        return np.asarray(folded(x).sum(-1))

    p, seen = folded(e.sizes.p), total(np.broadcast_to(problem.visible, problem.shape))
    same, terms, flushed = copies(p, r.up / FINE), total(e.sizes.ds), total(e.ds_flushed)
    ties = (same * (p > 0)).sum(-1)
    shares, top = e.d_shares, e.probable.top
    if 3 in axes:
        # One error for all keys of a row.
        shares, top = shares.sum(-1, keepdims=True), top.max(-1, keepdims=True, initial=0.0)
    of_D = ((shares**2 + top**2) * e.sizes.of_rows).sum(tuple(axes)).reshape(terms.shape)
    random = (folded(e.ds_random) ** 2 * same).sum(-1) + of_D
    error = Error(
        PRODUCTS * total(e.ds_worst) + r.ua * of_terms(seen, ties, True) * terms,
        total(e.probable.ds + inputs) + np.sqrt(random) + r.ua * of_terms(seen, ties, False) * terms,
    )
    return least(error.plus(flushed), r, seen, total(e.lost)).reshape(shape)
