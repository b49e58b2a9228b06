"""The bound of gradients once more, with key heads repeated: what `backward_bound` must come to."""

import math
from types import SimpleNamespace

import numpy as np
from row_formulas import CHANCE, LARGEST, LEAST, UNIT, sizes_of


def half_spacing(x, dtype):
    """Half the distance of the dtype's numbers at x > 0."""
    least = LEAST[dtype]
    exponent = np.array([math.frexp(y)[1] - 1 if y else least for y in np.ravel(x)]).reshape(np.shape(x))
    return UNIT[dtype] * 2.0 ** np.maximum(exponent, least)


def counted(x, width):
    """Of a line of sizes: how many, for each, are like it; 1 for zeros."""
    cell = np.floor(np.log(np.where(x > 0, x, 1.0)) / width)
    same = (cell[:, None] == cell) & (x > 0)[:, None] & (x > 0)
    return np.where(x > 0, same.sum(1), 1)


def along(x, axis, width):
    return np.apply_along_axis(counted, axis, x, width)


class Pairs:
    """The errors at each pair, (B, H, T, S). scores, dp: what inexact inputs add to the worst."""

    def __init__(self, problem, backward, dtype, arithmetic, scores=0.0, dp=0.0):
        r = self.r = sizes_of(dtype, arithmetic)
        B, H, T, S = problem.shape
        self.H, self.Hkv, self.dtype = H, problem.k.shape[1], dtype
        self.g = H // self.Hkv
        self.scale = abs(problem.scale)
        self.q, self.k, self.v = problem.q, problem.k.repeat(self.g, 1), problem.v.repeat(self.g, 1)
        self.do, solution = backward.do, backward.solution
        self.see = see = np.broadcast_to(problem.visible, (B, H, T, S))
        self.p = p = np.where(see, solution.p, 0.0)
        self.ds, self.dp, self.D = np.abs(backward.ds), np.abs(backward.dp), np.abs(backward.D)
        self.signed_ds = backward.ds
        o, do = np.abs(solution.o), np.abs(backward.do)

        def sums(x, y):
            return np.einsum("bhic,bhjc->bhij", x, y)

        s, bias = np.where(see, np.abs(solution.s), 0.0), np.where(see, np.abs(problem.bias), 0.0)
        m = solution.m
        n = see.sum(3, keepdims=True)
        spread = np.abs(m) + np.log(np.where(n > 0, n, 1))
        gap = np.where(see, m - np.where(see, solution.s, 0.0), np.inf)
        A = self.scale * sums(np.abs(self.q), np.abs(self.k))
        inner = self.q.shape[3] + 3
        finite_gap = np.where(see, gap, 0.0)
        own = r.ua * (math.sqrt(inner) * A + 2 * s + bias + finite_gap + 4) + r.us * (2 * s + bias + A)
        common = r.ua * (s + 2 * spread) + 2 * r.ut * A
        most = own + common + r.ua * (inner - math.sqrt(inner)) * A + r.eps
        likely = np.minimum(most, 3 * (own + common))
        most = np.where(see, most + scores, 0.0)
        hopeless = finite_gap - most > (gap + most).min(3, keepdims=True) + 800
        most = np.where(hopeless, 0.0, most)
        # e^delta over a sum of e^-delta: beyond this the code's sum of 1 - e^-delta has lost half of its digits.
        self.unclear = bool((most > 15).any())

        terms = sums(do, np.abs(self.v))
        self.largest_terms = terms.max(3, keepdims=True)
        self.terms = terms = np.where(see, terms, 0.0)
        self.d_terms = (p * terms).sum(3, keepdims=True) + (do * o).sum(3, keepdims=True)
        in_groups = p.reshape(B, self.Hkv, self.g * T, S)
        self.of_row = along(p, 3, r.width)
        self.of_key = along(in_groups, 2, r.width).reshape(p.shape)
        of_channels = along(o, 3, r.width)
        by_rows = [along(o[..., c].ravel(), 0, r.width).reshape(B, H, T) for c in range(o.shape[3])]
        shares = of_channels * (do * half_spacing(o, dtype)) ** 2
        total = shares.sum(3)
        self.of_rows = np.where(
            total > 0, (np.moveaxis(by_rows, 0, 3) * shares).sum(3) / np.where(total > 0, total, 1), 1
        )[..., None]
        ties = np.where(p > 0, self.of_row, 0).sum(3, keepdims=True)
        queries = self.of_keys(1.0 * see).sum(2, keepdims=True)
        query_ties = self.of_keys(np.where(p > 0, self.of_key, 0)).sum(2, keepdims=True)

        def length(n, ties, worst):
            return 1.07 * n + 8 if worst else np.minimum(3 * np.sqrt(np.maximum(n, ties) + 8), 1.07 * n + 8)

        def level(worst):
            delta, more = (most, dp) if worst else (likely, 0.0)
            top = gap <= 2 * (delta if worst else delta + scores)
            partial = (2 if worst else 1.5) * r.us + r.ut
            keys, by_key = r.ua * length(n, ties, worst), r.ua * length(queries, query_ties, worst)
            c = self.v.shape[3] + 3
            channels = r.ua * (c if worst else min(3 * math.sqrt(c), c))
            # e^delta over sum p e^-delta, less 1; log1p and expm1 of long doubles keep what is small.
            delta = np.minimum(delta, 15)
            rest = (p.astype(np.longdouble) * np.expm1(-delta.astype(np.longdouble))).sum(3, keepdims=True)
            reach = np.expm1(delta.astype(np.longdouble) - np.log1p(rest)).astype(np.float64)
            of_p = np.where(see, reach + keys + r.ua * spread, 0.0)
            of_dp = (channels + 2 * r.ut) * terms + 2 * r.ua * (self.dp + self.D) + more
            of_D = (of_p * self.ds).sum(3, keepdims=True) + (p * more).sum(3, keepdims=True)
            of_sums = (keys + channels + 4 * r.ut + 2 * r.us) * self.d_terms
            of_D = of_D + of_sums + (r.ua * spread + r.us) * self.D
            stored = do * half_spacing(
                o + np.einsum("bhij,bhjc->bhic", p * (of_p + r.up), np.abs(self.v)), dtype
            )
            if worst:
                rounded = (r.up + r.us) * (p * self.dp).sum(3, keepdims=True) + stored.sum(3, keepdims=True)
            else:
                one = CHANCE**2 * (r.up**2 + r.us**2) + (5 * r.eps) ** 2
                weights = one * (p**2 * self.of_row * self.dp**2).sum(3, keepdims=True)
                outputs = CHANCE**2 * (of_channels * stored**2).sum(3, keepdims=True)
                rounded = np.sqrt(weights + outputs)
            flushed = r.eta_p * terms.sum(3, keepdims=True) + r.eta_0 * do.sum(3, keepdims=True)
            of_ds = of_p * self.ds + p * (1 + of_p) * of_dp
            return SimpleNamespace(
                p=of_p,
                ds=np.where(see, of_ds, 0.0),
                top=np.where(see & top, of_sums + r.us * self.D, 0.0),
                D=of_D + rounded + flushed,
                keys=keys + partial,
                queries=by_key + partial,
            )

        self.worst, self.likely = level(True), level(False)
        one = CHANCE**2 * (r.up**2 + r.us**2)
        self.p_random = math.sqrt(CHANCE**2 * r.up**2 + (5 * r.eps) ** 2)
        self.ds_random = np.sqrt(
            (2 * one + (5 * r.eps) ** 2) * self.ds**2 + (CHANCE * r.us * p * self.dp) ** 2
        )
        self.ds_flushed = np.where(see, r.eta_p * (terms + self.d_terms + 4), 0.0)
        self.ds_worst = (
            self.worst.ds + self.worst.top + 2 * r.up * self.ds + r.us * (p * self.dp + 2 * self.ds)
        )
        self.ds_worst = self.ds_worst + p * (1 + self.worst.p) * self.worst.D
        self.shares = p * self.likely.D
        accumulators, stored = LARGEST["float64" if dtype == "float64" else "float32"], LARGEST[dtype]
        lost = self.largest_terms + self.d_terms > accumulators
        lost = lost | (most.max(3, keepdims=True) >= 60)
        if r.up:
            lost = lost | (self.ds + self.worst.ds + self.worst.top + p * self.worst.D > stored)
        self.lost = see & lost | (r.us > 0) & (self.largest_terms + self.D > stored)

    def of_one(self, y):
        """What one key of each row gets besides, times y: the largest."""
        return (self.likely.top[..., None] * np.abs(y)[:, :, None]).max(3)

    def of_keys(self, x):
        """(B, H, T, n) as (B, Hkv, g T, n): all queries of a key."""
        return x.reshape(x.shape[0], self.Hkv, -1, x.shape[3])

    def to_keys(self, x, y):
        """Sum over all queries of a key of x^T y."""
        return np.einsum("bhij,bhin->bhjn", self.of_keys(x), self.of_keys(y))


def summed(e, reach_ds, reach_p):
    """What sums add to dq, dk and dv, the worst and the likely; reach_ds and reach_p: both sizes of each."""
    r, found = e.r, {"q": [], "k": [], "v": []}
    q, k, do = (np.abs(x) for x in (e.q, e.k, e.do))
    for at, level in enumerate((e.worst, e.likely)):
        found["q"].append(level.keys * e.scale * (reach_ds[at] @ k))
        found["k"].append(level.queries.swapaxes(2, 3) * e.scale * e.to_keys(reach_ds[at], q))
        found["v"].append(level.queries.swapaxes(2, 3) * e.to_keys(reach_p[at], do))
    ones = np.ones_like(e.q[..., :1])
    flat = {
        "q": r.eta_p * (1.0 * e.see @ k),
        "k": r.eta_p * e.to_keys(1.0 * e.see, q),
        "v": 0.0,
    }
    if r.us:
        grown = r.eta_p * max(1.0, e.scale)
        in_q, in_k = e.ds.sum(3, keepdims=True), e.to_keys(e.ds, ones)
        seen_q, seen_k = e.see.any(3, keepdims=True), e.to_keys(1.0 * e.see, ones) > 0
        flat["q"] = flat["q"] + grown * (seen_q + in_q) + r.us * e.scale * np.abs(e.signed_ds @ e.k)
        flat["k"] = flat["k"] + grown * (seen_k + in_k) + r.us * e.scale * np.abs(e.to_keys(e.signed_ds, e.q))
    both = {name: [one + flat[name] for one in found[name]] for name in found}
    if r.up and e.g > 1:
        heads = {
            "k": e.scale * np.einsum("bhij,bhin->bhjn", e.signed_ds, e.q),
            "v": np.einsum("bhij,bhin->bhjn", e.p, e.do),
        }
        for name, share in heads.items():
            share = np.abs(share).reshape(share.shape[0], e.Hkv, e.g, *share.shape[2:])
            near = np.abs(share[:, :, :, None] - share[:, :, None]) <= 2.0**-24 * np.minimum(
                share[:, :, :, None], share[:, :, None]
            )
            many = np.where(share > 0, near.sum(3), 1).max(2)
            over = 1.02 * share.max(2) > LARGEST[e.dtype]
            both[name] = [np.where(over, np.inf, one) for one in both[name]]
            both[name][0] = both[name][0] + r.up * share.sum(2) + r.eta_p * e.g
            both[name][1] = both[name][1] + CHANCE * r.up * np.sqrt(many * (share**2).sum(2)) + r.eta_p * e.g
    return both


def formula(problem, backward, dtype, arithmetic):
    """The bound of each gradient."""
    e = Pairs(problem, backward, dtype, arithmetic)
    r, p = e.r, e.p
    q, k, do = (np.abs(x) for x in (e.q, e.k, e.do))
    reach_ds = e.ds + e.ds_worst, e.ds + e.likely.ds + e.likely.top + e.ds_random + e.shares
    reach_p = p * (1 + e.worst.p + r.up), p * (1 + e.likely.p + e.p_random)
    sums = summed(e, reach_ds, reach_p)

    share = np.abs(p @ e.k) + (p * (e.likely.p + r.up)) @ k
    chance = np.sqrt((e.ds_random**2 * e.of_row) @ k**2 + (e.likely.D * share) ** 2 + e.of_one(e.k) ** 2)
    flat = e.ds_flushed @ k
    of_q = [1.02 * (e.ds_worst @ k) + flat, e.likely.ds @ k + chance + flat]
    chance = np.sqrt(e.to_keys(e.ds_random**2 * e.of_key + (e.shares**2 + e.likely.top**2) * e.of_rows, q**2))
    flat = e.to_keys(e.ds_flushed, q)
    of_k = [1.02 * e.to_keys(e.ds_worst, q) + flat, e.to_keys(e.likely.ds, q) + chance + flat]
    chance = np.sqrt(e.to_keys((e.p_random * p) ** 2 * e.of_key, do**2))
    flat = 2 * r.eta_p * e.to_keys(1.0 * e.see, do)
    of_v = [
        1.02 * e.to_keys(p * (e.worst.p + r.up), do) + flat,
        e.to_keys(p * e.likely.p, do) + chance + flat,
    ]
    ones = np.ones_like(e.q[..., :1])
    seen = {"q": e.see.any(3, keepdims=True)}
    seen["k"] = seen["v"] = e.to_keys(1.0 * e.see, ones) > 0
    parts = {"q": [e.scale * x for x in of_q], "k": [e.scale * x for x in of_k], "v": of_v}
    bounds = {
        name: np.where(
            seen[name],
            np.minimum(*(x + y for x, y in zip(parts[name], sums[name], strict=True))) + r.eta_0,
            0,
        )
        for name in parts
    }
    lost = {"q": e.lost.any(3, keepdims=True)}
    lost["k"] = lost["v"] = e.to_keys(1.0 * e.lost, ones) > 0
    bounds = {name: np.where(lost[name], np.inf, one) for name, one in bounds.items()}
    if r.us:  # stored before the scale makes it smaller
        for name, products in (("q", e.signed_ds @ e.k), ("k", e.to_keys(e.signed_ds, e.q))):
            reach = e.scale * np.abs(products) + bounds[name]
            bounds[name] = np.where(reach > min(1.0, e.scale) * LARGEST[dtype], np.inf, bounds[name])
    bounds["bias"] = of_bias(problem, e)
    return bounds


def of_bias(problem, e, inputs=0.0):
    """The bound of the bias's gradient, one element after the other."""
    r, shape = e.r, problem.bias.shape
    result = np.zeros(shape)
    for at in np.ndindex(*shape):
        part = tuple(slice(None) if n == 1 else slice(i, i + 1) for i, n in zip(at, shape, strict=True))
        see, p, ds = e.see[part], e.p[part], e.ds[part]
        # A length of 1 that is not broadcast is no sum, and is one of a single term all the same.
        n = see.sum()
        if n == 0 or e.lost[part].any():
            result[at] = np.inf if e.lost[part].any() else 0
            continue
        same = counted(p.ravel(), max(r.up / 4, 2.0**-24)).reshape(p.shape)
        ties = np.where(p > 0, same, 0).sum()
        shares, top = e.shares[part], e.likely.top[part]
        if shape[3] == 1:
            shares, top = shares.sum(3, keepdims=True), top.max(3, keepdims=True)
        random = (e.ds_random[part] ** 2 * same).sum() + ((shares**2 + top**2) * e.of_rows[part[:3]]).sum()
        most = 1.07 * n + 8
        likely = min(3 * math.sqrt(max(n, ties) + 8), most)
        worst = 1.02 * e.ds_worst[part].sum() + r.ua * most * ds.sum()
        probable = (e.likely.ds + inputs)[part].sum() + math.sqrt(random) + r.ua * likely * ds.sum()
        result[at] = min(worst, probable) + e.ds_flushed[part].sum() + r.eta_0
    return result
