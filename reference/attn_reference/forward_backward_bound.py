"""How far a correct module's gradients may lie from the closed form: a bound for every element of each.

q, k, v and dO = dY W are inexact when attention's backward pass gets them, and dq, dk and dv when they go through
the projections; each may be stored. As in `forward_bound`, attention's own errors are seen from where they end: for dx
= dq W its keys are k W, and for dW = dq^T x it is a sum over pairs with k on one side and x on the other.

Symbols as in `backward_bound` and `forward_bound`. N is n_state; rows are the tokens of x or src.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .backward_bound import PRODUCTS, bias_bound, reached, sum_errors
from .bound import error_parts, roundings, unit_roundoff
from .claims import Arithmetic
from .forward import PROJECTIONS, ForwardProblem, merge_heads, split_heads
from .forward_backward import ForwardBackward
from .forward_bound import (
    Error,
    Setting,
    Storing,
    alike,
    head_errors,
    inexact_heads,
    moves,
    projection_error,
    storing,
    sum_error,
)
from .inexact_pairs import (
    Shared,
    inexact_pairs,
    joint_ds,
    joint_p,
    of_inputs,
    seen_by_keys,
    seen_by_queries,
    seen_by_values,
    turned,
    turned_error,
)
from .matrices import finite
from .pair_errors import CHANCE, FINE, PairErrors, copies, in_squares, of_terms
from .problem import Array


@dataclass(frozen=True)
class Side:
    """What a projection gets from attention's backward pass: dY (B, rows, N), a sum over pairs times a factor.

    dy, and pairs, (B, H, rows, n) and scaled: the sizes that they may have with their errors. factor: (B, H, n, D),
    with its error and how many copies of its rows round alike. sums: what summation adds, (B, H, rows,
    D). tokens: (B, rows, N), what the projection was applied to, and weight: with what. seen(y): the error of pairs
    times y in place of the factor. joint(x): that of dY^T x, (H, D, n) for x (B, 1, rows, n), both by errors of pairs.
    """

    dy: Array
    pairs: Error
    factor: Array
    error: Error
    copies: Array
    sums: Error
    tokens: Array
    weight: Array
    seen: Callable[[Array], Error]
    joint: Callable[[Array], Error]


@np.errstate(all="ignore")  # as in `bound`
def forward_backward_bound(
    problem: ForwardProblem, backward: ForwardBackward, dtype: str, arithmetic: Arithmetic = "fused"
) -> dict[str, Array]:
    """The error allowed before the last rounding, for each element of backward.gradients, by the same names.

    dtype: that which is computed in; x, src, dy and the parameters count as exact in it. Each of q, k, v, dO, o, dq, dk
    and dv may be stored, and so may the products that add up to dx. The gradient of a parameter that is held in another
    dtype is one in `dtype` that is cast: it lies within `limit(..., dtype)` and half a unit of its own dtype. inf
    everywhere where one of these arrays may overflow, or errors of the scores leave open which key has the weight.
    """
    r = roundings(dtype, arithmetic)
    at = Setting(dtype, r, storing(dtype, r))
    core, kernel = backward.core, backward.solution.core
    errors = head_errors(problem, kernel, r, at.store)
    W_out, dy, do = problem.weights["out"].T, np.abs(backward.dy), np.abs(merge_heads(core.do))
    of_do = projection_error(W_out, np.zeros(len(W_out)), dy, do, r, at.store)
    errors["do"] = Error(*(split_heads(error, problem.n_head) for error in (of_do.worst, of_do.probable)))
    e, shared = inexact_pairs(backward, errors, at)

    sides = _sides(problem, backward, errors, e, shared, at)
    alone = {"query"} if problem.crossed else set()
    through = {name: of_tokens(side, at, name in alone) for name, side in sides.items()}
    products = {name: merge_heads(core.gradients[name[0]]) @ side.weight for name, side in sides.items()}
    found = of_out(backward, errors, at)
    for name, side in sides.items():
        found |= of_parameters(name, side, at)
    if problem.crossed:
        found |= {"x": through["query"], "xa": added(products, through, ("key", "value"), at)}
    else:
        found["x"] = added(products, through, PROJECTIONS[:3], at)
    bounds = {name: np.minimum(error.worst, error.probable) for name, error in found.items()}
    if "mask" in backward.gradients:
        bounds["mask"] = bias_bound(kernel, e, r, of_inputs(e, shared)).reshape(
            backward.gradients["mask"].shape
        )

    if e.lost.any() or _overflows(backward, errors, products, at.store):
        return {name: np.full(value.shape, np.inf) for name, value in backward.gradients.items()}
    return {name: np.where(bounds[name] == 0, 0.0, bounds[name] + r.eta_0) for name in backward.gradients}


def _overflows(
    backward: ForwardBackward, errors: dict[str, Error], products: dict[str, Array], store: Storing
) -> bool:
    """Whether an array that may be stored may overflow."""
    kernel, core = backward.solution.core, backward.core
    visible = np.broadcast_to(kernel.visible, kernel.shape)
    queries, keys = (np.asarray(visible.any(axis))[..., None] for axis in (-1, -2))
    heads = {"query": (kernel.q, queries), "key": (kernel.k, keys), "value": (kernel.v, keys)}
    heads["do"] = core.do, queries
    stored = [np.where(seen, np.abs(x) + errors[name].worst, 0.0) for name, (x, seen) in heads.items()]
    stored += [PRODUCTS * np.abs(x) for x in (*products.values(), backward.solution.attention.o)]
    stored += [PRODUCTS * np.abs(core.gradients[name]) for name in "qkv"]
    return any(bool((x > store.largest).any()) for x in stored)


def _sides(
    problem: ForwardProblem,
    backward: ForwardBackward,
    errors: dict[str, Error],
    e: PairErrors,
    shared: Shared,
    at: Setting,
) -> dict[str, Side]:
    core, kernel = backward.core, backward.solution.core
    q, k, do, scale = finite(kernel.q), finite(kernel.k), core.do, kernel.scale
    of_p = shared.query_p + shared.key_score + shared.common
    reach = reached(e, of_inputs(e, shared), of_p)
    sums = sum_errors(kernel, core, e, reach, at.dtype, at.r)
    ds, p = reach[0].times(scale), reach[1]

    def side(
        name: str,
        pairs: Error,
        factor: Array,
        of: str,
        copied: Array,
        seen: Callable[[Array], Error],
        joint: Callable[[Array], Error],
    ) -> Side:
        # Where errors cancel in dY W, those of numbers that err already are all that is left.
        error = seen(factor) + sums[name[0]]
        size = np.abs(core.gradients[name[0]]) + np.minimum(error.worst, error.probable)
        tokens, weight = finite(problem.source(name)), problem.weights[name]
        return Side(
            merge_heads(size), pairs, factor, errors[of], copied, sums[name[0]], tokens, weight, seen, joint
        )

    return {
        "query": side(
            "query",
            ds,
            k,
            "key",
            shared.key_copies,
            seen=lambda y: seen_by_queries(e, shared, y).times(scale),
            joint=lambda x: joint_ds(e, shared, k, x).times(scale),
        ),
        "key": side(
            "key",
            turned_error(ds),
            q,
            "query",
            shared.query_copies,
            seen=lambda y: seen_by_keys(e, shared, y).times(scale),
            joint=lambda x: turned_error(joint_ds(e, shared, x, q)).times(scale),
        ),
        "value": side(
            "value",
            turned_error(p),
            do,
            "do",
            shared.query_copies,
            seen=lambda y: seen_by_values(e, shared, y),
            joint=lambda x: turned_error(joint_p(e, shared, x, do)),
        ),
    }


def of_tokens(side: Side, at: Setting, alone: bool) -> Error:
    """The error of dY W, (B, rows, N). alone: it is the whole gradient, and stored once."""
    r, store = at.r, at.store
    H, D = side.sums.worst.shape[1::2]
    W = side.weight.reshape(1, H, D, -1)
    W_abs, many = np.abs(W), np.sqrt(alike(side.dy, -1))
    error = side.seen(side.factor @ W) + Error(
        side.pairs.worst @ (side.error.worst @ W_abs),
        in_squares(side.pairs.probable, np.sqrt(side.copies * (side.error.probable**2 @ (W * W)))),
    )
    chance = many[:, None] * in_squares(side.sums.probable, W)
    error = error + Error(side.sums.worst @ W_abs, np.minimum(chance, side.sums.probable @ W_abs))
    heads = Error(
        error.worst.sum(1), np.minimum(many * np.hypot.reduce(error.probable, axis=1), error.probable.sum(1))
    )

    # dY, stored or not. Numbers that are only moved are rounded once, unless they are tiny and grow.
    W, terms = side.weight, side.dy @ np.abs(side.weight)
    once = alone & moves(W.T, np.zeros(len(W))) & (terms >= store.normal)
    us = np.where(once, 0.0, store.us)
    flushed = np.where((side.dy > 0) & (side.dy < store.normal), store.eta, 0.0) @ np.abs(W)
    chance = CHANCE * us * many * in_squares(side.dy, W)
    stored = Error(us * terms, np.minimum(us * terms, chance))
    return heads + stored.plus(flushed) + sum_error(W.T, np.zeros(len(W)), terms, r)


def added(
    products: dict[str, Array], through: dict[str, Error], names: tuple[str, ...], at: Setting
) -> Error:
    """The error of a sum of such products, each of which may be stored, and so may sums of the first."""
    terms = np.stack([np.abs(products[name]) for name in names]).sum(0)
    stored = 2 * at.store.us * terms  # several standard sizes of so few roundings are more than all of them
    error = Error(stored, stored)
    for name in names:
        error = error + through[name]
    return error.plus(len(names) * (at.r.ua * terms + np.where(terms > 0, at.store.eta, 0.0)))


def of_parameters(name: str, side: Side, at: Setting) -> dict[str, Error]:
    """The errors of dW = dY^T x and db = dY^T 1 of a projection of x."""
    x = np.concatenate([side.tokens, np.ones_like(side.tokens[..., :1])], -1)
    x_abs = np.abs(x)[:, None]
    error = side.joint(x[:, None]) + Error(
        (turned(side.error.worst) @ (turned(side.pairs.worst) @ x_abs)).sum(0),
        np.sqrt(
            (turned(side.error.probable**2) @ ((turned(side.pairs.probable) @ x_abs) ** 2 * side.copies)).sum(
                0
            )
        ),
    )
    by_head = Error(*(e.reshape(-1, x.shape[2]) for e in (error.worst, error.probable)))
    sums = Error(merge_heads(side.sums.worst), merge_heads(side.sums.probable))
    both = by_head + of_product(side.dy, x, sums, at, at.store.us)
    N = side.dy.shape[2]
    return {
        f"{name}.weight": Error(both.worst[:, :N], both.probable[:, :N]),
        f"{name}.bias": Error(both.worst[:, N], both.probable[:, N]),
    }


def of_out(backward: ForwardBackward, errors: dict[str, Error], at: Setting) -> dict[str, Error]:
    """The errors of dW = dy^T o and db = dy^T 1 of the out projection."""
    kernel, attention = backward.solution.core, backward.solution.attention
    parts = error_parts(kernel, attention, at.r, inexact_heads(kernel, errors))
    o, worst, probable = (
        merge_heads(np.where(attention.empty, 0.0, x))
        for x in (attention.o, parts.worst, np.minimum(parts.worst, parts.probable))
    )
    # As o^T dy. What errors of the values do is common to all rows, and so adds without signs.
    of_weight = of_product(np.abs(o), backward.dy, Error(worst, np.zeros_like(o)), at, at.store.us)
    of_weight = of_weight + Error(np.zeros(()), joined(probable, np.abs(backward.dy)))
    dy, exact = np.abs(backward.dy), Error(np.zeros_like(o), np.zeros_like(o))
    of_bias = of_product(dy, np.ones_like(dy[..., :1]), exact, at, 0.0)
    return {
        "out.weight": turned_error(of_weight),
        "out.bias": Error(of_bias.worst[:, 0], of_bias.probable[:, 0]),
    }


def of_product(g: Array, x: Array, error: Error, at: Setting, us: float) -> Error:
    """The error of g^T x over all rows of the batch, (N, n): x (B, rows, n) is exact, g (B, rows, N) errs.

    g: without signs. error: of g, independent in different rows. us: of storing it.
    """
    r, terms, n = at.r, joined(g, np.abs(x)), g.shape[0] * g.shape[1]
    columns = turned(g.reshape(n, g.shape[2]))
    same = copies(columns, unit_roundoff(at.dtype) / FINE)
    ties = (same * (columns > 0)).sum(-1, keepdims=True)
    same = turned(same).reshape(g.shape)
    chance = CHANCE * us * np.sqrt(joined(same * g * g, x * x))
    chance = chance + np.sqrt(joined(same * error.probable**2, x * x))
    tiny = (g > 0) & (g < at.store.normal) & (us > 0)
    flushed = joined(np.where(tiny, at.store.eta, 0.0), np.abs(x)) + 2 * r.ut * terms
    worst = joined(error.worst, np.abs(x)) + PRODUCTS * us * terms
    sums = Error(
        (r.ua * of_terms(n, ties, True) + 2 * r.us) * terms,
        (r.ua * of_terms(n, ties, False) + 1.5 * r.us) * terms,
    )
    return (Error(worst, chance) + sums).plus(flushed)


def joined(g: Array, x: Array) -> Array:
    """g^T x over all rows of the batch; g: (B, rows, N), x: (B, rows, n)."""
    return np.asarray(g.reshape(-1, g.shape[2]).T @ x.reshape(-1, x.shape[2]))
