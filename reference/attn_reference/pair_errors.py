"""What a correct backward pass may do wrong at each pair of a query i and a key j.

Five kinds of errors perturb p_ij and ds_ij = p_ij (dp_ij - D_i); sums over keys and over queries add them up
differently. Errors of the scores, of dp and of long sums are granted pair by pair and add without signs. Roundings of
stored p and ds are independent where they do not fall alike, and add in squares. The error of D is one number for a
row, of which ds_ij takes the share p_ij. What a pass that differentiates a row's maximum adds there falls to one key of
the row. Inputs that are inexact themselves err for all keys of a query, or for all queries of a key, at once.

Symbols as in `bound` and `backward`. terms_ij is sum_c |dO_ic||v_jc|, the size of what dp_ij adds up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backward import Backward, stack
from .bound import (
    BLOCK,
    CERTAIN,
    ROUNDING,
    SAME,
    SYSTEMATIC,
    Roundings,
    half_ulp,
    largest,
    largest_visible,
    log_weight_errors,
    of_contenders,
    row_sum,
    unit_roundoff,
    visible_keys,
)
from .matrices import finite, grouped
from .problem import Array, Problem

CHANCE = ROUNDING / math.sqrt(3)  # a rounding's standard deviation is its largest size over sqrt 3
# Numbers this many times nearer than a unit roundoff round alike; roundings farther apart cancel as well. Where numbers
# lie densely over a third of their spacing, the worst share, the granted square is 27 / (8 FINE) of the true one.
FINE = 4


@dataclass(frozen=True)
class Sizes:
    """The sizes of what errs: all without signs, 0 at hidden keys; (B, H, T, S) or (B, H, T, 1) or as for inputs.

    d_terms: sum_c |dO|(p|v| + |o|). largest_terms: of any key of the row, hidden or not. of_row and of_key: how many
    p of the row, and of the key's queries, round alike. of_channels: how many channels of a row's output do, (B, H, T,
    Dv). of_rows: how many rows' outputs do, the mean over channels by what each adds to D's error. n, ties: keys of a
    row, and ordered pairs of them of equal p, (B, H, T, 1); queries, query_ties: the same for the queries of a key,
    (B, Hkv, S, 1).
    """

    p: Array
    ds: Array
    dp: Array
    D: Array
    do: Array
    o: Array
    v: Array
    terms: Array
    d_terms: Array
    largest_terms: Array
    spread: Array
    of_row: Array
    of_key: Array
    of_rows: Array
    of_channels: Array
    n: Array
    ties: Array
    queries: Array
    query_ties: Array


@dataclass(frozen=True)
class Granted:
    """Errors at one level, the worst or the probable, that add without signs.

    p: (B, H, T, S), relative. ds: (B, H, T, S), what errors of p and dp do to it. top: (B, H, T, S), what one key of a
    row gets besides, 0 at those that cannot be the largest. D: (B, H, T, 1). keys and queries: of a sum over a row's
    keys, (B, H, T, 1), and over a key's queries, (B, Hkv, S, 1), relative to its terms.
    """

    p: Array
    ds: Array
    top: Array
    D: Array
    keys: Array
    queries: Array


@dataclass(frozen=True)
class PairErrors:
    """What may go wrong at each pair, (B, H, T, S), 0 at hidden keys unless they are lost.

    p_stored, relative to p, and ds_stored: the largest that roundings to storage add. p_random, relative, and
    ds_random: several standard sizes of these. p_flushed and ds_flushed: what flushing tiny numbers may cost. lost:
    whether nothing can be said.
    """

    sizes: Sizes
    worst: Granted
    probable: Granted
    p_stored: float
    p_random: float
    ds_stored: Array
    ds_random: Array
    p_flushed: Array
    ds_flushed: Array
    lost: Array

    @property
    def ds_worst(self) -> Array:
        """The largest error of ds before flushing."""
        p, worst_ds = self.sizes.p, self.worst.ds + self.worst.top
        return np.asarray(worst_ds + share(p * (1 + self.worst.p), self.worst.D) + self.ds_stored)

    @property
    def d_shares(self) -> Array:
        """What each ds takes of the probable error of D."""
        return share(self.sizes.p, self.probable.D)


def pair_errors(
    problem: Problem, backward: Backward, dtype: str, r: Roundings, scores: Any = 0.0, dp: Any = 0.0
) -> PairErrors:
    """What may go wrong; scores and dp: the worst that q, k, v and dO add to these, (B, H, T, S), if they are inexact.

    The probable errors are those of exact inputs. dtype: that of arrays which are stored.
    """
    size = sizes(problem, backward, dtype)
    visible = np.broadcast_to(problem.visible, problem.shape)
    delta, independent, common = log_weight_errors(problem, backward.solution, r)
    likely = np.minimum(delta, SYSTEMATIC * (independent + common))
    delta = of_contenders(problem, backward.solution, delta + scores)
    # The largest key differs from the maximum that is subtracted by no more than twice the error of either.
    gap = backward.solution.m - backward.solution.s
    worst = _granted(size, visible, delta, gap <= 2 * delta, dp, dtype, r, True)
    probable = _granted(size, visible, likely, gap <= 2 * (likely + scores), 0.0, dtype, r, False)

    overflow = size.largest_terms + size.d_terms > largest("float64" if dtype == "float64" else "float32")
    if r.up:
        overflow = overflow | (size.ds + worst.ds + worst.top + size.p * worst.D > largest(dtype))
    # Where dp is stored, one that overflows makes NaN of D, and so of its whole row, hidden keys included.
    nan = bool(r.us) & (size.largest_terms + size.D > largest(dtype))
    random = 2 * CHANCE**2 * (r.up**2 + r.us**2) + (ROUNDING * r.eps_exp) ** 2
    return PairErrors(
        sizes=size,
        worst=worst,
        probable=probable,
        p_stored=r.up,
        p_random=math.hypot(CHANCE * r.up, ROUNDING * r.eps_exp),
        # ds may come from a rounded p, and is rounded; where every array is stored, so are dp, dp - D, and k or q
        # times the scale.
        ds_stored=2 * r.up * size.ds + r.us * (size.p * size.dp + 2 * size.ds),
        ds_random=np.sqrt(random * size.ds**2 + (CHANCE * r.us * size.p * size.dp) ** 2),
        p_flushed=2 * r.eta_p * visible,
        # Of p, which multiplies dp - D, and of dp, D, their difference and ds.
        ds_flushed=np.where(visible, r.eta_p * (size.terms + size.d_terms + 4), 0.0),
        lost=visible & (overflow | (largest_visible(problem, delta) >= CERTAIN)) | nan,
    )


def sizes(problem: Problem, backward: Backward, dtype: str) -> Sizes:
    """The sizes of what errs."""
    solution, visible = backward.solution, np.broadcast_to(problem.visible, problem.shape)
    p, o, do, v = (np.abs(x) for x in (solution.p, solution.o, backward.do, finite(problem.v)))
    p, Hkv = np.where(visible, p, 0.0), v.shape[1]
    terms = grouped(do, v.swapaxes(-1, -2))
    seen_terms = np.where(visible, terms, 0.0)
    n = visible_keys(problem)

    # Weights are told apart as finely as they are rounded, outputs as they are stored. The errors of n numbers that
    # round alike add up to a square of at most n times the sum of their squares.
    width = unit_roundoff(dtype) / FINE
    of_channels = copies(o, width)
    by_channel = np.moveaxis(o, -1, 0)
    by_rows = np.moveaxis(
        copies(by_channel.reshape(len(by_channel), -1), width).reshape(by_channel.shape), 0, -1
    )
    of_row = copies(p, width)
    of_key = copies(stack(p, Hkv).swapaxes(-1, -2), width).swapaxes(-1, -2).reshape(p.shape)
    a_query = np.ones((*p.shape[:3], 1))
    return Sizes(
        p=p,
        ds=np.abs(backward.ds),
        dp=np.abs(backward.dp),
        D=np.abs(backward.D),
        do=do,
        o=o,
        v=v,
        terms=seen_terms,
        d_terms=row_sum(p, seen_terms) + (do * o).sum(-1, keepdims=True),
        largest_terms=terms.max(-1, keepdims=True, initial=0.0),
        spread=np.abs(solution.m) + np.log(np.maximum(n, 1)),
        of_row=of_row,
        of_key=of_key,
        of_rows=mean(by_rows, of_channels * (do * half_ulp(o, dtype)) ** 2),
        of_channels=of_channels,
        n=n,
        ties=(of_row * (p > 0)).sum(-1, keepdims=True),
        queries=across(1.0 * visible, a_query, Hkv),
        query_ties=across(of_key * (p > 0), a_query, Hkv),
    )


def _granted(
    size: Sizes,
    visible: Array,
    delta: Array,
    at_maximum: Array,
    inputs: Any,
    dtype: str,
    r: Roundings,
    worst: bool,
) -> Granted:
    """One level, where scores err by up to delta, dp by inputs, and the keys at_maximum may be the largest."""
    p, ds, dp, D = size.p, size.ds, size.dp, size.D
    # Where every array is stored, so are parts of sums; factors of matrix products are rounded to ut.
    partial = (2.0 if worst else SYSTEMATIC / 2) * r.us + r.ut
    keys = r.ua * of_terms(size.n, size.ties, worst)
    queries = r.ua * of_terms(size.queries, size.query_ties, worst)
    Dv = size.do.shape[3]
    channels = r.ua * (Dv + 3 if worst else min(SYSTEMATIC * math.sqrt(Dv + 3), Dv + 3))

    of_p = np.where(visible, weight_reach(p, delta) + keys + r.ua * size.spread, 0.0)
    of_dp = (channels + 2 * r.ut) * size.terms + 2 * r.ua * (dp + D) + inputs

    sums = (keys + channels + 4 * r.ut + 2 * r.us) * size.d_terms
    # D's error by p's is sum p eps (dp - D), since weights add up to 1; by rounded p, which do not, sum p eps dp.
    summed = row_sum(of_p, ds) + sums + (r.ua * size.spread + r.us) * D
    summed = summed + row_sum(p, inputs + np.zeros_like(p))
    stored_o = size.do * half_ulp(size.o + grouped(p * (of_p + r.up), size.v), dtype)
    if worst:
        rounded = (r.up + r.us) * row_sum(p, dp) + stored_o.sum(-1, keepdims=True)
    else:
        weights = math.hypot(CHANCE * r.up, ROUNDING * r.eps_exp, CHANCE * r.us) * np.sqrt(
            row_sum(p * p * size.of_row, dp * dp)
        )
        outputs = CHANCE * np.sqrt((size.of_channels * stored_o**2).sum(-1, keepdims=True))
        rounded = np.hypot(weights, outputs)
    flushed = r.eta_p * size.terms.sum(-1, keepdims=True) + r.eta_0 * size.do.sum(-1, keepdims=True)

    # A pass that differentiates the maximum, too, gives its key what all ds lack to a sum of 0. Errors of the scores
    # make no such lack: a common factor of all e^s changes no output, so their ds add up to 0 whatever they are.
    lacking = sums + r.us * D
    top = of_the_largest(lacking, visible & at_maximum)
    of_ds = of_p * ds + p * (1 + of_p) * of_dp
    return Granted(
        of_p,
        np.where(visible, of_ds, 0.0),
        top,
        summed + rounded + flushed,
        keys + partial,
        queries + partial,
    )


def mean(x: Array, weights: Array) -> Array:
    """The mean of x along the last axis, which is kept; 1 where all weights are 0."""
    total = weights.sum(-1, keepdims=True)
    return np.where(total > 0, (x * weights).sum(-1, keepdims=True) / np.where(total > 0, total, 1.0), 1.0)


def of_the_largest(lacking: Array, at_maximum: Array) -> Array:
    """What a row's largest key gets, (B, H, T, S), at each that may be it."""
    return np.where(at_maximum, lacking, 0.0)


def of_one(x: Array, y: Array) -> Array:
    """The largest x_ij y_jn over the keys j, (B, H, T, n); x: (B, H, T, S), y: (B, Hkv, S, n), both without signs."""
    found = grouped(x, y)  # the only one, in most rows
    g = x.shape[1] // y.shape[1]
    chosen = np.argwhere((x > 0).sum(-1) > 1)
    step = max(1, BLOCK // max(1, y.shape[2] * y.shape[3]))
    for start in range(0, len(chosen), step):
        b, h, i = chosen[start : start + step].T
        found[b, h, i] = (x[b, h, i][..., None] * y[b, h // g]).max(1)
    return found


def share(p: Array, x: Array) -> Array:
    """The product p x, 0 for weights of 0 whatever x is."""
    return np.where(p == 0, 0.0, p * x)


def of_terms(n: Any, ties: Any, worst: bool) -> Array:
    """The error of a sum of n terms and of what is done to it, in unit roundoffs of the sum of their sizes.

    ties: ordered pairs of equal terms, whose roundings are not independent.
    """
    most = 1.07 * np.asarray(n) + 8
    return most if worst else np.minimum(SYSTEMATIC * np.sqrt(np.maximum(n, ties) + 8), most)


def weight_reach(p: Array, delta: Array) -> Array:
    """The largest relative error of each weight p where ln p errs by up to delta, and its normalisation likewise."""
    growth = np.expm1(np.minimum(delta, CERTAIN))
    # e^delta / sum p e^-delta - 1, without cancellation
    lost, left = row_sum(p, growth / (1 + growth)), row_sum(p, 1 / (1 + growth))
    return np.asarray((growth + lost) / np.maximum(left, 1e-30))


def copies(x: Array, width: float) -> Array:
    """How many numbers along the last axis are of one size, to a relative width, for each of them; zeros count once."""
    bits = x.shape[-1].bit_length()
    # Cells lie within 2^34 of 0 then, and fit the integers beside a place below 2^28.
    width = max(width, SAME)
    cell = np.where(x > 0, np.floor(np.log(np.where(x > 0, x, 1.0)) / width), -(2.0**35)).astype(np.int64)
    # Sorting cell and place as one integer brings equals together, several times faster than argsort.
    code = np.sort((cell << bits) | np.arange(x.shape[-1]), axis=-1)
    place = code & ((1 << bits) - 1)
    first = np.ones(x.shape, bool)
    first[..., 1:] = (code[..., 1:] ^ code[..., :-1]) >> bits != 0
    group = np.cumsum(first) - 1
    number = np.empty(x.shape)
    np.put_along_axis(number, place, np.bincount(group)[group].reshape(x.shape).astype(np.float64), -1)
    return np.where(x > 0, number, 1.0)


def in_squares(x: Array, y: Array) -> Array:
    """The root of x^2 @ y^2, also where squares of whole rows of x would vanish."""
    top = np.abs(x).max(-1, keepdims=True, initial=0.0)
    return np.asarray(top * np.sqrt((x / np.where(top > 0, top, 1.0)) ** 2 @ (y * y)))


def across(x: Array, y: Array, Hkv: int) -> Array:
    """The product x^T y of (B, H, T, S) and (B, H, T, n), summed over the heads of a group: (B, Hkv, S, n)."""
    return np.asarray(stack(x, Hkv).swapaxes(-1, -2) @ stack(y, Hkv))
