"""The registry: one check for each requirement, and what a check is."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis.strategies import SearchStrategy

from attn_conformance.cases import KernelCase
from attn_conformance.subject import Scope, Subject

Outcome = bool | str
"""What a check returns: whether the example was effective, or (observed requirements) what was seen."""


FLOOR = 0.05
"""Least share of effective examples, unless a check declares another: 1 of 20, 8 of 150. Typical shares are 0.5 to
1; under a loose arithmetic 0.2. A floor near them would fail correct kernels by the luck of the draw."""


@dataclass(frozen=True)
class Check:
    """A requirement's check.

    function: runs one example; raises Failed, or returns an Outcome. cases: the domain, as a strategy, for what
    a subject claims. floor: the least share of examples in which the feature must have mattered.
    """

    requirement: str
    function: Callable[[Subject, KernelCase], Outcome]
    cases: Callable[[Scope], SearchStrategy[KernelCase]]
    floor: float

    @property
    def sentence(self) -> str:
        """First line of the check's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


_CHECKS: dict[str, Check] = {}


def check(
    requirement: str, *, cases: Callable[[Scope], SearchStrategy[KernelCase]], floor: float = FLOOR
) -> Callable[[Callable[[Subject, KernelCase], Outcome]], Callable[[Subject, KernelCase], Outcome]]:
    """Register a function as the check of a requirement."""

    def register(
        function: Callable[[Subject, KernelCase], Outcome],
    ) -> Callable[[Subject, KernelCase], Outcome]:
        if requirement in _CHECKS:
            raise ValueError(f"{requirement} has two checks: {_CHECKS[requirement].function} and {function}")
        _CHECKS[requirement] = Check(requirement, function, cases, floor)
        return function

    return register


def checks() -> dict[str, Check]:
    """All checks by requirement id."""
    from attn_conformance import checks as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(_CHECKS)
