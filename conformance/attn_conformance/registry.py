"""The registry: the checks of each requirement, and what a check is."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hypothesis.strategies import SearchStrategy

from attn_conformance.cases import Case
from attn_conformance.grounds import Ground
from attn_conformance.scope import OPENED_BY, Scope
from attn_reference.requirements import Kind

Outcome = bool | str
"""What a check returns: whether the example was effective, or (observed requirements) what was seen."""

Function = Callable[[Any, Any], Outcome]
"""(subject, case) -> outcome; raises Failed."""

F = TypeVar("F", bound=Function)

FLOOR = 0.05
"""Least share of effective examples, unless a check declares another: 1 of 20, 8 of 150. Typical shares are 0.5 to
1; under a loose arithmetic 0.2. A floor near them would fail correct kernels by the luck of the draw."""

KERNEL: tuple[Kind, ...] = ("kernel",)
MODULE: tuple[Kind, ...] = ("module",)
BOTH: tuple[Kind, ...] = ("kernel", "module")

FEW, SOME = 40, 60
"""Examples at the default effort where what may be drawn is soon exhausted, or merely observed."""

Grounds = Callable[[Any], Iterable[Ground]]
"""case -> what it rests on."""


def standing_alone(case: Case) -> tuple[Ground, ...]:
    """Of a check that rests on nothing."""
    return ()


OPEN = ("kernel", "qkv", "self", "cross")
"""Windows through which any problem without a cache can be put."""


@dataclass(frozen=True)
class Check:
    """One check of a requirement; most have a single one, which serves both kinds.

    function: runs one example; raises Failed, or returns an Outcome. cases: the domain, as a strategy, for what
    a subject claims. floor: the least share of examples in which the feature must have mattered. kinds: of subject
    that it serves. windows: those that its cases may be put through. needs: features without which it is left out.
    at_most: examples at the default effort, where one is slow and more would show nothing new. grounds: simpler cases,
    on which one of its own rests: if they fail as well, the failure is no news of this requirement.
    """

    requirement: str
    function: Function
    cases: Callable[[Scope], SearchStrategy[Any]]
    floor: float = FLOOR
    kinds: tuple[Kind, ...] = BOTH
    windows: tuple[str, ...] = OPEN
    needs: tuple[str, ...] = ()
    at_most: int | None = None
    grounds: Grounds = standing_alone

    @property
    def name(self) -> str:
        """Name of the check's function."""
        return self.function.__name__

    @property
    def sentence(self) -> str:
        """First line of the check's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def narrowed(self, scope: Scope) -> Scope:
        """The scope, with no other windows than the check's own."""
        return replace(scope, windows=tuple(w for w in scope.windows if w in self.windows))

    def lacks(self, scope: Scope) -> tuple[str, ...]:
        """Features without which the check has nothing to ask: () where it can be asked."""
        if missing := tuple(feature for feature in self.needs if not scope.has(feature)):
            return missing
        if self.narrowed(scope).windows:
            return ()
        return tuple(OPENED_BY[window] for window in self.windows if window in OPENED_BY)


_CHECKS: dict[str, list[Check]] = {}


def check(
    requirement: str,
    *,
    cases: Callable[[Scope], SearchStrategy[Case]],
    floor: float = FLOOR,
    kinds: tuple[Kind, ...] = BOTH,
    windows: tuple[str, ...] = OPEN,
    needs: tuple[str, ...] = (),
    at_most: int | None = None,
    grounds: Grounds = standing_alone,
) -> Callable[[F], F]:
    """Register a function as a check of a requirement."""

    def register(function: F) -> F:
        _CHECKS.setdefault(requirement, []).append(
            Check(requirement, function, cases, floor, kinds, windows, needs, at_most, grounds)
        )
        return function

    return register


def checks() -> dict[str, tuple[Check, ...]]:
    """The checks of every requirement that has some, by id."""
    from attn_conformance import checks as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    # Those that serve both kinds first: they say what the requirement is about.
    return {r: tuple(sorted(found, key=lambda c: -len(c.kinds))) for r, found in _CHECKS.items()}
