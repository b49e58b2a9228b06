"""What inexact q, k, v and dO do to attention's backward pass, and what becomes of all errors in its products.

An error of q or dO is shared by all keys of a query, one of k or v by all queries of a key: it adds without signs
among those that share it, and in squares otherwise. Products are those that a module's gradients are made of: with
keys or queries seen through a projection, and of pairs with k on one side and x on the other.

Symbols as in `pair_errors`; there are as many key heads as heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .backward_bound import PRODUCTS, of_values, over_keys, over_queries
from .bound import row_sum, unit_roundoff, weight_error
from .forward_backward import ForwardBackward
from .forward_bound import Error, Setting, alike, inexact_heads
from .matrices import finite
from .pair_errors import FINE, PairErrors, copies, in_squares, of_one, pair_errors, share
from .problem import Array


@dataclass(frozen=True)
class Shared:
    """Probable errors of p and ds by inexact inputs, several standard sizes; (B, H, T, S) unless said otherwise.

    ds: with its sign. query_p, relative, and query_ds: by errors of the query's q and dO, which its keys share.
    key_score and key_dp: of a score and of dp, by errors of the key's k and v, which its queries share. common and
    key_d: (B, H, T, 1), what the latter do to all weights of a row, relative, and to D. query_copies: (B, H, T, 1),
    key_copies: (B, H, S, 1) and pair_copies: how many of the whole batch round alike.
    """

    ds: Array
    query_p: Array
    query_ds: Array
    key_score: Array
    key_dp: Array
    common: Array
    key_d: Array
    query_copies: Array
    key_copies: Array
    pair_copies: Array


def inexact_pairs(
    backward: ForwardBackward, errors: dict[str, Error], at: Setting
) -> tuple[PairErrors, Shared]:
    """What may go wrong at each pair, where q, k, v and dO have these errors."""
    core, kernel = backward.core, backward.solution.core
    q, k, v, do = (np.abs(finite(x)) for x in (kernel.q, kernel.k, kernel.v, core.do))
    e_q, e_k, e_v, e_do = (errors[name] for name in ("query", "key", "value", "do"))
    dp = e_do.worst @ turned(v + e_v.worst) + do @ turned(e_v.worst)
    e = pair_errors(kernel, core, at.dtype, at.r, inexact_heads(kernel, errors).scores, dp)
    p, ds, visible = e.sizes.p, e.sizes.ds, np.broadcast_to(kernel.visible, kernel.shape)

    def over_channels(x: Array, y: Array) -> Array:
        return np.where(visible, np.sqrt(x @ turned(y)), 0.0)

    scale = kernel.scale
    of_query = scale * over_channels(alike(q, -1) * e_q.probable**2, k * k)
    of_key = scale * over_channels(q * q, alike(k, -1) * e_k.probable**2)
    # To first order; where the errors are larger, the worst is granted instead, and nothing averages out.
    decided = weight_error(p, of_query + of_key) <= 0.5
    growth, key_score = (np.expm1(np.where(decided, x, 0.0)) for x in (of_query, of_key))
    key_dp = np.where(decided, over_channels(do * do, alike(v, -1) * e_v.probable**2), 0.0)

    # The error e of one q moves ln p_ij by scale e . (k_j - p_i k), and ds_ij by scale e . (ds_ij (k_j - p_i k) - p_ij
    # ds_i k); that of one dO moves ds_ij by p_ij e . (v_j - o_i). These are sums over channels, which err
    # independently; twice the squares hold both terms of q's.
    signed_k, lever = finite(kernel.k), np.where(visible, core.dp - core.D, 0.0)
    of_p = centred(alike(q, -1) * e_q.probable**2, signed_k, p @ signed_k)
    by_q = lever**2 * of_p + (alike(q, -1) * (e_q.probable * (core.ds @ signed_k)) ** 2).sum(
        -1, keepdims=True
    )
    by_do = centred(alike(do, -1) * e_do.probable**2, finite(kernel.v), backward.solution.attention.o)
    query_ds = np.where(decided, p * (1 + growth) * np.sqrt(2 * scale**2 * by_q + by_do), 0.0)

    width = unit_roundoff(at.dtype) / FINE
    query_copies = np.maximum(row_copies(q, width), row_copies(do, width))
    key_copies = np.maximum(row_copies(k, width), row_copies(v, width))
    many = turned(key_copies)
    whole = np.moveaxis(p, 1, 0)
    shared = Shared(
        ds=core.ds,
        query_p=np.where(decided & visible, (1 + growth) * scale * np.sqrt(of_p), 0.0),
        query_ds=query_ds,
        key_score=key_score,
        key_dp=key_dp,
        common=np.sqrt(row_sum(many, (p * key_score) ** 2)),
        key_d=np.sqrt(row_sum(many, (key_score * ds) ** 2) + row_sum(many, (p * key_dp) ** 2)),
        query_copies=query_copies,
        key_copies=key_copies,
        pair_copies=np.moveaxis(copies(whole.reshape(len(whole), -1), width).reshape(whole.shape), 0, 1),
    )
    probable = replace(
        e.probable,
        p=np.where(decided, e.probable.p, e.worst.p),
        ds=np.where(decided, e.probable.ds, e.worst.ds),
        top=np.where(decided, e.probable.top, e.worst.top),
        D=np.where(decided, e.probable.D, e.worst.D),
    )
    return replace(e, probable=probable), shared


def centred(weights: Array, x: Array, mean: Array) -> Array:
    """Sum over channels of weights_ic (x_jc - mean_ic)^2; weights and mean (B, H, T, D), x (B, H, S, D).

    What cancels in it is below 1e-8 |x|, which the weights scale down far below the accumulation error.
    """
    rest = 2 * weights * mean @ turned(x) - (weights * mean**2).sum(-1, keepdims=True)
    return np.asarray(np.maximum(weights @ turned(x * x) - rest, 0.0))


def by_keys(e: PairErrors, shared: Shared, y: Array) -> Array:
    """What errors of k and v do to each row of ds @ y, in squares over the keys; y: (B, H, S, n)."""
    p, ds, copied = e.sizes.p, shared.ds, turned(shared.key_copies)
    # The error e of one key's score moves ds @ y by e (ds_j (y_j - p y) - p_j ds y), that of its dp by
    # e p_j (y_j - p y).
    mean, product, scores = p @ y, ds @ y, copied * shared.key_score**2
    own = scores * ds**2 + copied * shared.key_dp**2 * p**2
    squares = own @ (y * y) - 2 * mean * (own @ y) + mean**2 * own.sum(-1, keepdims=True)
    both = scores * p * ds
    squares = squares - 2 * product * (both @ y - mean * both.sum(-1, keepdims=True))
    squares = squares + product**2 * (scores * p**2).sum(-1, keepdims=True)
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def seen_by_queries(e: PairErrors, shared: Shared, y: Array) -> Error:
    """What the errors of ds do to ds @ y; y: (B, H, S, n)."""
    probable = shared.query_ds @ np.abs(y) + by_keys(e, shared, y)
    return over_keys(e, y) + Error(np.zeros(()), probable)


def seen_by_keys(e: PairErrors, shared: Shared, y: Array) -> Error:
    """What the errors of ds do to ds^T @ y; y: (B, H, T, n)."""
    rows = in_squares(turned(shared.query_ds), np.sqrt(shared.query_copies) * y)
    keys = turned(of_keys(e, shared)) @ np.abs(y)
    return over_queries(e, y) + Error(np.zeros(()), rows + keys)


def seen_by_values(e: PairErrors, shared: Shared, y: Array) -> Error:
    """What the errors of p do to p^T @ y; y: (B, H, T, n)."""
    p = e.sizes.p
    rows = in_squares(turned(p * shared.query_p), np.sqrt(shared.query_copies) * y)
    keys = turned(p * (shared.key_score + shared.common))
    return of_values(e, y) + Error(np.zeros(()), rows + keys @ np.abs(y))


def joint_ds(e: PairErrors, shared: Shared, z: Array, y: Array) -> Error:
    """What the errors of ds do to z^T ds^T y, summed over the batch: (H, a, b); z: (B, H, S, a), y: (B, H, T, b)."""
    z_abs, y_abs, p_z = np.abs(z), np.abs(y), p_products(e, z)
    flushed = joint(e.ds_flushed, z_abs, y_abs)
    worst = PRODUCTS * joint(e.ds_worst, z_abs, y_abs)
    of_row = (e.probable.D * p_z) ** 2 + of_one(e.probable.top, z_abs) ** 2
    rows = (shared.query_ds @ z_abs) ** 2 * shared.query_copies + of_row * e.sizes.of_rows
    squares = joint(e.ds_random**2 * shared.pair_copies, z * z, y * y) + (turned(rows) @ (y * y)).sum(0)
    keys = (turned(by_keys(e, shared, z)) @ y_abs).sum(0)
    probable = joint(e.probable.ds, z_abs, y_abs) + keys + np.sqrt(squares)
    return Error(worst + flushed, probable + flushed)


def joint_p(e: PairErrors, shared: Shared, z: Array, y: Array) -> Error:
    """What the errors of p do to z^T p^T y, as in `joint_ds`."""
    z_abs, y_abs, p = np.abs(z), np.abs(y), e.sizes.p
    flushed = joint(e.p_flushed, z_abs, y_abs)
    worst = PRODUCTS * joint(p * (e.worst.p + e.p_stored), z_abs, y_abs)
    rows = ((p * shared.query_p) @ z_abs) ** 2 * shared.query_copies
    squares = e.p_random**2 * joint(p * p * shared.pair_copies, z * z, y * y)
    squares = squares + (turned(rows) @ (y * y)).sum(0)
    # The error e of one key's score moves p z by e p_j (z_j - p z).
    mean, own = p @ z, turned(shared.key_copies) * (shared.key_score * p) ** 2
    keys = own @ (z * z) - 2 * mean * (own @ z) + mean**2 * own.sum(-1, keepdims=True)
    moved = (turned(np.sqrt(np.maximum(keys, 0))) @ y_abs).sum(0)
    probable = joint(p * e.probable.p, z_abs, y_abs) + moved + np.sqrt(squares)
    return Error(worst + flushed, probable + flushed)


def of_keys(e: PairErrors, shared: Shared) -> Array:
    """What errors of k and v do to each ds: the key's own, and those of all keys through p and D."""
    own = shared.key_score * e.sizes.ds + e.sizes.p * (1 + shared.key_score) * shared.key_dp
    return np.asarray(own + share(e.sizes.p, shared.key_d) + shared.common * e.sizes.ds)


def of_inputs(e: PairErrors, shared: Shared) -> Array:
    """What errors of q, k, v and dO do to each ds."""
    return shared.query_ds + of_keys(e, shared)


def joint(pairs: Array, z: Array, y: Array) -> Array:
    """z^T pairs^T y, summed over the batch."""
    return np.asarray((turned(z) @ (turned(pairs) @ y)).sum(0))


def p_products(e: PairErrors, y: Array) -> Array:
    """What one error of D for a whole row is multiplied by in ds @ y; where it cancels, up to the errors of p."""
    return np.asarray(np.abs(e.sizes.p @ y) + (e.sizes.p * (e.probable.p + e.p_stored)) @ np.abs(y))


def row_copies(x: Array, width: float) -> Array:
    """How many tokens of the batch have a number like one of this token's in its place, (B, H, n, 1)."""
    B, H, n, D = x.shape
    by_place = x.transpose(1, 3, 0, 2)
    most = copies(by_place.reshape(H, D, B * n), width).max(1)
    return np.asarray(most.reshape(H, B, n).transpose(1, 0, 2)[..., None])


def turned(x: Array) -> Array:
    """The last two axes exchanged."""
    return x.swapaxes(-1, -2)


def turned_error(error: Error) -> Error:
    """That of the array with its last two axes exchanged."""
    return Error(turned(error.worst), turned(error.probable))
