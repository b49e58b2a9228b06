"""Right kernels, as unlike each other as possible: they prove that the suite does not cry wolf.

A control is written as a rule, from `Inputs` to the result in the dtype of the computation, and becomes a kernel
`fn(q, k, v, mask=None, is_causal=False, scale=None)` on NumPy arrays (B, H, T, D).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from attn_conformance.controls.inputs import Array, Inputs, prepare
from attn_reference.claims import DTYPES, PLAIN_FEATURES, Arithmetic, Claims

__all__ = ["Control", "Inputs", "Rule", "control", "controls"]

AREAS = ("dense", "online", "precision", "interface")

FEATURES = (PLAIN_FEATURES - {"gradients"}) | {"gqa", "scale", "dv"}
"""What every control can do."""

Rule = Callable[[Inputs], Any]

_registry: dict[str, Control] = {}


@dataclass(frozen=True)
class Control:
    """A right kernel and what it claims."""

    name: str
    attention: Callable[..., Any]
    claims: Claims


def control(
    name: str,
    *,
    features: tuple[str, ...] = (),
    arithmetic: Arithmetic = "fused",
    dtypes: tuple[str, ...] = DTYPES,
    before: Callable[..., None] | None = None,
) -> Callable[[Rule], Rule]:
    """Register a rule as a kernel. features: beyond FEATURES. before: called first, with all arguments.

    The rule gives out (B, H, T, Dv), or (out, lse), in the dtype of the computation, for at least one key.
    """

    def register(rule: Rule) -> Rule:
        def attention(
            q: Array,
            k: Array,
            v: Array,
            mask: Array | None = None,
            is_causal: bool = False,
            scale: float | None = None,
        ) -> Any:
            if before is not None:
                before(q, k, v, mask, is_causal, scale)
            with np.errstate(all="ignore"):
                inputs = prepare(q, k, v, mask, is_causal, scale)
                result = rule(inputs) if k.shape[2] else inputs.nothing(lse="lse" in features)
                if isinstance(result, tuple):
                    return result[0].astype(q.dtype), result[1]
                return result.astype(q.dtype)

        attention.__name__, attention.__doc__ = rule.__name__, rule.__doc__
        if name in _registry:
            raise ValueError(f"two controls are called {name!r}")
        claims = Claims(dtypes=dtypes, features=FEATURES | set(features), arithmetic=arithmetic)
        _registry[name] = Control(name, attention, claims)
        return rule

    return register


def controls() -> dict[str, Control]:
    """All controls by name."""
    for area in AREAS:
        import_module(f"{__name__}.{area}")
    return dict(_registry)
