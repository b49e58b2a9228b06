"""The bounds of results once more, one row at a time: what `bound` and `forward_bound` must come to."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np

from attn_reference import lower_forward

UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
LEAST = {"float64": -1022, "float32": -126, "float16": -14, "bfloat16": -126}
LARGEST = {
    "float64": float(np.finfo(np.float64).max),
    "float32": float(np.finfo(np.float32).max),
    "float16": 65504.0,
    "bfloat16": 2.0**128 - 2.0**120,
}
LOW = ("float16", "bfloat16")
ARITHMETICS = [
    ("float64", "fused"),
    ("float32", "fused"),
    ("float32", "tf32"),
    *((dtype, arithmetic) for dtype in LOW for arithmetic in ("precise", "fused", "eager")),
]
CHANCE = 5 / math.sqrt(3)  # five standard deviations of a rounding, of its largest size


def sizes_of(dtype, arithmetic):
    """What may be rounded, and how coarsely; last what storing between projections and attention costs."""
    low = dtype in LOW
    ut = 2.0**-11 if (dtype, arithmetic) == ("float32", "tf32") else 0.0
    stored = low and arithmetic != "precise"
    tiny = 2.0**-1022 if dtype == "float64" else 2.0**-126
    eta_p = 2.0**-25 if dtype == "float16" and stored else tiny
    return SimpleNamespace(
        u=UNIT[dtype],
        ua=2.0**-53 if dtype == "float64" else 2.0**-24,
        ut=ut,
        up=UNIT[dtype] if stored else ut,
        us=UNIT[dtype] if low and arithmetic == "eager" else 0.0,
        eps=2.0**-13 if stored else 0.0,
        eta_p=eta_p,
        eta_0=0.0 if dtype == "float16" else tiny,
        width=max(UNIT[dtype] / 4, 2.0**-24),
        store=UNIT[dtype] if low else 0.0,
        store_eta=2.0**-25 if dtype == "float16" else eta_p,
        normal=2.0 ** LEAST[dtype],
        largest=LARGEST[dtype],
    )


def log_weights(row, r):
    """The error of ln p of a row's visible keys: the largest, and standard sizes of its own and common parts.

    row: s, bias and A of these keys, m, and D.
    """
    n, inner = len(row.s), row.D + 3
    s, gap, spread = np.abs(row.s), row.m - row.s, abs(row.m) + math.log(n)
    own = r.ua * (math.sqrt(inner) * row.A + 2 * s + row.bias + gap + 4)
    own = own + r.us * (2 * s + row.bias + row.A)
    common = r.ua * (s + 2 * spread) + 2 * r.ut * row.A
    return own + common + r.ua * (inner - math.sqrt(inner)) * row.A + r.eps, own, common


def weight_error(p, delta):
    """Root mean square under p of the relative error of weights."""
    delta = np.minimum(delta, 60)
    return math.sqrt(p @ np.expm1(delta) ** 2) / max(p @ np.exp(-delta), 1e-30)


def without_hopeless(delta, gap):
    """The errors of ln p of a row's visible keys; 0 for those 800 below another though one errs up and one down."""
    return np.where(gap - delta > (gap + delta).min() + 800, 0, delta)


def row_parts(row, v, o, r, inexact=None):
    """The errors of one row's output o (n,), step by step; v (keys, n) of its visible keys.

    inexact: scores, scores_probable (keys,), values, values_probable (keys, n) and alike, a number.
    """
    p, n, gap = row.p, len(row.p), row.m - row.s
    spread = abs(row.m) + math.log(n)
    delta, own, common = log_weights(row, r)
    if inexact is not None:
        delta = delta + inexact.scores
    delta = without_hopeless(delta, gap)
    p_v, std = p @ np.abs(v), np.sqrt(p @ (v - o) ** 2)
    factor, top = weight_error(p, delta), delta.max()
    undecided = top >= 60
    decided = factor <= 0.5 and not undecided
    cap = np.full(o.shape, np.inf)
    if not decided:
        near = gap <= 2 * top + 800
        err = 0.0 if inexact is None else inexact.values[near]
        cap = np.maximum((v[near] + err).max(0) - o, o - (v[near] - err).min(0))
    if undecided:
        p_v = p_v + cap
    moved, inputs, likely = factor * std, np.zeros(o.shape), 0.0
    if inexact is not None:
        root, mean = np.sqrt(p @ inexact.values**2), p @ inexact.values
        moved = moved + mean + factor * root
        likely = weight_error(p, inexact.scores_probable)
        scattered = np.sqrt(inexact.alike * (p**2 @ inexact.values_probable**2))
        inputs = np.sqrt((likely * std) ** 2 + np.minimum(scattered, mean) ** 2) + likely * root
        inputs = cap if undecided else np.minimum(inputs, cap)

    own, common = np.expm1(np.minimum(own, 60)), np.expm1(np.minimum(common, 60))
    squares = np.sqrt((p * own) ** 2 @ (v - o) ** 2)
    scattered = squares if p @ own <= 0.1 else math.sqrt(p @ own**2) * std
    deviating = np.minimum(scattered + math.sqrt(p @ common**2) * std, cap)
    cells = np.floor(gap / max(r.up, 2.0**-24))
    same = 1.0 * (cells[:, None] == cells)
    ties = ((same @ (p > 0)) * (p > 0)).sum()
    sums, form = p_v + np.abs(o), r.ua * spread * np.abs(o)
    weights = np.zeros(o.shape)
    if r.up:
        weights = math.sqrt(r.up**2 / 3 + r.eps**2) * np.sqrt((p * (same @ p)) @ v**2)
        weights = np.minimum(weights, (r.up + r.eps) * p_v)
    found = SimpleNamespace(
        decided=decided,
        sums_worst=r.ua * (1.07 * n + 8) * sums + form + 2 * r.us * p_v,
        sums_probable=r.ua * math.sqrt(max(n, ties) + 8) * sums + form + 0.5 * r.us * p_v,
        values=r.ut * p_v,
        eta=r.eta_p * np.abs(v).sum(0) + r.eta_0,
        # A variance taken as a difference, as the code does it, errs by some roundings of its terms.
        blur=8 * min(max(factor, likely), 0.5) * np.sqrt(n * 2.0**-50 * (p @ v**2)),
    )
    scores_worst = cap if undecided else np.minimum(moved, cap)
    scores_likely = cap if undecided else deviating
    found.worst = 1.01 * (scores_worst + found.sums_worst + r.up * p_v + found.values) + found.eta
    chance = np.sqrt((5 * weights) ** 2 + inputs**2) if decided else 5 * weights + inputs
    found.probable = 3 * (scores_likely + found.sums_probable) + chance + found.values + found.eta
    return found


def moving(weight, bias):
    """Which outputs of a projection are one input times a power of two, or nothing."""
    found = []
    for row, added in zip(weight, bias, strict=True):
        used = np.abs(row[row != 0])
        found.append(added == 0 and (len(used) == 0 or (len(used) == 1 and math.log2(used[0]).is_integer())))
    return np.array(found)


def of_sum(weight, bias, terms, r):
    """The error of x W^T + b, worst and likely; terms |x| |W|^T."""
    N, moved = weight.shape[1], moving(weight, bias)
    total = r.ua * (terms + np.abs(bias))
    alone = moved | (terms == 0)
    factors = np.where(moved, 1, 2) * r.ut * terms
    worst = np.where(alone, 0, (N + 3) * total + 3 * r.us * terms)
    likely = np.where(alone, 0, 3 * (math.sqrt(N + 3) * total + 0.5 * r.us * terms))
    return worst + factors, likely + factors


def of_projection(weight, bias, source, result, r):
    """The error of a projection's stored result, worst and likely."""
    source, result = np.abs(source), np.abs(result)
    terms = source @ np.abs(weight).T
    worst, likely = of_sum(weight, bias, terms, r)
    us = np.where(moving(weight, bias), 0, r.store)
    flushed = np.where((result < r.normal) & (terms > 0), r.store_eta, 0)
    return worst + us * (result + worst) + flushed, likely + CHANCE * us * result + flushed


def most_alike(x):
    """How many of some numbers are equal but for their sign, to float32's roundoff from one to the next."""
    x, most, run = np.sort(np.abs(np.ravel(x))), 1, 1
    for before, after in pairwise(x):
        run = run + 1 if after > 0 and after - before <= 2.0**-24 * before else 1
        most = max(most, run)
    return most


def heads_of(x, H):
    """(B, T, N) to (B, H, T, D)."""
    return np.stack(np.split(x, H, axis=2), axis=1)


def projected(problem, core, r):
    """The errors of q, k and v, worst and likely: (B, H, T or S, D)."""
    found = {}
    for name, heads in (("query", core.q), ("key", core.k), ("value", core.v)):
        result = np.concatenate(list(np.moveaxis(heads, 1, 0)), axis=2)
        both = of_projection(problem.weights[name], problem.biases[name], problem.source(name), result, r)
        found[name] = [heads_of(one, problem.n_head) for one in both]
    return found


def row_of(core, solution, b, h, i):
    """What `log_weights` and `row_parts` want of a row, and which keys it sees."""
    shape = core.shape
    see = np.broadcast_to(core.visible, shape)[b, h, i]
    k, q = core.k[b, h * core.k.shape[1] // shape[1]][see], core.q[b, h, i]
    row = SimpleNamespace(
        s=solution.s[b, h, i][see],
        p=solution.p[b, h, i][see],
        m=solution.m[b, h, i, 0],
        bias=np.abs(np.broadcast_to(core.bias, shape)[b, h, i][see]),
        A=abs(core.scale) * (np.abs(k) @ np.abs(q)),
        D=len(q),
    )
    return row, see


def inexact_row(core, errors, b, h, i, see):
    """What the errors of q, k and v, worst and likely, do to the keys that a row sees: as `row_parts` wants it."""
    (e_q, likely_q), (e_k, likely_k), (e_v, likely_v) = (
        (one[b, h, i], other[b, h, i]) if name == "query" else (one[b, h][see], other[b, h][see])
        for name, (one, other) in errors.items()
        if name in ("query", "key", "value")
    )
    q, k = np.abs(core.q[b, h, i]), np.abs(core.k[b, h][see])
    of_k = np.array([most_alike(one) for one in k])
    squares = most_alike(q) * (k**2 @ likely_q**2) + of_k * (likely_k**2 @ q**2)
    worst = abs(core.scale) * ((k + e_k) @ e_q + e_k @ q)
    seen = np.broadcast_to(core.visible, core.shape)[b].any((0, 1))  # by any query of any head
    return SimpleNamespace(
        scores=worst,
        scores_probable=np.minimum(abs(core.scale) * np.sqrt(squares), worst),
        values=e_v,
        values_probable=likely_v,
        alike=most_alike(core.v[b, h][seen]),
    )


def forward_formula(problem, solution, dtype, arithmetic):
    """What `forward_bound` must come to, (B, T, N), and how far its variances blur it."""
    r, core, attention, H = sizes_of(dtype, arithmetic), solution.core, solution.attention, problem.n_head
    errors = projected(problem, core, r)
    B, _, T, _ = core.shape
    W_out, b_out = problem.weights["out"], problem.biases["out"]
    W = np.stack(np.split(W_out.T, H))  # (H, D, N)
    moved, N = moving(W_out, b_out), W_out.shape[0]
    result, blur = np.zeros((B, T, N)), np.zeros((B, T, N))
    for b, i in np.ndindex(B, T):
        heads, wide = [], np.zeros((H, N))
        o = np.abs(attention.o[b, :, i])
        many = math.sqrt(most_alike(o))
        reach, decided, lost = o.copy(), True, False
        for h in range(H):
            row, see = row_of(core, attention, b, h, i)
            if not see.any():
                heads.append((np.zeros(N), np.zeros(N)))
                continue
            stored = (
                (core.q[b, h, i], errors["query"][0][b, h, i]),
                *(
                    (x[b, h][see], errors[name][0][b, h][see])
                    for name, x in (("key", core.k), ("value", core.v))
                ),
            )
            lost = lost or any((np.abs(x) + worst > r.largest).any() for x, worst in stored)
            v, A, inexact = core.v[b, h][see], np.abs(W[h]), inexact_row(core, errors, b, h, i, see)
            own = row_parts(row, v, attention.o[b, h, i], r, inexact)
            seen_from_y = SimpleNamespace(**vars(inexact))
            seen_from_y.values = inexact.values @ A
            seen_from_y.values_probable = np.sqrt(inexact.values_probable**2 @ W[h] ** 2)
            outer = row_parts(row, v @ W[h], attention.o[b, h, i] @ W[h], r, seen_from_y)
            decided = decided and outer.decided
            reach[h] += own.worst
            rest = (1.01 * (own.sums_worst + own.values) + own.eta) @ A
            squares = many * np.sqrt(own.sums_probable**2 @ W[h] ** 2)
            rest_likely = (own.values + own.eta) @ A + 3 * np.minimum(squares, own.sums_probable @ A)
            worst = outer.worst + np.where(moved, 0, rest)
            blur[b, i] += many * outer.blur + r.store * (own.blur @ A)
            heads.append((worst, np.minimum(worst, outer.probable + np.where(moved, 0, rest_likely))))
            wide[h] = attention.o[b, h, i] @ W[h]
        worst, likely = np.sum(heads, axis=0)
        if decided:
            likely = np.minimum(many * np.sqrt(sum(one**2 for _, one in heads)), likely)
        whole = moved & (np.abs(wide.sum(0) + b_out) >= r.normal)
        us = np.where(whole, 0, r.store)
        stored = us * sum(reach[h] @ np.abs(W[h]) for h in range(H))
        stored_likely = CHANCE * us * many * np.sqrt(sum(o[h] ** 2 @ W[h] ** 2 for h in range(H)))
        stored_likely = np.minimum(stored_likely, stored)
        tiny = np.where((o > 0) & (o < r.normal), r.store_eta, 0)
        flushed = sum(tiny[h] @ np.abs(W[h]) for h in range(H))
        sum_worst, sum_likely = of_sum(W_out, b_out, sum(o[h] @ np.abs(W[h]) for h in range(H)), r)
        likely = np.hypot(likely, stored_likely) if decided else likely + stored_likely
        result[b, i] = np.minimum(worst + stored + 1.01 * sum_worst, likely + sum_likely) + flushed
        if lost or (reach > r.largest).any():
            result[b, i] = np.inf
    return result, blur


def drawn_forward(seed):
    """A small call, float64, for any dtype: weights that only move numbers, ties, masks and sharp rows in turn."""
    rng = np.random.default_rng(seed)
    B, H, D, T, S = (int(n) for n in rng.integers(1, (3, 4, 4, 5, 6)))
    N = H * D
    x, src = np.round(16 * rng.standard_normal((B, T, N))) / 16, rng.standard_normal((B, S, N))
    if seed % 4 == 0:
        src, S = x, T
    params = {}
    for name in ("query", "key", "value", "out"):
        weight = rng.standard_normal((N, N)) / np.sqrt(N)
        if (seed // 2) % 3 == 0 and name in ("query", "value", "out"):
            weight = np.eye(N)[rng.permutation(N)] * 2.0 ** rng.integers(-1, 2, (N, 1))
            weight[0] *= 1 + seed % 2 / 4
        if seed % 7 == 3:
            weight = np.sign(weight) / 4
        if seed % 9 == 5 and name in ("query", "key"):
            weight = [4, 40, 400][seed % 3] * weight
        if seed % 9 == 6 and name in ("query", "key"):
            weight = [8, 16, 24][seed % 3] * weight
        if seed % 11 == 6:
            weight = 2e-3 * weight
        # Channels that are alike: of q, k and v, or of what goes back through the out projection.
        if seed % 6 == 4 or (seed % 6 == 1 and name == "query"):
            weight[:, 1:] = weight[:, :1] if name == "out" else weight[:, 1:]
            weight[1:] = weight[1:] if name == "out" else weight[:1]
        params[f"{name}.weight"] = weight
        if name != "key":
            params[f"{name}.bias"] = rng.standard_normal(N) * (seed % 5 > 1)
    if seed % 8 in (1, 4):
        src[:, S // 2 :] = src[:, :1]
    mask = [None, rng.random((T, S)) < 0.6, rng.standard_normal((B, H, T, S))][seed % 3]
    causal = mask is None and seed % 2 == 0
    return lower_forward(params, x, src, n_head=H, mask=mask, is_causal=causal)
