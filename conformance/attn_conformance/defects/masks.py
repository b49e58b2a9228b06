"""Defects of masks: hidden keys that keep a little weight."""

from __future__ import annotations

import numpy as np

from attn_conformance.controls import Inputs
from attn_conformance.controls.inputs import Array, peak_of
from attn_conformance.defects import defect
from attn_conformance.defects.right import finished, right


def leaking(x: Inputs, where: Array, exponent: float) -> Array:
    """Attention in which the hidden keys marked in `where` weigh e^exponent times as much as the row's largest.

    where: (B, H, T, S). Rows that see nothing leak nothing.
    """
    logits = x.logits()
    leaks = where & ~x.visible & x.visible.any(-1, keepdims=True)
    return finished(x, np.where(leaks, peak_of(logits) + exponent, logits))


def middle_hidden_key(x: Inputs) -> Array:
    """(B, H, T, S), True at one hidden key, that in the middle of all that are hidden from a row with others."""
    where = np.zeros(x.visible.shape, np.bool_)
    places = np.argwhere(~x.visible & x.visible.any(-1, keepdims=True))
    if len(places):
        where[tuple(places[len(places) // 2])] = True
    return where


@defect("one-hidden-key-leaks-e-5", twin=right)
def one_hidden_key_leaks_e_5(x: Inputs) -> Array:
    """One hidden key in one row weighs e^-5 times as much as the row's largest."""
    return leaking(x, middle_hidden_key(x), -5.0)


@defect("one-hidden-key-leaks-e-10", twin=right)
def one_hidden_key_leaks_e_10(x: Inputs) -> Array:
    """One hidden key in one row weighs e^-10 times as much as the row's largest."""
    return leaking(x, middle_hidden_key(x), -10.0)


@defect("all-hidden-keys-leak-e-10", twin=right)
def all_hidden_keys_leak_e_10(x: Inputs) -> Array:
    """Every hidden key weighs e^-10 times as much as its row's largest."""
    return leaking(x, ~x.visible, -10.0)


@defect("hidden-keys-less-10", twin=right)
def hidden_keys_less_10(x: Inputs) -> Array:
    """Hidden keys have 10 subtracted from their logits, in rows that see others."""
    logits = x.scale * (x.q @ x.keys.swapaxes(-1, -2)) + x.bias
    hidden = np.where(x.visible.any(-1, keepdims=True), logits - 10, -np.inf)
    return finished(x, np.where(x.visible, logits, hidden))
