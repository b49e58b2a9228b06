"""How far a correct implementation may lie from the reference: a bound for every element of the output.

Floating point perturbs the logarithm of each weight, the weights, the sums over them and, last, the output.
The bound adds what these do, row by row, from the row's own quantities: tight for tame rows, wide for
ill-conditioned ones. Worst cases follow N. J. Higham, Accuracy and Stability of Numerical Algorithms (2002),
chapters 3 and 4; square roots of lengths follow N. J. Higham and T. Mary, SIAM J. Sci. Comput. 41 (2019):
independent roundings add like the steps of a random walk.

Symbols, for query i, key j and channel c; sums run over the visible keys j of row i:
    s, m, p, o      score, largest score, weight, output           A       |scale| sum_d |q||k|
    gap             m - s, how far below the maximum               delta   bound on the error of ln p
    n, ties         visible keys; pairs of them of equal weight    mu      mass that rounds as p does, over p
    u               unit roundoff of the input dtype               ua      of accumulators
    up, us, ut      of stored weights, stored scores, operands of matrix products; 0: no such rounding
    eta             what flushing tiny numbers to zero may cost
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np

from .claims import Arithmetic
from .matrices import Solution, finite, grouped
from .problem import Array, Problem

SLACK = 1.1  # correct float16 kernels with subnormal results reach 1.00 of the bound
SYSTEMATIC = 3.0  # standard sizes granted to score and accumulation errors
ROUNDING = 5.0  # standard deviations granted to weights' roundings: of many elements, none may fail by chance
SAME = 2.0**-24  # scores this close count as equal: float32's roundoff, and 1e4 of it still fits an integer
CERTAIN = 60.0  # errors of ln p above this leave open which of the keys within their reach gets the weight
VANISHING = 800.0  # e^-800 is zero in float64: keys so far below the maximum have no weight
BLOCK = 2**20  # scores handled at once: some twenty temporaries of 8 MiB


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: bits of precision, exponents of its smallest and largest binade."""

    precision: int
    least: int
    most: int


FORMATS = {
    "float64": Format(53, -1022, 1023),
    "float32": Format(24, -126, 127),
    "float16": Format(11, -14, 15),
    "bfloat16": Format(8, -126, 127),
}


def unit_roundoff(dtype: str) -> float:
    """The largest relative error of rounding to nearest in the dtype."""
    return math.ldexp(1.0, -_format(dtype).precision)


def largest(dtype: str) -> float:
    """The dtype's largest finite number."""
    format_ = _format(dtype)
    return math.ldexp(2.0 - 2.0 * unit_roundoff(dtype), format_.most)


def smallest_normal(dtype: str) -> float:
    """The dtype's smallest positive number of full precision."""
    return math.ldexp(1.0, _format(dtype).least)


def half_ulp(x: Array, dtype: str) -> Array:
    """Half the spacing of the dtype's numbers at x, subnormals included: the error of rounding x to it."""
    format_ = _format(dtype)
    exponent = np.where(x == 0, format_.least, np.frexp(x)[1] - 1)
    return np.asarray(np.ldexp(0.5, np.maximum(exponent, format_.least) - (format_.precision - 1)))


@np.errstate(all="ignore")
def limit(reference: Array, bound: Array, dtype: str) -> Array:
    """The largest error that passes, last rounding included; inf where the dtype may overflow.

    reference and bound: of one shape; a conforming result lies within bound of the reference before its
    rounding to the dtype.
    """
    reach = np.abs(reference) + bound
    return np.where(reach > largest(dtype), np.inf, SLACK * (bound + half_ulp(reach, dtype)))


@dataclass(frozen=True)
class Roundings:
    """What an arithmetic may round, and how coarsely; symbols as in the module's docstring."""

    ua: float
    eta_p: float
    eta_0: float
    up: float = 0.0
    us: float = 0.0
    ut: float = 0.0
    eps_exp: float = 0.0


def roundings(dtype: str, arithmetic: Arithmetic = "fused") -> Roundings:
    """The roundings that `arithmetic` allows an implementation on inputs of `dtype`.

    precise: scores, weights and sums in the accumulators' precision. fused: weights stored in the dtype of
    the inputs. eager: scores too. tf32: float32 operands of matrix products rounded to 11 bits.
    """
    if arithmetic not in get_args(Arithmetic):
        raise ValueError(f"arithmetic must be one of {get_args(Arithmetic)}, not {arithmetic!r}")
    u = unit_roundoff(dtype)
    if dtype == "float64":
        return Roundings(ua=u, eta_p=2.0**-1022, eta_0=2.0**-1022)
    ua, tiny = unit_roundoff("float32"), 2.0**-126  # float32 and bfloat16 subnormals may be flushed
    if dtype == "float32":
        ut = 2.0**-11 if arithmetic == "tf32" else 0.0
        return Roundings(ua, eta_p=tiny, eta_0=tiny, up=ut, ut=ut)
    keeps_subnormals = dtype == "float16"
    eta_0 = 0.0 if keeps_subnormals else tiny
    if arithmetic == "precise":
        return Roundings(ua, eta_p=tiny, eta_0=eta_0)
    return Roundings(
        ua,
        eta_p=2.0**-25 if keeps_subnormals else tiny,  # half of float16's smallest subnormal
        eta_0=eta_0,
        up=u,
        us=u if arithmetic == "eager" else 0.0,
        eps_exp=2.0**-13,  # a short polynomial for exp hides below the weights' own rounding
    )


@np.errstate(all="ignore")  # NaN inputs are answered by value: the bounds that depend on them are NaN
def bound(problem: Problem, solution: Solution, dtype: str, arithmetic: Arithmetic = "fused") -> Array:
    """The error allowed before the last rounding, for each element of solution.o: (B, H, T, Dv), float64.

    problem: the one that `solution` solves (`take_rows` of it, if rows were chosen). dtype: that of the
    inputs, which count as exact. 0 in rows without a visible key. Only visible keys enter, whatever the
    hidden ones hold. Values above 1e150 overflow their squares and leave the bound NaN.
    """
    r = roundings(dtype, arithmetic)
    B, H, T, S = problem.shape
    if solution.s.shape != (B, H, T, S):
        raise ValueError(f"the solution has scores of shape {solution.s.shape}, the problem {(B, H, T, S)}")
    step = max(1, BLOCK // max(1, B * H * S))
    if step >= T:
        return _bound(problem, solution, r)
    blocks = (np.arange(i, min(i + step, T)) for i in range(0, T, step))
    return np.concatenate([_bound(problem.take_rows(b), solution.take_rows(b), r) for b in blocks], axis=2)


@dataclass(frozen=True)
class Inexact:
    """How far a problem's scores and values may lie from those that an implementation starts from.

    scores, values: worst cases, (B, H, T, S) and (B, H, S, Dv). scores_probable, values_probable: several
    standard sizes, shaped likewise; of errors that may depend on each other across keys in any way (scores),
    or are independent (values). alike: (B, H, 1, 1), how many of a head's values may round alike.
    """

    scores: Array
    scores_probable: Array
    values: Array
    values_probable: Array
    alike: Array


@dataclass(frozen=True)
class Parts:
    """What each step adds to the error of the output, every field (B, H, T, Dv) or broadcast to it.

    scores, sums and weights: worst cases, and standard sizes of the probable. values: rounded operands.
    inputs_probable: what an inexact problem adds to the probable error; scores_worst contains its worst.
    decided: (B, H, T, 1), whether the errors are small enough to add in squares.
    """

    scores_worst: Array
    scores_probable: Array
    sums_worst: Array
    sums_probable: Array
    weights_worst: Array
    weights_probable: Array
    values: Array
    eta: Array
    inputs_probable: Array
    decided: Array

    @property
    def worst(self) -> Array:
        """The largest error."""
        errors = self.scores_worst + self.sums_worst + self.weights_worst + self.values
        return np.asarray(1.01 * errors + self.eta)  # 1.01: products of errors

    @property
    def probable(self) -> Array:
        """The largest error that chance can be expected to produce."""
        systematic = SYSTEMATIC * (self.scores_probable + self.sums_probable)
        weights, inputs = ROUNDING * self.weights_probable, self.inputs_probable
        independent = np.where(self.decided, np.hypot(weights, inputs), weights + inputs)
        return np.asarray(systematic + independent + self.values + self.eta)


def _bound(problem: Problem, solution: Solution, r: Roundings) -> Array:
    parts = error_parts(problem, solution, r)
    return np.where(solution.empty, 0.0, np.minimum(parts.worst, parts.probable))


def error_parts(problem: Problem, solution: Solution, r: Roundings, inexact: Inexact | None = None) -> Parts:
    """The error of the output step by step; inexact: of q, k and v too, which otherwise count as exact."""
    p, o, v = solution.p, solution.o, finite(problem.v)
    v_abs, v_square = np.abs(v), v * v
    n = visible_keys(problem)
    spread = np.abs(solution.m) + np.log(np.maximum(n, 1))
    delta, independent, common = log_weight_errors(problem, solution, r)
    if inexact is not None:
        delta = delta + inexact.scores
    delta = of_contenders(problem, solution, delta)

    # Moments of v under p. With sum p (v - o) = 0 the variance needs no centring: what cancels in it is below
    # 1e-8 |v|, which delta scales down far below the accumulation error.
    p_v = grouped(p, v_abs)
    std = np.sqrt(np.maximum(grouped(p, v_square) - o * o, 0))

    # Scores, worst case. The perturbed output differs from o by sum p (e^eps - 1)(v - o) / sum p e^eps with
    # |eps| <= delta; Cauchy and Schwarz split the sum into two that do not grow with S * Dv.
    factor = weight_error(p, delta)
    # Larger errors may move the weight to any key that they lift to the maximum, also to one of weight 0, whose
    # value neither the deviation nor p |v| has seen: the hull of those values takes the place of both.
    top = largest_visible(problem, delta)
    undecided = top >= CERTAIN
    # A standard deviation never exceeds the hull, which therefore matters for large factors alone.
    reach = solution.m - solution.s <= 2 * top + VANISHING
    decided = (factor <= 0.5) & ~undecided
    cap = hull(problem, solution, reach, rows=~decided[..., 0], inexact=inexact)
    p_v = p_v + np.where(undecided, cap, 0.0)
    moved = factor * std
    inputs_probable = np.zeros_like(o)
    if inexact is not None:
        # Perturbed weights meet perturbed values; Cauchy and Schwarz again, for their product.
        largest_of_values = np.sqrt(grouped(p, inexact.values**2))
        p_values = grouped(p, inexact.values)
        moved = moved + p_values + factor * largest_of_values
        factor_probable = weight_error(p, inexact.scores_probable)
        scattered_values = np.sqrt(inexact.alike * grouped(p * p, inexact.values_probable**2))
        inputs_probable = np.hypot(factor_probable * std, np.minimum(scattered_values, p_values))
        inputs_probable = np.minimum(inputs_probable + factor_probable * largest_of_values, cap)
        inputs_probable = np.where(undecided, cap, inputs_probable)
    scores_worst = np.where(undecided, cap, np.minimum(moved, cap))

    # Scores, probable. Independent errors add in squares, errors common to a row do not. The squares hold to
    # first order only; beyond it no independence is claimed.
    independent, common = np.expm1(np.minimum(independent, CERTAIN)), np.expm1(np.minimum(common, CERTAIN))
    w = p * independent
    w_square = w * w
    rest = 2 * grouped(w_square, v) - o * w_square.sum(-1, keepdims=True)
    squares = np.maximum(grouped(w_square, v_square) - o * rest, 0)  # sum w^2 (v - o)^2
    first_order = w.sum(-1, keepdims=True) <= 0.1
    scattered = np.where(first_order, np.sqrt(squares), root_mean_square(p, independent) * std)
    deviating = np.minimum(scattered + root_mean_square(p, common) * std, cap)
    scores_probable = np.where(undecided, cap, deviating)

    # Equal numbers round alike, so keys of equal weight are not independent of each other.
    p_mu, ties = rounding_alike(solution, max(r.up, SAME))

    # Accumulation of p v and of the normaliser, and the form p = e^(s - lse), whose factor is common to a
    # row. Where scores are stored, so are partial sums over splits of the keys.
    sums = p_v + np.abs(o)
    lse_form = r.ua * spread * np.abs(o)
    sums_worst = r.ua * (1.07 * n + 8) * sums + lse_form + 2 * r.us * p_v
    sums_probable = r.ua * np.sqrt(np.maximum(n, ties) + 8) * sums + lse_form + 0.5 * r.us * p_v

    # Weights rounded to up, values to ut. Values may be equal too; their share is not taken as random.
    weights_worst = r.up * p_v
    weights_probable = np.zeros_like(o)
    if r.up:
        size = math.sqrt(r.up**2 / 3 + r.eps_exp**2)
        weights_probable = np.minimum(size * np.sqrt(grouped(p * p_mu, v_square)), (r.up + r.eps_exp) * p_v)
    values = r.ut * p_v

    visible = np.broadcast_to(problem.visible, problem.shape).astype(np.float64)
    eta = r.eta_p * grouped(visible, v_abs) + r.eta_0
    return Parts(
        scores_worst,
        scores_probable,
        sums_worst,
        sums_probable,
        weights_worst,
        weights_probable,
        values,
        eta,
        inputs_probable,
        decided,
    )


@np.errstate(all="ignore")  # as in `bound`
def lse_bound(problem: Problem, solution: Solution, dtype: str, arithmetic: Arithmetic = "fused") -> Array:
    """The error allowed for each log-sum-exp, (B, H, T), its last rounding included; 0 in empty rows.

    The log-sum-exp has the accumulators' dtype: float32, or float64 for float64 inputs. Arguments as for
    `bound`.
    """
    r = roundings(dtype, arithmetic)
    n = visible_keys(problem)
    delta, _, _ = log_weight_errors(problem, solution, r)
    delta = of_contenders(problem, solution, delta)
    spread = np.abs(solution.m) + np.log(np.maximum(n, 1))
    # Perturbing the scores by |eps| <= delta moves ln sum e^s by at most ln sum p e^delta: upwards plainly,
    # downwards by convexity, -ln sum p e^-delta <= sum p delta <= ln sum p e^delta. Beyond CERTAIN, where that
    # sum may overflow, by the largest delta.
    top = largest_visible(problem, delta)
    scores = np.where(top < CERTAIN, np.log1p(row_sum(solution.p, np.expm1(np.minimum(delta, CERTAIN)))), top)
    # The sum's relative error is absolute after the logarithm. ln, a change of base, the addition of m and
    # the last rounding, of the reference too, act on numbers of at most |m| + ln n.
    rest = r.ua * (1.07 * n + 8 + 6 * spread)
    return np.asarray(np.where(solution.empty, 0.0, scores + rest)[..., 0])


def visible_keys(problem: Problem) -> Array:
    """How many keys each row sees: n, with the first three axes of `visible` and a last axis of 1."""
    visible = np.broadcast_to(problem.visible, (*problem.visible.shape[:3], problem.shape[3]))
    return np.asarray(visible.sum(-1, keepdims=True))


def largest_visible(problem: Problem, x: Array) -> Array:
    """The largest x (B, H, T, S) among a row's visible keys, keeping the axis; 0 in empty rows."""
    return np.asarray(np.where(problem.visible, x, 0.0).max(-1, keepdims=True, initial=0.0))


def log_weight_errors(problem: Problem, solution: Solution, r: Roundings) -> tuple[Array, Array, Array]:
    """The largest error of ln p for each key, delta, and standard sizes of its independent and common parts.

    All (B, H, T, S), meaningful at visible keys. Terms: the
    inner product in any order, and the scale: (D+3) A and |s|; adding the bias: |bias|; subtracting a maximum
    and all later rescalings, whose exponents telescope: gap; exp: 4; the common factor e^-lse and the
    combination of split keys: |m| + ln n, twice.
    """
    D = problem.q.shape[-1]
    A = grouped(np.abs(problem.q), np.abs(finite(problem.k)).swapaxes(-1, -2)) * abs(problem.scale)
    s, bias = np.abs(solution.s), np.abs(problem.bias)
    gap = solution.m - solution.s
    spread = np.abs(solution.m) + np.log(np.maximum(visible_keys(problem), 1))

    independent = r.ua * (math.sqrt(D + 3) * A + 2 * s + bias + gap + 4)
    if r.us:
        independent += r.us * (2 * s + bias + A)
    common = r.ua * (s + 2 * spread)
    if r.ut:
        common += 2 * r.ut * A  # q's rounding is common to all keys, k's to equal keys
    delta = independent + common + (r.ua * (D + 3 - math.sqrt(D + 3)) * A + r.eps_exp)
    return delta, independent, common


@np.errstate(invalid="ignore")  # inf - inf, at hidden keys
def of_contenders(problem: Problem, solution: Solution, delta: Array) -> Array:
    """The errors of ln p, but 0 for keys so far below another that they have no weight, however both may err.

    A mask of -1e9 for padding makes such keys: their scores err by more than `CERTAIN`, and it does not matter.
    """
    gap = solution.m - solution.s
    best = np.where(problem.visible, gap + delta, np.inf).min(-1, keepdims=True, initial=np.inf)
    return np.where(gap - delta > best + VANISHING, 0.0, delta)


def weight_error(p: Array, delta: Array) -> Array:
    """The relative error of the weights p, its root mean square under p, where ln p errs by up to delta."""
    growth = np.expm1(np.minimum(delta, CERTAIN))
    return np.asarray(root_mean_square(p, growth) / np.maximum(row_sum(p, 1 / (1 + growth)), 1e-30))


def hull(
    problem: Problem, solution: Solution, reach: Array, rows: Array, inexact: Inexact | None = None
) -> Array:
    """The largest |v - o| over visible keys in reach, (B, H, T, Dv), in the marked rows; elsewhere inf.

    No convex combination of their values lies farther away. reach: (B, H, T, S), the keys whose scores are near
    enough to the maximum to have any weight. rows: (B, H, T). inexact: the values may also lie elsewhere.
    """
    _, H, _, S = problem.shape
    cap = np.full(solution.o.shape, np.inf)
    chosen = np.argwhere(rows)
    v = problem.v  # NaN of visible keys is in o already
    g = H // v.shape[1]
    visible = problem.visible & reach
    step = max(1, BLOCK // max(1, S * v.shape[3]))
    for start in range(0, len(chosen), step):
        b, h, i = chosen[start : start + step].T
        seen, values = visible[b, h, i][..., None], v[b, h // g]
        error = 0.0 if inexact is None else inexact.values[b, h]
        top = np.where(seen, values + error, -np.inf).max(1)
        bottom = np.where(seen, values - error, np.inf).min(1)
        cap[b, h, i] = np.maximum(top - solution.o[b, h, i], solution.o[b, h, i] - bottom)
    return cap


def rounding_alike(solution: Solution, width: float) -> tuple[Array, Array]:
    """Keys of one row whose ln p lies in the same cell of this width round alike.

    Two results: for each key the weight of all keys of its cell, p mu (B, H, T, S); for each row the number of
    ordered pairs of keys, of weights above 0, in one cell (B, H, T, 1): between n and n^2.
    """
    p = solution.p
    S = p.shape[-1]
    bits = S.bit_length()
    gap = np.minimum(solution.m - solution.s, 1e4)  # beyond it p is 0 anyway
    # Sorting cell and key as one integer brings a cell's keys together, several times faster than argsort.
    code = np.sort((np.floor(gap / width).astype(np.int64) << bits) | np.arange(S), axis=-1)
    key = code & ((1 << bits) - 1)
    first = np.ones(p.shape, bool)  # is it the first key of its cell?
    first[..., 1:] = (code[..., 1:] ^ code[..., :-1]) >> bits != 0
    cell = np.cumsum(first)
    weight = np.take_along_axis(p, key, -1).ravel()
    mass, count = np.bincount(cell, weight), np.bincount(cell, weight > 0)
    pairs = (count[cell] * (weight > 0)).reshape(p.shape)
    p_mu = np.empty_like(p)
    np.put_along_axis(p_mu, key, mass[cell].reshape(p.shape), -1)
    return p_mu, np.asarray(pairs.sum(-1, keepdims=True))


def row_sum(p: Array, x: Array) -> Array:
    """Sum over the keys of p x, keeping the axis."""
    return np.asarray(np.einsum("...j,...j->...", p, x)[..., None])


def root_mean_square(p: Array, x: Array) -> Array:
    """Root of the mean of x^2 under the weights p of each row, keeping the axis."""
    return np.asarray(np.sqrt(np.einsum("...j,...j,...j->...", p, x, x)[..., None]))


def _format(dtype: str) -> Format:
    if dtype not in FORMATS:
        raise ValueError(f"dtype must be one of {tuple(FORMATS)}, not {dtype!r}")
    return FORMATS[dtype]
