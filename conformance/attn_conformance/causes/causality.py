"""Wrong readings of the causal rule, and the rule where nobody asked for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attn_conformance.causes.cause import Array, Cause, Change, ForwardChange, changed
from attn_conformance.causes.scores import triangle
from attn_reference import ForwardProblem, Problem


def offset(p: Problem) -> int | None:
    """d, where key j is visible to query i iff j <= i + d; None if the problem is none of that kind."""
    d = int(np.broadcast_to(p.visible, p.shape)[0, 0, 0].sum()) - 1
    return d if np.all(p.visible == triangle(p, d)) else None


def _off(p: Problem) -> Problem:
    return replace(p, visible=np.ones((1, 1, 1, 1), bool))


def _off_unless_square(p: Problem) -> Problem | None:
    T, S = p.shape[2:]
    # The offset tells whether these are all queries: of some of them, T says nothing.
    return _off(p) if T != S and offset(p) == S - T else None


def _anchored(anchor: str) -> Change:
    def change(p: Problem) -> Problem | None:
        T, S = p.shape[2:]
        return replace(p, visible=triangle(p, 0 if anchor == "top-left" else S - T)) if S > T else None

    return change


def _moved(by: int) -> Change:
    def change(p: Problem) -> Problem | None:
        d = offset(p)
        return None if d is None else replace(p, visible=triangle(p, d + by))

    return change


def _reversed(p: Problem) -> Problem | None:
    d = offset(p)
    return None if d is None else replace(p, visible=~triangle(p, d - 1))


def _inverted(p: Problem) -> Problem:
    return replace(p, visible=~p.visible)


def _without_prefix(p: Problem) -> Problem:
    return replace(p, visible=p.visible & _new(p))


def _newest_first(p: Problem) -> Problem | None:
    T, S = p.shape[2:]
    if T >= S:
        return None
    return replace(p, k=np.roll(p.k, T, axis=2), v=np.roll(p.v, T, axis=2))


def _newest_tokens_first(p: ForwardProblem) -> ForwardProblem | None:
    T, S = p.x.shape[1], p.src.shape[1]
    return replace(p, src=np.roll(p.src, T, axis=1)) if T < S else None


def _new(p: Problem) -> Array:
    return np.arange(p.shape[3]) >= p.shape[3] - p.shape[2]


def _unasked(p: Problem) -> Problem:
    return replace(p, visible=p.visible & triangle(p))


def _ruled(name: str, clause: str, change: Change, forward: ForwardChange | None = None) -> Cause:
    return changed(name, clause, change, "causal", forward=forward)


CAUSES = (
    _ruled(
        "causal-off-where-T-differs-from-S",
        "with causality off, here where T and S differ: every query sees every key",
        _off_unless_square,
    ),
    _ruled("causal-off", "with causality off: every query sees every key", _off),
    _ruled(
        "causal-top-left",
        "with the causal triangle anchored at the top left: key j is visible to query i iff j <= i",
        _anchored("top-left"),
    ),
    _ruled(
        "causal-bottom-right",
        "with the causal triangle anchored at the bottom right: key j is visible to query i iff j <= i + (S - T)",
        _anchored("bottom-right"),
    ),
    _ruled("causal-one-key-too-many", "if every query sees one key of the future", _moved(1)),
    _ruled("causal-own-key-hidden", "if no query sees its own key", _moved(-1)),
    _ruled(
        "causal-reversed", "with the causal rule reversed: a query sees its own key and later ones", _reversed
    ),
    _ruled("causal-inverted", "with the causal triangle inverted: a query sees later keys alone", _inverted),
    _ruled("causal-prefix-hidden", "if the first S - T keys, those of a prefix, are hidden", _without_prefix),
    _ruled(
        "causal-newest-first",
        "if the last T keys stand before the others",
        _newest_first,
        forward=_newest_tokens_first,
    ),
    changed("causal-unasked", "under the causal rule, for which nobody asked", _unasked, "nothing", "mask"),
)
