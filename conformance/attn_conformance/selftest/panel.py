"""The panel: right kernels that must raise no alarm, and kernels with a numeric defect that should be detected."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from attn_conformance.controls import controls
from attn_conformance.defects import defects
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.selftest.posed import Of
from attn_conformance.targets import Narrowing, subject
from attn_reference import Claims

ALIKE = ("validating", "transposed-result", "with-log-sum-exp")
"""Controls that compute as late-normalisation does."""

IN_PYTORCH: dict[Of, tuple[str, ...]] = {
    "out": ("math_kernel", "flash_kernel", "lse_form"),
    # Not flash_kernel: on CPUs it rounds the gradients of k and v after each block of queries.
    "gradients": ("math_kernel",),
}
"""Functions of `pytorch` on CPUs, by what is asked of them."""

ON_CUDA = ("math_kernel", "efficient_kernel", "flash_kernel", "cudnn_kernel")
"""Functions of `pytorch` that are the panel on CUDA, for outputs and gradients."""

IN = "attn_conformance.selftest.pytorch:{}"
"""Targets of PyTorch's functions, by name."""

MUTANTS: tuple[str, ...] = (
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

MUTANTS_BACKWARD: tuple[str, ...] = (
    "row-term-missing",
    "key-gradient-not-scaled",
    "value-gradient-of-unnormalised-weights",
    "last-rows-missing-in-the-key-gradient",
    "mask-missing-in-the-backward-pass",
)
"""Likewise, of the backward pass."""


@dataclass(frozen=True)
class Member:
    """A kernel of the panel, as a target, and what is asked of it; twin: its code without the defect, if it has one."""

    target: str
    of: Of = "out"
    twin: str | None = None
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The target without its kind."""
        return self.target.rpartition(":")[2]

    @property
    def right(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.twin is None


def panel(device: str = "cpu") -> tuple[Member, ...]:
    """All members, the right ones first, those asked for their output before those for gradients.

    Without PyTorch, which differentiates, there are no gradients. On CUDA they are PyTorch's kernels.
    """
    if device == "cuda":
        both: tuple[Of, ...] = ("out", "gradients")
        return tuple(Member(IN.format(name), of, device=device) for of in both for name in ON_CUDA)
    asked: tuple[Of, ...] = ("out", "gradients") if importlib.util.find_spec("torch") else ("out",)
    return tuple(member for of in asked for member in (*_right(of), *_wrong(of)))


def _right(of: Of) -> Iterator[Member]:
    for name, control in controls("kernel").items():
        if name not in ALIKE and _asked(control.claims) == of:
            yield Member(f"control:{name}", of)
    if importlib.util.find_spec("torch") is not None:
        yield from (Member(IN.format(name), of) for name in IN_PYTORCH[of])


def _wrong(of: Of) -> Iterator[Member]:
    for name in MUTANTS if of == "out" else MUTANTS_BACKWARD:
        yield Member(f"mutant:{name}", of, f"twin:{name}")
    for name, defect in defects().items():
        if _asked(defect.claims) == of:
            yield Member(f"defect:{name}", of, f"twin:{name}")


def _asked(claims: Claims) -> Of:
    """Of those that differentiate themselves, gradients: their outputs are all computed alike."""
    return "gradients" if "gradients" in claims.features else "out"


def chosen(only: Iterable[str], device: str = "cpu") -> tuple[Member, ...]:
    """The members that `only` names: all if it is empty; ValueError if one is unknown."""
    asked = set(only)
    everyone = panel(device)
    if unknown := sorted(asked - {member.name for member in everyone}):
        known = ", ".join(member.name for member in everyone)
        raise ValueError(f"no kernel {unknown[0]!r} in the panel; known are {known}")
    return tuple(member for member in everyone if member.name in asked or not asked)


@cache
def loaded(target: str, device: str = "cpu") -> KernelSubject:
    """The subject of a target, once for each process."""
    found, _ = subject(target, Narrowing(device=device))
    assert isinstance(found, KernelSubject)
    return found
