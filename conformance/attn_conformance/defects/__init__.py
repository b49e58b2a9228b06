"""Kernels with one numeric defect of a stated size each: they measure how often a single case shows it.

Some defects lie below what the dtype resolves, so none of these has to be rejected: those that have to are mutants. A
defect is a rule, as controls are, or a backward pass, beside the right code that it was made from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from attn_conformance.controls import FEATURES, Rule, as_kernel
from attn_reference.claims import DTYPES, Claims

AREAS = ("scores", "masks", "keys", "tiles", "results", "gradients")

_registry: dict[str, Defect] = {}


@dataclass(frozen=True)
class Defect:
    """A defective kernel, the same code without the defect, and what both claim."""

    name: str
    target: Callable[..., Any]
    twin: Callable[..., Any]
    claims: Claims

    @property
    def lie(self) -> str:
        """The first line of the target's docstring: what it does wrong, in one sentence."""
        return (inspect.getdoc(self.target) or "").partition("\n")[0]


def defect(name: str, *, twin: Rule, dtypes: tuple[str, ...] = DTYPES) -> Callable[[Rule], Rule]:
    """Register a rule as a defective kernel."""

    def decorate(rule: Rule) -> Rule:
        register(Defect(name, as_kernel(rule), as_kernel(twin), Claims(dtypes=dtypes, features=FEATURES)))
        return rule

    return decorate


def register(defect: Defect) -> None:
    """Add a defect to the registry; ValueError if its name is taken."""
    if defect.name in _registry:
        raise ValueError(f"two defects are called {defect.name!r}")
    _registry[defect.name] = defect


def defects() -> dict[str, Defect]:
    """All defects by name."""
    for area in AREAS:
        import_module(f"{__name__}.{area}")
    return dict(_registry)
