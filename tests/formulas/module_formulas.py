"""The bound of a module's gradients once more: what `forward_backward_bound` must come to."""

from types import SimpleNamespace

import numpy as np
from pair_formulas import Pairs, along, of_bias, summed
from row_formulas import (
    CHANCE,
    heads_of,
    inexact_row,
    most_alike,
    moving,
    of_projection,
    of_sum,
    projected,
    row_of,
    row_parts,
    sizes_of,
    weight_error,
)


def merged(x):
    """(B, H, T, D) to (B, T, N)."""
    return np.concatenate(list(np.moveaxis(x, 1, 0)), axis=2)


def turned(x):
    """The last two axes exchanged."""
    return x.swapaxes(-1, -2)


def alike_in(x):
    """Of each line along the last axis: how many numbers are alike."""
    return np.apply_along_axis(most_alike, -1, x)[..., None]


def copied(x, width):
    """How many tokens of the batch have a number like one of each token's in its place: (B, H, n, 1)."""
    B, H, n, D = x.shape
    places = [
        along(np.abs(x[:, h, :, d]).ravel(), 0, width).reshape(B, n) for h in range(H) for d in range(D)
    ]
    return np.max(np.array(places).reshape(H, D, B, n), axis=1).swapaxes(0, 1)[..., None]


class Module:
    """Errors of pairs that inexact inputs make, and what they come to in products; an error is [worst, likely]."""

    def __init__(self, problem, backward, dtype, arithmetic):
        r = self.r = sizes_of(dtype, arithmetic)
        self.problem, self.backward, self.dtype = problem, backward, dtype
        core, kernel = backward.core, backward.solution.core
        self.kernel, self.H, self.scale = kernel, problem.n_head, abs(kernel.scale)
        errors = self.errors = projected(problem, kernel, r)
        back = problem.weights["out"].T
        both = of_projection(back, np.zeros(len(back)), backward.dy, merged(core.do), r)
        errors["do"] = [heads_of(one, self.H) for one in both]
        q, k, v, do = (np.abs(x) for x in (kernel.q, kernel.k, kernel.v, core.do))
        e_q, e_k, e_v, e_do = (errors[name] for name in ("query", "key", "value", "do"))
        scores = self.scale * (e_q[0] @ turned(k + e_k[0]) + q @ turned(e_k[0]))
        dp = e_do[0] @ turned(v + e_v[0]) + do @ turned(e_v[0])
        e = self.e = Pairs(kernel, core, dtype, arithmetic, scores, dp)
        p, see, ds = e.p, e.see, core.ds

        of_query = np.where(see, self.scale * np.sqrt((alike_in(q) * e_q[1] ** 2) @ turned(k**2)), 0)
        of_key = np.where(see, self.scale * np.sqrt(q**2 @ turned(alike_in(k) * e_k[1] ** 2)), 0)
        decided = np.zeros((*p.shape[:3], 1), bool)
        for at in np.ndindex(p.shape[:3]):
            decided[at] = not see[at].any() or weight_error(p[at], (of_query + of_key)[at]) <= 0.5
        growth = np.expm1(np.where(decided, of_query, 0))
        self.key_score = np.expm1(np.where(decided, of_key, 0))
        self.key_dp = np.where(decided & see, np.sqrt(do**2 @ turned(alike_in(v) * e_v[1] ** 2)), 0)

        # What one error of q's channel d moves: ln p_ij by k_jd - (p k)_id, and ds_ij likewise.
        apart = kernel.k[:, :, None] - (p @ kernel.k)[:, :, :, None]  # (B, H, T, S, D)
        size = (alike_in(q) * e_q[1] ** 2)[:, :, :, None]
        of_p = (size * apart**2).sum(4)
        lever = np.where(see, core.dp - core.D, 0)
        by_q = lever**2 * of_p + (size[:, :, :, 0] * (ds @ kernel.k) ** 2).sum(3, keepdims=True)
        apart = kernel.v[:, :, None] - backward.solution.attention.o[:, :, :, None]
        by_do = ((alike_in(do) * e_do[1] ** 2)[:, :, :, None] * apart**2).sum(4)
        self.query_p = np.where(decided & see, (1 + growth) * self.scale * np.sqrt(of_p), 0)
        spread = np.sqrt(2 * self.scale**2 * by_q + by_do)
        self.query_ds = np.where(decided, p * (1 + growth) * spread, 0)
        self.of_query = np.maximum(copied(q, r.width), copied(do, r.width))
        self.of_key = np.maximum(copied(k, r.width), copied(v, r.width))
        many = turned(self.of_key)
        self.common = np.sqrt((many * (p * self.key_score) ** 2).sum(3, keepdims=True))
        key_d = np.sqrt((many * ((self.key_score * ds) ** 2 + (p * self.key_dp) ** 2)).sum(3, keepdims=True))
        by_head = [along(p[:, h].ravel(), 0, r.width).reshape(p[:, h].shape) for h in range(self.H)]
        self.pair_copies = np.stack(by_head, axis=1)
        own = self.key_score * e.ds + p * (1 + self.key_score) * self.key_dp
        self.of_keys = own + p * key_d + self.common * e.ds
        for name in ("p", "ds", "top", "D"):
            worst, likely = getattr(e.worst, name), getattr(e.likely, name)
            setattr(e.likely, name, np.where(decided, likely, worst))
        e.shares = p * e.likely.D

        inputs = self.inputs = self.query_ds + self.of_keys
        reach_ds = [e.ds + e.ds_worst, e.ds + e.likely.ds + e.likely.top + e.ds_random + e.shares + inputs]
        of_p = self.query_p + self.key_score + self.common
        self.pairs_p = [p * (1 + e.worst.p + r.up), p * (1 + e.likely.p + e.p_random + of_p)]
        self.pairs_ds = [self.scale * x for x in reach_ds]
        self.sums = summed(e, reach_ds, self.pairs_p)

    def by_keys(self, y):
        """What errors of k and v do to ds @ y, likely: one key's error at a time, in squares."""
        p, ds, many = self.e.p, self.backward.core.ds, turned(self.of_key)
        apart = y[:, :, None] - (p @ y)[:, :, :, None]  # (B, H, T, S, n)
        by_score = ds[..., None] * apart - p[..., None] * (ds @ y)[:, :, :, None]
        squares = (many * self.key_score**2)[..., None] * by_score**2
        squares = squares + (many * (self.key_dp * p) ** 2)[..., None] * apart**2
        return np.sqrt(squares.sum(3))

    def queries(self, y):
        """The error of scale ds @ y by errors of ds."""
        e, size = self.e, np.abs(y)
        share = np.abs(e.p @ y) + (e.p * (e.likely.p + e.r.up)) @ size
        chance = np.sqrt((e.ds_random**2 * e.of_row) @ y**2 + (e.likely.D * share) ** 2 + e.of_one(y) ** 2)
        likely = e.likely.ds @ size + chance + self.query_ds @ size + self.by_keys(y)
        return [self.scale * (x + e.ds_flushed @ size) for x in (1.02 * (e.ds_worst @ size), likely)]

    def keys(self, y):
        """The error of scale ds^T @ y by errors of ds."""
        e, size = self.e, np.abs(y)
        chance = np.sqrt(
            turned(e.ds_random**2 * e.of_key + (e.shares**2 + e.likely.top**2) * e.of_rows) @ y**2
        )
        likely = turned(e.likely.ds) @ size + chance + turned(self.of_keys) @ size
        likely = likely + np.sqrt(turned(self.query_ds**2) @ (self.of_query * y**2))
        worst = 1.02 * (turned(e.ds_worst) @ size)
        return [self.scale * (x + turned(e.ds_flushed) @ size) for x in (worst, likely)]

    def values(self, y):
        """The error of p^T @ y by errors of p."""
        e, size = self.e, np.abs(y)
        flushed = 2 * e.r.eta_p * turned(1.0 * e.see) @ size
        likely = turned(e.p * e.likely.p) @ size + turned(e.p * (self.key_score + self.common)) @ size
        likely = likely + np.sqrt(turned((e.p_random * e.p) ** 2 * e.of_key) @ y**2)
        likely = likely + np.sqrt(turned((e.p * self.query_p) ** 2) @ (self.of_query * y**2))
        return [1.02 * (turned(e.p * (e.worst.p + e.r.up)) @ size) + flushed, likely + flushed]

    def joint_ds(self, z, y):
        """The error of scale z^T ds^T y by errors of ds, summed over the batch: (H, a, b)."""
        e, a, b = self.e, np.abs(z), np.abs(y)
        share = np.abs(e.p @ z) + (e.p * (e.likely.p + e.r.up)) @ a
        of_row = (e.likely.D * share) ** 2 + e.of_one(z) ** 2
        rows = (self.query_ds @ a) ** 2 * self.of_query + of_row * e.of_rows
        squares = joined(e.ds_random**2 * self.pair_copies, z**2, y**2) + (turned(rows) @ y**2).sum(0)
        likely = joined(e.likely.ds, a, b) + (turned(self.by_keys(z)) @ b).sum(0) + np.sqrt(squares)
        flushed = joined(e.ds_flushed, a, b)
        return [self.scale * (x + flushed) for x in (1.02 * joined(e.ds_worst, a, b), likely)]

    def joint_p(self, z, y):
        """The error of z^T p^T y by errors of p."""
        e, a, b = self.e, np.abs(z), np.abs(y)
        rows = ((e.p * self.query_p) @ a) ** 2 * self.of_query
        squares = e.p_random**2 * joined(e.p**2 * self.pair_copies, z**2, y**2)
        squares = squares + (turned(rows) @ y**2).sum(0)
        apart = z[:, :, None] - (e.p @ z)[:, :, :, None]
        by_key = ((turned(self.of_key) * (self.key_score * e.p) ** 2)[..., None] * apart**2).sum(3)
        likely = joined(e.p * e.likely.p, a, b) + (turned(np.sqrt(by_key)) @ b).sum(0) + np.sqrt(squares)
        flushed = 2 * e.r.eta_p * joined(1.0 * e.see, a, b)
        return [1.02 * joined(e.p * (e.worst.p + e.r.up), a, b) + flushed, likely + flushed]


def joined(pairs, z, y):
    """z^T pairs^T y, summed over the batch."""
    return (turned(z) @ (turned(pairs) @ y)).sum(0)


def sides_of(m):
    """What each projection gets: its pairs and factor, the factor's error, sums, tokens, and errors by pairs."""
    core, kernel, problem = m.backward.core, m.kernel, m.problem
    sides = {
        "query": SimpleNamespace(
            pairs=m.pairs_ds,
            factor=kernel.k,
            error=m.errors["key"],
            copies=m.of_key,
            seen=m.queries,
            joint=lambda x: m.joint_ds(kernel.k, x),
        ),
        "key": SimpleNamespace(
            pairs=[turned(x) for x in m.pairs_ds],
            factor=kernel.q,
            error=m.errors["query"],
            copies=m.of_query,
            seen=m.keys,
            joint=lambda x: [turned(y) for y in m.joint_ds(x, kernel.q)],
        ),
        "value": SimpleNamespace(
            pairs=[turned(x) for x in m.pairs_p],
            factor=core.do,
            error=m.errors["do"],
            copies=m.of_query,
            seen=m.values,
            joint=lambda x: [turned(y) for y in m.joint_p(x, core.do)],
        ),
    }
    for name, side in sides.items():
        side.sums, side.tokens, side.weight = m.sums[name[0]], problem.source(name), problem.weights[name]
        either = np.minimum(*(x + y for x, y in zip(side.seen(side.factor), side.sums, strict=True)))
        side.dy = merged(np.abs(core.gradients[name[0]]) + either)
    return sides


def of_tokens(side, m, alone):
    """The error of dY W; alone: it is the whole gradient."""
    r, W = m.r, np.stack(np.split(side.weight, m.H))  # (H, D, N)
    A, many = np.abs(W), np.sqrt(alike_in(side.dy))
    worst, likely = side.seen(side.factor @ W)
    worst = worst + side.pairs[0] @ (side.error[0] @ A) + side.sums[0] @ A
    likely = likely + np.sqrt(side.pairs[1] ** 2 @ (side.copies * (side.error[1] ** 2 @ W**2)))
    likely = likely + np.minimum(many[:, None] * np.sqrt(side.sums[1] ** 2 @ W**2), side.sums[1] @ A)
    worst, likely = worst.sum(1), np.minimum(many * np.sqrt((likely**2).sum(1)), likely.sum(1))

    terms, none = side.dy @ np.abs(side.weight), np.zeros(len(side.weight))
    once = alone & moving(side.weight.T, none) & (terms >= r.normal)
    us = np.where(once, 0, r.store)
    flushed = np.where((side.dy > 0) & (side.dy < r.normal), r.store_eta, 0) @ np.abs(side.weight)
    sums = of_sum(side.weight.T, none, terms, r)
    stored = np.minimum(CHANCE * us * many * np.sqrt(side.dy**2 @ side.weight**2), us * terms)
    return [worst + us * terms + flushed + sums[0], likely + stored + flushed + sums[1]]


def added(products, through, names, r):
    """The error of a sum of several dY W."""
    terms = np.abs(np.array([products[name] for name in names])).sum(0)
    flat = len(names) * (r.ua * terms + np.where(terms > 0, r.store_eta, 0))
    return [2 * r.store * terms + sum(through[name][i] for name in names) + flat for i in (0, 1)]


def of_product(g, x, error, r, store):
    """The error of g^T x over all tokens: (N, n)."""
    g, x = g.reshape(-1, g.shape[2]), np.abs(x.reshape(-1, x.shape[2]))
    worst, likely = (one.reshape(g.shape) for one in error)
    n, same = len(g), along(g, 0, r.width)
    terms, ties = g.T @ x, np.where(g > 0, same, 0).sum(0)[:, None]
    chance = CHANCE * store * np.sqrt((same * g**2).T @ x**2) + np.sqrt((same * likely**2).T @ x**2)
    tiny = np.where((g > 0) & (g < r.normal) & (store > 0), r.store_eta, 0)
    flat = tiny.T @ x + 2 * r.ut * terms
    most = 1.07 * n + 8
    likely = np.minimum(3 * np.sqrt(np.maximum(n, ties) + 8), most)
    return [
        worst.T @ x + 1.02 * store * terms + (r.ua * most + 2 * r.us) * terms + flat,
        chance + (r.ua * likely + 1.5 * r.us) * terms + flat,
    ]


def of_parameters(name, side, m):
    """The errors of dW and db."""
    x = np.concatenate([side.tokens, np.ones_like(side.tokens[..., :1])], 2)
    size = np.abs(x)[:, None]
    worst, likely = side.joint(x[:, None])
    worst = worst + (turned(side.error[0]) @ (turned(side.pairs[0]) @ size)).sum(0)
    squares = turned(side.error[1] ** 2) @ ((turned(side.pairs[1]) @ size) ** 2 * side.copies)
    likely = likely + np.sqrt(squares.sum(0))
    sums = of_product(side.dy, x, [merged(one) for one in side.sums], m.r, m.r.store)
    both = [one.reshape(-1, x.shape[2]) + y for one, y in zip((worst, likely), sums, strict=True)]
    return {f"{name}.weight": [one[:, :-1] for one in both], f"{name}.bias": [one[:, -1] for one in both]}


def of_out(m):
    """The errors of the out projection's dW and db."""
    r, attention, dy = m.r, m.backward.solution.attention, m.backward.dy
    o, worst, least = np.zeros((3, *attention.o.shape))
    for b, h, i in np.ndindex(attention.o.shape[:3]):
        row, see = row_of(m.kernel, attention, b, h, i)
        if see.any():
            at = b, h, i
            inexact = inexact_row(m.kernel, m.errors, b, h, i, see)
            parts = row_parts(row, m.kernel.v[b, h][see], attention.o[at], r, inexact)
            o[at], worst[at] = np.abs(attention.o[at]), parts.worst
            least[at] = np.minimum(parts.worst, parts.probable)
    o, worst, least = (merged(x) for x in (o, worst, least))
    weight = of_product(o, dy, [worst, np.zeros_like(o)], r, r.store)
    weight[1] = weight[1] + np.einsum("btn,btm->nm", least, np.abs(dy))
    none = np.zeros_like(dy)
    bias = of_product(np.abs(dy), np.ones_like(dy[..., :1]), [none, none], r, 0.0)
    return {"out.weight": [x.T for x in weight], "out.bias": [x[:, 0] for x in bias]}


def module_formula(problem, backward, dtype, arithmetic):
    """The bound of each gradient; None where errors of scores leave weights unclear."""
    m = Module(problem, backward, dtype, arithmetic)
    if m.e.lost.any():
        return {name: np.full(one.shape, np.inf) for name, one in backward.gradients.items()}
    if m.e.unclear:
        return None
    sides, core = sides_of(m), backward.core
    through = {name: of_tokens(side, m, problem.crossed and name == "query") for name, side in sides.items()}
    products = {name: merged(core.gradients[name[0]]) @ problem.weights[name] for name in sides}
    see, kernel = np.broadcast_to(m.kernel.visible, m.kernel.shape), m.kernel
    queries, keys = see.any(3)[..., None], see.any(2)[..., None]
    named = (
        ("query", kernel.q, queries),
        ("key", kernel.k, keys),
        ("value", kernel.v, keys),
        ("do", core.do, queries),
    )
    stored = [np.where(seen, np.abs(x) + m.errors[name][0], 0) for name, x, seen in named]
    others = *products.values(), backward.solution.attention.o, *(core.gradients[name] for name in "qkv")
    stored += [1.02 * np.abs(x) for x in others]
    if max(x.max() for x in stored) > m.r.largest:
        return {name: np.full(one.shape, np.inf) for name, one in backward.gradients.items()}
    found = of_out(m)
    for name, side in sides.items():
        found |= of_parameters(name, side, m)
    if problem.crossed:
        found |= {"x": through["query"], "xa": added(products, through, ("key", "value"), m.r)}
    else:
        found["x"] = added(products, through, ("query", "key", "value"), m.r)
    bounds = {name: np.minimum(*both) for name, both in found.items()}
    bounds = {name: np.where(one > 0, one + m.r.eta_0, 0) for name, one in bounds.items()}
    if "mask" in backward.gradients:
        bias = of_bias(m.kernel, m.e, m.inputs)
        bounds["mask"] = np.where(bias > 0, bias + m.r.eta_0, 0).reshape(backward.gradients["mask"].shape)
    return bounds
