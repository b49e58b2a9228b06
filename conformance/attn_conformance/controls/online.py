"""Controls that never hold all scores of a row's softmax: running maxima, split keys, one key at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from attn_conformance.controls import Inputs, control
from attn_conformance.controls.inputs import Array, peak_of, share

LOG2_E = 1.4426950408889634


def online(
    x: Inputs,
    tile: int,
    *,
    logits: Array | None = None,
    exp: Callable[[Array], Array] = np.exp,
    rounded: bool = True,
    backwards: bool = False,
    slack: float = 0.0,
) -> Array:
    """Tiles of keys with a running maximum m, total l and sum o, all brought to a new m when it rises.

    logits: in the base of exp. rounded: weights are rounded to the storage dtype. slack: m rises only where a
    tile exceeds it by more than that.
    """
    s = x.logits() if logits is None else logits
    values = x.values
    m = np.full((*s.shape[:3], 1), -np.inf, s.dtype)
    l: Any = np.zeros_like(m)  # noqa: E741  # the usual name
    o: Any = np.zeros((*s.shape[:3], values.shape[3]), s.dtype)
    tiles = range(0, s.shape[3], tile)
    for j in reversed(tiles) if backwards else tiles:
        part = s[..., j : j + tile]
        highest = np.maximum(m, part.max(-1, keepdims=True))
        rises = ~(highest - m <= slack)  # also from -inf, also with NaN
        new = np.where(rises, highest, m)
        base = np.where(np.isneginf(new), 0, new)
        grown, shrink = exp(part - base), exp(m - base)
        l = l * shrink + grown.sum(-1, keepdims=True)  # noqa: E741
        o = o * shrink + (x.stored(grown) if rounded else grown) @ values[:, :, j : j + tile]
        m = new
    return share(o, l)


@control("online-16")
def online_16(x: Inputs) -> Array:
    """Tiles of 16 keys, weights in full precision."""
    return online(x, 16, rounded=False)


@control("online-64-rounded-weights")
def online_64_rounded_weights(x: Inputs) -> Array:
    """Tiles of 64 keys, weights rounded to the storage dtype."""
    return online(x, 64)


@control("online-128-base-two")
def online_128_base_two(x: Inputs) -> Array:
    """Tiles of 128 keys and powers of two, the logits multiplied by log2(e)."""
    return online(x, 128, logits=x.logits() * LOG2_E, exp=np.exp2)


@control("reversed-keys")
def reversed_keys(x: Inputs) -> Array:
    """Tiles of 16 keys from the last to the first."""
    return online(x, 16, backwards=True)


@control("lazy-rescaling")
def lazy_rescaling(x: Inputs) -> Array:
    """The running maximum rises only by more than 8 at a time."""
    return online(x, 64, slack=8.0)


def short_exp2(x: Array) -> Array:
    """2**x with relative error 1e-4: a polynomial of degree 3, as recent GPU kernels have it."""
    bounded = np.maximum(x, -126)
    whole = np.floor(bounded)
    f = bounded - whole
    power = np.ldexp(1 + f * (0.6951 + f * (0.2276 + f * 0.0773)), np.nan_to_num(whole).astype(np.int32))
    return np.where(x <= -126, 0, power).astype(x.dtype)


@control("short-polynomial-exp", dtypes=("bfloat16",))
def short_polynomial_exp(x: Inputs) -> Array:
    """Powers of two by a short polynomial, whose error hides below the rounding of the weights to bfloat16.

    Not to float16: keys whose scores lie alike between whole numbers err alike, and the sum of many may show.
    """
    return online(x, 64, logits=x.logits() * LOG2_E, exp=short_exp2)


def split(x: Inputs, parts: int, *, rounded: bool) -> Array:
    """Each part of the keys is attended to apart; results are joined by their log-sum-exps."""
    logits, values = x.logits(), x.values
    edges = np.linspace(0, values.shape[2], min(parts, values.shape[2]) + 1).astype(int)
    outs, lses = [], []
    for first, last in pairwise(edges):
        part = logits[..., first:last]
        peak = peak_of(part)
        grown = np.exp(part - peak)
        total = grown.sum(-1, keepdims=True)
        outs.append(share((x.stored(grown) if rounded else grown) @ values[:, :, first:last], total))
        lses.append(peak + np.log(total))
    lse = np.concatenate(lses, -1)
    factors = np.exp(lse - peak_of(lse))
    shares = share(factors, factors.sum(-1, keepdims=True))
    out = np.zeros_like(outs[0])
    for i, part in enumerate(outs):
        out = out + shares[..., [i]] * part
    return np.asarray(out)


@control("split-keys-4")
def split_keys_4(x: Inputs) -> Array:
    """Four parts of the keys, as in decoding."""
    return split(x, 4, rounded=False)


@control("split-keys-7-rounded-weights")
def split_keys_7_rounded_weights(x: Inputs) -> Array:
    """Seven parts of the keys, weights rounded to the storage dtype."""
    return split(x, 7, rounded=True)


@control("one-key-at-a-time", features=("run-determinism", "batch-invariance"))
def one_key_at_a_time(x: Inputs) -> Array:
    """A recurrence over keys, every dot product a plain sum: the same bits whatever the batch."""
    keys, values = x.keys, x.values
    bias = np.broadcast_to(x.bias, x.visible.shape)
    m = np.full((*x.q.shape[:3], 1), -np.inf, x.q.dtype)
    l: Any = np.zeros_like(m)  # noqa: E741
    o: Any = np.zeros((*x.q.shape[:3], values.shape[3]), x.q.dtype)
    for j in range(keys.shape[2]):
        score = x.scale * (x.q * keys[:, :, j : j + 1]).sum(-1, keepdims=True) + bias[..., j : j + 1]
        score = np.where(x.visible[..., j : j + 1], score, -np.inf)
        new = np.maximum(m, score)
        base = np.where(np.isneginf(new), 0, new)
        weight, shrink = np.exp(score - base), np.exp(m - base)
        l = l * shrink + weight  # noqa: E741
        o = o * shrink + weight * values[:, :, j : j + 1]
        m = new
    return share(o, l)
