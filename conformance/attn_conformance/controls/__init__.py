"""Right kernels and modules, as unlike each other as possible: they prove that the suite does not cry wolf.

A kernel is written as a rule, from `Inputs` to the result in the dtype of the computation, and becomes a kernel
`fn(q, k, v, mask=None, is_causal=False, scale=None)` on NumPy arrays (B, H, T, D).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np

from attn_conformance.controls.inputs import Array, Inputs, prepare
from attn_reference.claims import DTYPES, PLAIN_FEATURES, Arithmetic, Claims

__all__ = ["Control", "Inputs", "Kind", "Rule", "control", "controls", "register"]

AREAS = ("dense", "online", "precision", "interface", "gradients", "modules", "module_caches")

FEATURES = (PLAIN_FEATURES - {"gradients", "linear-memory"}) | {"gqa", "scale", "dv"}
"""What every kernel here can do."""

Rule = Callable[[Inputs], Any]
Kind = Literal["kernel", "module"]

_registry: dict[str, Control] = {}


@dataclass(frozen=True)
class Control:
    """A right kernel or module and what it claims.

    target: a function, a class with the seed's interface, or an Implementation.
    """

    name: str
    kind: Kind
    target: Any
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

    def decorate(rule: Rule) -> Rule:
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
        claims = Claims(dtypes=dtypes, features=FEATURES | set(features), arithmetic=arithmetic)
        register(Control(name, "kernel", attention, claims))
        return rule

    return decorate


def register(control: Control) -> None:
    """Add a control to the registry; ValueError if its name is taken."""
    if control.name in _registry:
        raise ValueError(f"two controls are called {control.name!r}")
    _registry[control.name] = control


def controls(kind: Kind | None = None) -> dict[str, Control]:
    """All controls by name, or those of one kind."""
    for area in AREAS:
        import_module(f"{__name__}.{area}")
    return {name: control for name, control in _registry.items() if kind in (None, control.kind)}
