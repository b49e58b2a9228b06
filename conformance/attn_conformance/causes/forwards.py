"""Wrong forward calls of a module: projections that are lost, turned or exchanged, and xa used in part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from attn_conformance.causes.cause import (
    Array,
    Cause,
    ForwardChange,
    Recognition,
    Situation,
    changed,
    from_parts,
)
from attn_conformance.causes.places import stored_htd, stored_thd
from attn_conformance.causes.projections import exchanged, missing, no_bias, split_as_d_h, turned, with_
from attn_conformance.judge import ask_module
from attn_reference import ForwardProblem, unit_roundoff
from attn_reference.forward import PROJECTIONS, merge_heads, split_heads


def _called(name: str, clause: str, change: ForwardChange) -> Cause:
    return changed(name, clause, None, forward=change)


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
        wrong = ask_module(
            replace(with_(p, weights, biases), x=both, src=both), right.dtype, right.arithmetic
        )
        return from_parts(situation, wrong.value[..., :N], wrong.low[..., :N], wrong.limit[..., :N])

    return distance


def _merged(layout: Callable[[Array], Array]) -> Recognition:
    """Recognises heads that are put together in another order before the out projection."""

    def distance(situation: Situation) -> float | None:
        p, right = situation.problem, situation.right
        if not isinstance(p, ForwardProblem):
            return None
        N = p.x.shape[2]
        # The heads and their bound are those of a module whose out projection does nothing.
        heads = ask_module(with_(p, {"out": np.eye(N)}, {"out": np.zeros(N)}), right.dtype, right.arithmetic)
        o, error = (
            merge_heads(layout(split_heads(part[:, 0], p.n_head))) for part in (heads.value, heads.limit)
        )
        W, b = p.weights["out"], p.biases["out"]
        value, size = o @ W.T + b, np.abs(o) @ np.abs(W.T) + np.abs(b)
        most = error @ np.abs(W.T) + (N + 3) * unit_roundoff(right.dtype) * size
        return from_parts(situation, value[:, None], np.zeros(()), most[:, None])

    return distance


CAUSES = (
    *(
        _called(f"{name}-bias-missing", f"without the bias of {name}", no_bias(name))
        for name in ("query", "value", "out")
    ),
    _called("biases-missing", "without any bias", no_bias(*PROJECTIONS)),
    *(
        _called(f"{name}-weight-transposed", f"with the weight of {name} transposed", turned(name))
        for name in PROJECTIONS
    ),
    _called("weights-transposed", "with all weights transposed", turned(*PROJECTIONS)),
    *(
        _called(f"{name}-missing", f"without the projection {name}", missing(name))
        for name in ("out", "query", "key", "value")
    ),
    _called(
        "projections-query-and-value",
        "with the projections query and value exchanged",
        exchanged("value", "key", "query"),
    ),
    _called(
        "projections-shifted",
        "if query, key and value are projected as key, value and query",
        exchanged("key", "value", "query"),
    ),
    _called(
        "projections-shifted-back",
        "if query, key and value are projected as value, query and key",
        exchanged("value", "query", "key"),
    ),
    _called(
        "heads-interleaved",
        "with feature n in head n modulo H, not n // D",
        split_as_d_h("query", "key", "value", out=True),
    ),
    Cause(
        "forward-merged-as-H-T",
        "every element is what attention gives if heads (B, H, T, D) are merged without a transpose",
        _merged(stored_htd),
    ),
    Cause(
        "forward-merged-as-T-H",
        "every element is what attention gives if heads (B, T, H, D) are transposed before they are merged",
        _merged(stored_thd),
    ),
    Cause(
        "values-of-x",
        "every element is what attention gives if values come from x, and keys alone from xa",
        _from_both("xa"),
    ),
    Cause(
        "keys-of-x",
        "every element is what attention gives if keys come from x, and values alone from xa",
        _from_both("x"),
    ),
)
