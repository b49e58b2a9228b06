"""Changes of a forward call: projections that are lost, turned, exchanged, or split the other way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from attn_conformance.causes.cause import Array
from attn_conformance.causes.cause import ForwardChange as Change
from attn_reference import ForwardProblem
from attn_reference.forward import PROJECTIONS


def with_(p: ForwardProblem, weights: Mapping[str, Array], biases: Mapping[str, Array]) -> ForwardProblem:
    """The call with some weights and biases replaced."""
    return replace(p, weights={**p.weights, **weights}, biases={**p.biases, **biases})


def no_bias(*names: str) -> Change:
    """The projections `names` have no bias."""
    return lambda p: with_(p, {}, {name: 0 * p.biases[name] for name in names})


def turned(*names: str) -> Change:
    """The weights of the projections `names` are transposed."""
    return lambda p: with_(p, {name: p.weights[name].T for name in names}, {})


def missing(name: str) -> Change:
    """One projection does nothing."""
    return lambda p: with_(p, {name: np.eye(p.x.shape[2])}, {name: 0 * p.biases[name]})


def exchanged(*order: str) -> Change:
    """Query, key and value have the parameters of those that `order` names."""

    def change(p: ForwardProblem) -> ForwardProblem:
        pairs = tuple(zip(PROJECTIONS, order, strict=False))
        return with_(
            p,
            {name: p.weights[other] for name, other in pairs},
            {name: p.biases[other] for name, other in pairs},
        )

    return change


def split_as_d_h(*names: str, out: bool = False) -> Change:
    """The features of the projections `names` are split as (D, H); out: and merged that way too."""

    def change(p: ForwardProblem) -> ForwardProblem:
        N = p.x.shape[2]
        order = np.arange(N).reshape(N // p.n_head, p.n_head).T.reshape(-1)
        changed = with_(
            p,
            {name: p.weights[name][order] for name in names},
            {name: p.biases[name][order] for name in names},
        )
        return with_(changed, {"out": p.weights["out"][:, order]}, {}) if out else changed

    return change
