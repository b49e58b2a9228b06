"""Controls that hold all scores at once and differ in where they scale, mask, normalise and sum."""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.controls import Inputs, control
from attn_conformance.controls.inputs import Array, peak_of, share


def exponentials(logits: Array) -> tuple[Array, Array]:
    """exp(logits - peak) and the sum of each row."""
    grown = np.exp(logits - peak_of(logits))
    return grown, grown.sum(-1, keepdims=True)


@control("naive")
def naive(x: Inputs) -> Array:
    """One batch element and head after the other, weights normalised before they meet the values."""
    out = np.zeros((*x.q.shape[:3], x.v.shape[3]), x.q.dtype)
    group = x.q.shape[1] // x.k.shape[1]
    bias = np.broadcast_to(x.bias, x.visible.shape)
    for b, h in np.ndindex(x.q.shape[:2]):
        scores = x.q[b, h] @ x.k[b, h // group].T * x.scale + bias[b, h]
        grown, total = exponentials(np.where(x.visible[b, h], scores, -np.inf))
        out[b, h] = share(grown, total) @ x.v[b, h // group]
    return out


@control("einsum")
def einsum(x: Inputs) -> Array:
    """Both products by einsum, key heads found by an axis of their own instead of repeated."""
    B, H, T, D = x.q.shape
    Hkv, S, Dv = x.v.shape[1:]
    grouped = x.q.reshape(B, Hkv, H // Hkv, T, D)
    scores = np.einsum("bngtd,bnsd->bngts", grouped, x.k).reshape(x.visible.shape)
    grown, total = exponentials(x.hide(x.scale * scores))
    weights = share(grown, total).reshape(B, Hkv, H // Hkv, T, S)
    return np.asarray(np.einsum("bngts,bnsc->bngtc", weights, x.v).reshape(B, H, T, Dv))


@control("folded-groups")
def folded_groups(x: Inputs) -> Array:
    """The query heads of one key head are laid end to end as more queries: one product for each key head."""
    B, H, T, D = x.q.shape
    Hkv, S, Dv = x.v.shape[1:]
    folded = x.q.reshape(B, Hkv, H // Hkv * T, D)
    scores = (folded @ x.k.swapaxes(-1, -2)).reshape(x.visible.shape)
    grown, total = exponentials(x.hide(x.scale * scores))
    out = x.stored(grown).reshape(B, Hkv, H // Hkv * T, S) @ x.v
    return share(out.reshape(B, H, T, Dv), total)


@control("late-normalisation")
def late_normalisation(x: Inputs) -> Array:
    """The sum of weighted values is divided at the end."""
    grown, total = exponentials(x.logits())
    return share(grown @ x.values, total)


@control("rounded-weights")
def rounded_weights(x: Inputs) -> Array:
    """Normalised weights are rounded to the storage dtype before they meet the values."""
    grown, total = exponentials(x.logits())
    return np.asarray(x.stored(share(grown, total)) @ x.values)


@control("split-scale")
def split_scale(x: Inputs) -> Array:
    """The root of the scale goes to q and to k, its sign to q."""
    root = float(np.sqrt(abs(x.scale)))
    sign = -1.0 if x.scale < 0 else 1.0
    scores = (sign * root * x.q) @ (root * x.keys).swapaxes(-1, -2)
    grown, total = exponentials(x.hide(scores))
    return share(grown @ x.values, total)


@control("scaled-query")
def scaled_query(x: Inputs) -> Array:
    """Q is scaled before the product, in the dtype of the computation."""
    grown, total = exponentials(x.hide((x.scale * x.q) @ x.keys.swapaxes(-1, -2)))
    return share(x.stored(grown) @ x.values, total)


@control("mask-after-exp")
def mask_after_exp(x: Inputs) -> Array:
    """Forbidden weights are zeroed after exp, and the rest normalised; the peak is that of allowed keys."""
    scores = x.scale * (x.q @ x.keys.swapaxes(-1, -2)) + x.bias
    peak = peak_of(np.where(x.visible, scores, -np.inf))
    grown = np.where(x.visible, np.exp(scores - peak), 0)
    return share(grown @ x.values, grown.sum(-1, keepdims=True))


@control("smallest-finite-fill")
def smallest_finite_fill(x: Inputs) -> Array:
    """Forbidden logits are the dtype's lowest number, and what they add is taken out afterwards."""
    logits = np.where(x.visible, x.logits(), np.finfo(x.q.dtype).min)
    grown = np.exp(logits - logits.max(-1, keepdims=True)) * x.visible
    return share(grown @ x.values, grown.sum(-1, keepdims=True))


@control("logarithmic-weights")
def logarithmic_weights(x: Inputs) -> Array:
    """Weights are exp of their logarithms, (logit - peak) - ln(sum), without a division."""
    logits = x.logits()
    below = logits - peak_of(logits)
    log_total = np.log(np.exp(below).sum(-1, keepdims=True))
    return np.asarray(np.exp(below - np.where(np.isneginf(log_total), 0, log_total)) @ x.values)


@control("shuffled-keys-and-features")
def shuffled_keys_and_features(x: Inputs) -> Array:
    """Keys and features are taken in an arbitrary fixed order."""
    rng = np.random.default_rng(7)
    j, d = rng.permutation(x.k.shape[2]), rng.permutation(x.q.shape[3])
    scores = x.scale * (x.q[..., d] @ x.keys[..., j, :][..., d].swapaxes(-1, -2))
    bias = x.bias[..., j] if x.bias.shape[-1] > 1 else x.bias
    grown, total = exponentials(np.where(x.visible[..., j], scores + bias, -np.inf))
    return share(grown @ x.values[:, :, j], total)


@control("pairwise-sums")
def pairwise_sums(x: Inputs) -> Array:
    """Weighted values are summed in a tree whose leaves are four keys."""
    grown, total = exponentials(x.logits())
    values = x.values

    def tree(first: int, last: int) -> Any:
        if last - first <= 4:
            return grown[..., first:last] @ values[:, :, first:last]
        middle = (first + last) // 2
        return tree(first, middle) + tree(middle, last)

    return share(tree(0, values.shape[2]), total)


@control("compensated-sums")
def compensated_sums(x: Inputs) -> Array:
    """Weighted values are summed after Kahan, eight keys at a time."""
    grown, total = exponentials(x.logits())
    values = x.values
    out: Any = np.zeros((*x.q.shape[:3], values.shape[3]), x.q.dtype)
    lost = np.zeros_like(out)
    for j in range(0, values.shape[2], 8):
        term = grown[..., j : j + 8] @ values[:, :, j : j + 8] - lost
        larger = out + term
        lost = (larger - out) - term
        out = larger
    return share(out, total)
