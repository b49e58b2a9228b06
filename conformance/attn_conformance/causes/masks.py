"""Wrong readings of a mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from attn_conformance.cases.values import STORAGE
from attn_conformance.causes.cause import Array, Cause, Change, Situation, changed
from attn_conformance.causes.scores import triangle
from attn_reference import Problem
from attn_reference.matrices import grouped

ALL, NONE = np.ones((1, 1, 1, 1), bool), np.zeros((1, 1, 1, 1))
"""Every key is visible; nothing is added."""


def _ignored(p: Problem) -> Problem:
    return replace(p, visible=ALL, bias=NONE)


def _inverted(p: Problem) -> Problem | None:
    return None if p.bias.any() else replace(p, visible=~p.visible)


def _below(p: Problem) -> Problem:
    return replace(p, visible=triangle(p), bias=NONE)


def _values_ignored(p: Problem) -> Problem:
    return replace(p, bias=NONE)


def _as_boolean(p: Problem) -> Problem | None:
    return replace(p, visible=(p.bias != 0) | ~p.visible, bias=NONE) if p.bias.any() else None


def _before_scale(p: Problem) -> Problem:
    return replace(p, bias=p.bias * p.scale)


def _as_numbers(p: Problem) -> Problem | None:
    return None if p.bias.any() else replace(p, visible=ALL, bias=p.visible.astype(np.float64))


def _scores(p: Problem) -> Array:
    return p.scale * grouped(p.q, p.k.swapaxes(-1, -2))


def _multiplied(p: Problem) -> Problem | None:
    if not p.bias.any():
        return replace(p, visible=ALL, bias=np.where(p.visible, 0, -_scores(p)))
    return replace(p, bias=_scores(p) * (p.bias - 1)) if p.visible.all() else None


def _planes(p: Problem, pick: Any) -> Problem:
    """With each plane of the mask, in full for batch and heads, taken from where `pick` (b, h) says."""
    B, H, _, _ = p.shape
    b, h = np.indices((B, H))

    def taken(plane: Array) -> Array:
        full = np.broadcast_to(plane, (B, H, *plane.shape[2:]))
        return np.asarray(full[pick(b, h)])

    return replace(p, visible=taken(p.visible), bias=taken(p.bias))


def _of_first_element(p: Problem) -> Problem:
    return _planes(p, lambda b, h: (0 * b, h))


def _of_first_head(p: Problem) -> Problem:
    return _planes(p, lambda b, h: (b, 0 * h))


def _tiled(p: Problem) -> Problem:
    B, H, _, _ = p.shape
    return _planes(p, lambda b, h: ((b * H + h) % B, h))


def _axes_exchanged(p: Problem, first: int, second: int) -> Problem | None:
    if p.shape[first] != p.shape[second]:
        return None
    return replace(p, visible=p.visible.swapaxes(first, second), bias=p.bias.swapaxes(first, second))


def _first_row(p: Problem) -> Problem:
    return replace(p, visible=p.visible[:, :, :1], bias=p.bias[:, :, :1])


def _of_new_keys(p: Problem) -> Problem:
    cached = np.arange(p.shape[3]) < p.shape[3] - p.shape[2]
    return replace(p, visible=p.visible | cached, bias=np.where(cached, 0, p.bias))


def _rounded(dtype: str) -> Change:
    @np.errstate(over="ignore")
    def change(p: Problem) -> Problem:
        bias = p.bias.astype(STORAGE[dtype]).astype(np.float64)
        visible = p.visible & (bias > -np.inf)
        return replace(p, visible=visible, bias=np.where(visible, bias, 0))

    return change


def _in_dtype_of_q(situation: Situation) -> float | None:
    return _masked("", "", _rounded(situation.right.dtype)).distance(situation)


def _trimmed(p: Problem) -> Problem:
    first = np.broadcast_to(p.visible, p.shape)[0].any((0, 1))
    return replace(p, visible=p.visible & (np.arange(first.size) <= np.flatnonzero(first).max(initial=-1)))


def _added(number: float) -> Change:
    return lambda p: replace(p, visible=ALL, bias=np.where(p.visible, p.bias, number))


def _filled(number: float) -> Change:
    return lambda p: replace(p, visible=ALL, bias=np.where(p.visible, p.bias, number - _scores(p)))


def _masked(name: str, clause: str, change: Change) -> Cause:
    return changed(name, clause, change, "mask")


CAUSES = (
    _masked(
        "mask-inverted", "with the mask inverted: the keys that it hides are seen, and no others", _inverted
    ),
    _masked("mask-ignored", "without the mask", _ignored),
    *(
        _masked(f"hidden-by-filling{number:g}", f"if hidden scores are set to {number:g}", _filled(number))
        for number in (-1e4, -1e9)
    ),
    *(
        _masked(f"hidden-by-adding{number:g}", f"if {number:g} is added to hidden scores", _added(number))
        for number in (-1e4, -1e9, -100.0)
    ),
    _masked("mask-values-ignored", "if of a floating mask only minus infinity counts", _values_ignored),
    _masked(
        "float-mask-as-boolean", "if a floating mask is read as a boolean one: all but 0 is True", _as_boolean
    ),
    _masked("mask-before-scale", "if a floating mask is added before the scale is applied", _before_scale),
    _masked("mask-multiplied", "if the scores are multiplied by the mask", _multiplied),
    _masked("boolean-mask-added", "if a boolean mask is added to the scores as 0 and 1", _as_numbers),
    _masked("mask-of-batch-element-0", "with the mask of batch element 0 for every one", _of_first_element),
    _masked("mask-of-head-0", "with the mask of head 0 for every head", _of_first_head),
    _masked(
        "mask-transposed", "with queries and keys exchanged in the mask", lambda p: _axes_exchanged(p, 2, 3)
    ),
    _masked(
        "mask-batch-as-heads",
        "with batch elements and heads exchanged in the mask",
        lambda p: _axes_exchanged(p, 0, 1),
    ),
    _masked("mask-tiled", "with the mask of batch element (b H + h) modulo B in head h of element b", _tiled),
    _masked("mask-of-new-keys-only", "if the mask does not count for the first S - T keys", _of_new_keys),
    _masked("mask-of-first-query", "with the mask of query 0 for every query", _first_row),
    _masked("causal-for-mask", "under the causal rule in place of the mask", _below),
    Cause(
        "mask-in-dtype-of-q",
        "every element is what attention gives if the mask is rounded to the dtype of q first",
        _in_dtype_of_q,
    ),
    _masked(
        "keys-of-batch-element-0", "if keys that batch element 0 does not see are hidden from all", _trimmed
    ),
    *(
        _masked(f"mask-in-{dtype}", f"if the mask is rounded to {dtype} first", _rounded(dtype))
        for dtype in ("float16", "bfloat16")
    ),
)
