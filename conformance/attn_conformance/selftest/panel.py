"""The panel: right kernels that must raise no alarm, and kernels with a numeric defect that should be detected."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from attn_conformance.controls import controls
from attn_conformance.defects import defects
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.targets import subject

ALIKE = ("validating", "transposed-result", "with-log-sum-exp")
"""Controls that compute as late-normalisation does."""

IN_PYTORCH = ("math_kernel", "flash_kernel", "lse_form")

MUTANTS = (
    "no-scale",
    "scale-one-over-head-size",
    "scale-off-by-one-percent",
    "scale-off-by-a-thousandth",
    "scores-accumulated-low",
    "values-accumulated-low",
    "mask-after-softmax",
    "mask-added-before-scale",
    "float-mask-rounded-to-half",
    "forbidden-filled-with-minus-1e4",
    "peak-over-forbidden-keys",
    "one-key-into-the-future",
    "causal-misses-own-key",
    "last-partial-tile-dropped",
    "padded-keys-in-denominator",
    "partial-results-averaged",
    "exp2-without-log2e",
    "no-peak-subtraction",
    "epsilon-in-denominator",
    "output-cast-truncates",
)
"""Mutants that are numeric defects; those too small to be mutants are in `defects`."""


@dataclass(frozen=True)
class Member:
    """A kernel of the panel, as a target; twin: the same code without the defect, None for a right one."""

    target: str
    twin: str | None = None

    @property
    def name(self) -> str:
        """The target without its kind."""
        return self.target.rpartition(":")[2]

    @property
    def right(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.twin is None


def panel() -> tuple[Member, ...]:
    """All members, the right ones first; those in PyTorch where it is installed."""
    right = [Member(f"control:{name}") for name in controls("kernel") if name not in ALIKE]
    if importlib.util.find_spec("torch") is not None:
        right += [Member(f"attn_conformance.selftest.pytorch:{name}") for name in IN_PYTORCH]
    wrong = [Member(f"mutant:{name}", f"twin:{name}") for name in MUTANTS]
    wrong += [Member(f"defect:{name}", f"twin:{name}") for name in defects()]
    return (*right, *wrong)


def chosen(only: Iterable[str]) -> tuple[Member, ...]:
    """The members that `only` names: all if it is empty; ValueError if one is unknown."""
    asked = set(only)
    everyone = panel()
    if unknown := sorted(asked - {member.name for member in everyone}):
        known = ", ".join(member.name for member in everyone)
        raise ValueError(f"no kernel {unknown[0]!r} in the panel; known are {known}")
    return tuple(member for member in everyone if member.name in asked or not asked)


@cache
def loaded(target: str) -> KernelSubject:
    """The subject of a target, once for each process."""
    found, _ = subject(target)
    assert isinstance(found, KernelSubject)
    return found
