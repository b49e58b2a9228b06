"""Wrong heads, batch elements, keys and axes: the right numbers in the wrong place, or left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from attn_conformance.causes.cause import Array, Cause, Change, Recognition, Situation, changed, from_parts
from attn_conformance.causes.projections import exchanged, split_as_d_h
from attn_conformance.judge import ask
from attn_reference import Problem

# --- keys


def _seeing(rule: Callable[[Array, int, int], Array]) -> Change:
    """With those keys hidden, of the visible ones, for which `rule` (j, T, S) is False; not if none is left."""

    def change(p: Problem) -> Problem | None:
        T, S = p.shape[2:]
        left = p.visible & rule(np.arange(S), T, S)
        return replace(p, visible=left) if left.any() else None

    return change


def _full_tiles(size: int) -> Change:
    return _seeing(lambda j, T, S: j < (S // size * size or S))


def _twice(p: Problem) -> Problem:
    return replace(p, bias=p.bias + np.log(2) * (np.arange(p.shape[3]) == 0))


def _zeros_hidden(p: Problem) -> Problem:
    some = np.repeat(p.k.any(-1), p.q.shape[1] // p.k.shape[1], 1)[:, :, None]
    return replace(p, visible=p.visible & some)


# --- heads


def _heads(pick: Callable[[Array, int, int], Array], names: str = "kv") -> Change:
    """Query head h reads head `pick` (h, H, Hkv) of k and v, or of those of them that are named."""

    def change(p: Problem) -> Problem | None:
        H, Hkv = p.q.shape[1], p.k.shape[1]
        right, other = np.arange(H) // (H // Hkv), pick(np.arange(H), H, Hkv)
        if other.max() >= Hkv:
            return None
        return replace(
            p, k=p.k[:, other if "k" in names else right], v=p.v[:, other if "v" in names else right]
        )

    return change


def _last_odd(n: Array, count: int, *_: int) -> Array:
    return np.where((n == count - 1) & (count % 2 == 1) & (count > 1), n - 1, n)


def _values_the_other_way(p: Problem) -> Problem:
    return replace(p, v=_split_as_d_h(p.v))


def _split_as_d_h(x: Array) -> Array:
    """Merged features, which are (H, D), split as (D, H)."""
    B, H, L, D = x.shape
    return np.ascontiguousarray(x.swapaxes(1, 2).reshape(B, L, D, H).transpose(0, 3, 1, 2))


def _all_the_other_way(p: Problem) -> Problem | None:
    if p.q.shape[1] != p.k.shape[1]:
        return None
    return replace(p, q=_split_as_d_h(p.q), k=_split_as_d_h(p.k), v=_split_as_d_h(p.v))


# --- batch elements


def _elements(pick: Callable[[Array, int], Array], names: str) -> Change:
    """Batch element b reads element `pick` (b, B) of the named arrays."""

    def change(p: Problem) -> Problem:
        B = p.q.shape[0]
        other = pick(np.arange(B), B)
        return replace(p, **{name: getattr(p, name)[other] for name in names})

    return change


# --- arguments


def _keys_and_values(p: Problem) -> Problem | None:
    return replace(p, k=p.v, v=p.k) if p.k.shape == p.v.shape else None


def _queries_and_keys(p: Problem) -> Problem | None:
    return replace(p, q=p.k, k=p.q) if p.q.shape == p.k.shape else None


def _keys_for_values(p: Problem) -> Problem | None:
    return replace(p, v=p.k) if p.k.shape == p.v.shape else None


# --- axes, for which the answer is that of another problem, laid out otherwise


def across_heads(situation: Situation) -> float | None:
    """Recognises heads that attend to heads at each position, as if arrays were (B, T, H, D)."""
    p, right = situation.problem, situation.right
    if not isinstance(p, Problem) or situation.hiding != "nothing" or p.q.shape[1:3] != p.k.shape[1:3]:
        return None
    turned = replace(p, q=p.q.swapaxes(1, 2), k=p.k.swapaxes(1, 2), v=p.v.swapaxes(1, 2))
    wrong = ask(turned, right.dtype, right.arithmetic)
    return from_parts(situation, *(part.swapaxes(1, 2) for part in (wrong.value, wrong.low, wrong.limit)))


def rearranged(layout: Callable[[Array], Array]) -> Recognition:
    """Recognises the right elements in other places: layout (B, H, T, Dv) to the same shape, or another."""

    def distance(situation: Situation) -> float | None:
        if not isinstance(situation.problem, Problem):
            return None
        right = situation.right
        value, low, limit = (layout(part) for part in (right.value, right.low, right.limit))
        return from_parts(situation, value, low, limit) if value.shape == right.value.shape else None

    return distance


def stored_thd(o: Array) -> Array:
    """Stored as (B, T, H, D), read as (B, H, T, D)."""
    return np.ascontiguousarray(o.swapaxes(1, 2)).reshape(o.shape)


def stored_htd(o: Array) -> Array:
    """Stored as (B, H, T, D), read as (B, T, H, D)."""
    B, H, T, D = o.shape
    return np.ascontiguousarray(o).reshape(B, T, H, D).swapaxes(1, 2)


CAUSES = (
    changed("keys-beyond-T", "if keys beyond the first T are dropped", _seeing(lambda j, T, S: j < T)),
    changed(
        "keys-of-prefix",
        "if the first S - T keys, those of a prefix, are dropped",
        _seeing(lambda j, T, S: j >= S - T),
    ),
    changed("newest-key-alone", "if the last key alone is seen", _seeing(lambda j, T, S: j == S - 1)),
    changed("last-key-dropped", "without the last key", _seeing(lambda j, T, S: j < S - 1)),
    changed("first-key-dropped", "without the first key", _seeing(lambda j, T, S: j > 0)),
    *(
        changed(
            f"partial-tile-of-{n}-dropped",
            f"if tiles have {n} keys and the last one, not being full, is dropped",
            _full_tiles(n),
        )
        for n in (128, 64, 32, 16)
    ),
    changed("first-key-twice", "if the first key counts twice", _twice),
    changed("zero-keys-hidden", "if keys that are zero throughout are hidden", _zeros_hidden),
    changed(
        "groups-interleaved", "if query head h reads key head h modulo Hkv", _heads(lambda h, H, Hkv: h % Hkv)
    ),
    changed(
        "groups-clamped",
        "if query head h reads key head h as far as there is one, and then the last",
        _heads(lambda h, H, Hkv: np.minimum(h, Hkv - 1)),
    ),
    changed(
        "head-0-of-keys", "with the keys and values of head 0 for every head", _heads(lambda h, H, Hkv: 0 * h)
    ),
    changed(
        "neighbouring-head",
        "if the last of an odd number of heads reads the keys of the one before",
        _heads(_last_odd, "k"),
    ),
    changed(
        "neighbouring-head-kv",
        "if the last of an odd number of heads reads the one before",
        _heads(_last_odd),
    ),
    changed(
        "values-split-as-D-H",
        "with the merged features of v split as (D, H), not as (H, D)",
        _values_the_other_way,
        forward=split_as_d_h("value"),
    ),
    changed(
        "all-split-as-D-H",
        "with the merged features of q, k and v split as (D, H), not as (H, D)",
        _all_the_other_way,
        forward=split_as_d_h("query", "key", "value"),
    ),
    changed(
        "batch-0-of-keys",
        "with the keys and values of batch element 0 for every one",
        _elements(lambda b, B: 0 * b, "kv"),
    ),
    changed(
        "neighbouring-element",
        "if the last of an odd batch reads the keys and values of the one before",
        _elements(_last_odd, "kv"),
    ),
    changed(
        "neighbouring-keys",
        "if the last of an odd batch reads the keys of the one before",
        _elements(_last_odd, "k"),
    ),
    changed(
        "neighbouring-values",
        "if the last of an odd batch reads the values of the one before",
        _elements(_last_odd, "v"),
    ),
    changed(
        "keys-and-values",
        "with keys and values exchanged",
        _keys_and_values,
        forward=exchanged("query", "value", "key"),
    ),
    changed(
        "queries-and-keys",
        "with queries and keys exchanged",
        _queries_and_keys,
        forward=exchanged("key", "query", "value"),
    ),
    changed(
        "keys-for-values",
        "with the keys in place of the values",
        _keys_for_values,
        forward=exchanged("query", "key", "key"),
    ),
    Cause(
        "across-heads",
        "every element is what attention gives if arrays are read as (B, T, H, D): heads attend to heads",
        across_heads,
    ),
    Cause(
        "merged-as-T-H",
        "the right elements stored as (B, T, H, D) and read as (B, H, T, D)",
        rearranged(stored_thd),
    ),
    Cause(
        "merged-as-H-T",
        "the right elements stored as (B, H, T, D) and read as (B, T, H, D)",
        rearranged(stored_htd),
    ),
    Cause(
        "transposed",
        "the right elements with their last two axes exchanged",
        rearranged(lambda o: o.swapaxes(2, 3)),
    ),
    Cause(
        "head-0-for-all",
        "every head has the right output of head 0",
        rearranged(lambda o: np.broadcast_to(o[:, :1], o.shape)),
    ),
    Cause(
        "element-0-for-all",
        "every batch element has the right output of element 0",
        rearranged(lambda o: np.broadcast_to(o[:1], o.shape)),
    ),
    Cause(
        "first-query-for-all",
        "every query has the right output of query 0",
        rearranged(lambda o: np.broadcast_to(o[:, :, :1], o.shape)),
    ),
)
