"""Wrong forward calls of a module: projections that are lost, turned or exchanged, and what xa is used for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from attn_conformance.causes.cause import Array, Cause, Recognition, Situation, from_answer_to, from_wrong
from attn_conformance.causes.places import stored_htd, stored_thd
from attn_conformance.judge import ask_module
from attn_reference import ForwardProblem, unit_roundoff
from attn_reference.forward import PROJECTIONS, merge_heads, split_heads

Change = Callable[[ForwardProblem], ForwardProblem | None]


def _called(name: str, clause: str, change: Change) -> Cause:
    def distance(situation: Situation) -> float | None:
        if not isinstance(situation.problem, ForwardProblem):
            return None
        other = change(situation.problem)
        return other is not None and answers(situation, other)

    return Cause(name, f"every element is what forward gives {clause}", distance)


def _with(p: ForwardProblem, weights: Mapping[str, Array], biases: Mapping[str, Array]) -> ForwardProblem:
    return replace(p, weights={**p.weights, **weights}, biases={**p.biases, **biases})


def _no_bias(*names: str) -> Change:
    return lambda p: _with(p, {}, {name: 0 * p.biases[name] for name in names})


def _turned(*names: str) -> Change:
    return lambda p: _with(p, {name: p.weights[name].T for name in names}, {})


def _missing(name: str) -> Change:
    return lambda p: _with(p, {name: np.eye(p.x.shape[2])}, {name: 0 * p.biases[name]})


def _exchanged(*order: str) -> Change:
    """With the parameters of query, key and value taken from those named in `order`."""

    def change(p: ForwardProblem) -> ForwardProblem:
        pairs = tuple(zip(PROJECTIONS, order, strict=False))
        return _with(
            p, {name: p.weights[other] for name, other in pairs}, {name: p.biases[other] for name, other in pairs}
        )

    return change


def _split_as_d_h(*names: str, out: bool = False) -> Change:
    """With the features of projections split as (D, H); out: and merged that way too."""

    def change(p: ForwardProblem) -> ForwardProblem:
        N = p.x.shape[2]
        order = np.arange(N).reshape(N // p.n_head, p.n_head).T.reshape(-1)
        changed = _with(
            p, {name: p.weights[name][order] for name in names}, {name: p.biases[name][order] for name in names}
        )
        return _with(changed, {"out": p.weights["out"][:, order]}, {}) if out else changed

    return change


def _xa_ignored(p: ForwardProblem) -> ForwardProblem:
    return replace(p, src=p.x)


def _from_both(keys: str) -> Recognition:
    """Recognises keys from one of x and xa, `keys`, and values from the other."""

    def distance(situation: Situation) -> float | None:
        p, right = situation.problem, situation.right
        if not isinstance(p, ForwardProblem) or p.x.shape != p.src.shape:
            return None
        N, none = p.x.shape[2], np.zeros_like(p.weights["key"])
        # Features side by side, and weights that take their half; half of the result is idle.
        left = {"query": True, "key": keys == "x", "value": keys != "x", "out": True}
        weights = {
            name: np.concatenate([p.weights[name], none] if first else [none, p.weights[name]], 1)
            for name, first in left.items()
        }
        weights["out"] = np.concatenate([p.weights["out"], none])
        biases = {"out": np.concatenate([p.biases["out"], np.zeros(N)])}
        both = np.concatenate([p.x, p.src], 2)
        wrong = ask_module(replace(_with(p, weights, biases), x=both, src=both), right.dtype, right.arithmetic)
        parts = {name: getattr(wrong, name)[..., :N] for name in ("value", "low", "limit")}
        return from_wrong(situation, replace(right, **parts))

    return distance


def _merged(layout: Callable[[Array], Array]) -> Recognition:
    """Recognises heads that are put together in another order before the out projection."""

    def distance(situation: Situation) -> float | None:
        p, right = situation.problem, situation.right
        if not isinstance(p, ForwardProblem):
            return None
        N = p.x.shape[2]
        # The heads and their bound are those of a module whose out projection does nothing.
        heads = ask_module(_with(p, {"out": np.eye(N)}, {"out": np.zeros(N)}), right.dtype, right.arithmetic)
        o, error = (
            merge_heads(layout(split_heads(part[:, 0], p.n_head))) for part in (heads.value, heads.limit)
        )
        W, b = p.weights["out"], p.biases["out"]
        value, size = o @ W.T + b, np.abs(o) @ np.abs(W.T) + np.abs(b)
        most = error @ np.abs(W.T) + (N + 3) * unit_roundoff(right.dtype) * size
        wrong = replace(right, value=value[:, None], low=0 * value[:, None], limit=most[:, None])
        return from_wrong(situation, wrong)

    return distance


CAUSES = (
    *(_called(f"{name}-bias-missing", f"without the bias of {name}", _no_bias(name)) for name in ("query", "value", "out")),
    _called("biases-missing", "without any bias", _no_bias(*PROJECTIONS)),
    *(_called(f"{name}-weight-transposed", f"with the weight of {name} transposed", _turned(name)) for name in PROJECTIONS),
    _called("weights-transposed", "with all weights transposed", _turned(*PROJECTIONS)),
    *(_called(f"{name}-missing", f"without the projection {name}", _missing(name)) for name in ("out", "query", "key", "value")),
    _called("projections-query-and-key", "with the projections query and key exchanged", _exchanged("key", "query", "value")),
    _called("projections-key-and-value", "with the projections key and value exchanged", _exchanged("query", "value", "key")),
    _called("projections-query-and-value", "with the projections query and value exchanged", _exchanged("value", "key", "query")),
    _called("projections-shifted", "if query, key and value are projected as key, value and query", _exchanged("key", "value", "query")),
    _called("projections-shifted-back", "if query, key and value are projected as value, query and key", _exchanged("value", "query", "key")),
    _called("key-for-value", "with the projection key in place of value", _exchanged("query", "key", "key")),
    _called("values-of-forward-split-as-D-H", "with the features of value split as (D, H), not as (H, D)", _split_as_d_h("value")),
    _called("heads-split-as-D-H", "with the features of query, key and value split as (D, H), not as (H, D)", _split_as_d_h("query", "key", "value")),
    _called("heads-interleaved", "with feature n in head n modulo H, not n // D", _split_as_d_h("query", "key", "value", out=True)),
    Cause("forward-merged-as-H-T", "every element is what forward gives if heads (B, H, T, D) are merged without a transpose", _merged(stored_htd)),
    Cause("forward-merged-as-T-H", "every element is what forward gives if heads (B, T, H, D) are transposed before they are merged", _merged(stored_thd)),
    _called("xa-ignored", "if x attends to itself: xa is ignored", _xa_ignored),
    Cause("values-of-x", "every element is what forward gives if values come from x, and keys alone from xa", _from_both("xa")),
    Cause("keys-of-x", "every element is what forward gives if keys come from x, and values alone from xa", _from_both("x")),
)  # fmt: skip
