"""The tiled kernel, right in every respect: tiles of 32 keys with a running maximum, for lies about tiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.mutants import quiet
from attn_conformance.mutants.plain import NEVER, Array, hide_future, masked, scores, spread, widen

TILE = 32


@quiet
def attention(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False, tile: int = TILE
) -> Array:
    """Softmax attention, one tile of keys after the other."""
    return accumulate(hide_future(masked(scores(q, k), mask), is_causal), v, tile).astype(q.dtype)


def accumulate(
    logits: Array,
    v: Array,
    tile: int = TILE,
    *,
    padding: float = NEVER,
    rescaled: bool = True,
    guarded: bool = True,
) -> Array:
    """Weighted values (B, H, T, Dv), normalised at the end, in the dtype of the logits.

    padding: the logit of the keys that fill up the last tile. rescaled: whether earlier tiles are brought to
    a new maximum. guarded: whether a maximum of -inf, that of rows in which nothing was visible so far, is
    kept out of the differences. All but the defaults are lies.
    """
    B, H, T, S = logits.shape
    values = spread(widen(v), H)
    room = -S % tile
    logits = np.pad(logits, [(0, 0)] * 3 + [(0, room)], constant_values=padding)
    values = np.pad(values, [(0, 0)] * 2 + [(0, room), (0, 0)])
    peak = np.full((B, H, T, 1), NEVER, logits.dtype)
    total = np.zeros((B, H, T, 1), logits.dtype)
    out: Any = np.zeros((B, H, T, v.shape[3]), logits.dtype)
    for first in range(0, S, tile):
        part = logits[..., first : first + tile]
        higher = np.maximum(peak, part.max(-1, keepdims=True))
        base = np.where(np.isneginf(higher), 0, higher) if guarded else higher
        grown = np.exp(part - base)
        shrink = np.exp(peak - base) if rescaled else np.ones_like(peak)
        total = total * shrink + grown.sum(-1, keepdims=True)
        out = out * shrink + grown @ values[..., first : first + tile, :]
        peak = higher
    return np.asarray(out / np.where(total == 0, 1, total))
