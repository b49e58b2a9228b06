"""Wrong kernels, each named after its lie: they prove what the suite catches.

Each has a twin: the same code without the lie, which must pass. A kernel is a function
`fn(q, k, v, mask=None, is_causal=False)` on NumPy arrays (B, H, T, D).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

from attn_reference.claims import DTYPES, PLAIN_FEATURES, Claims

__all__ = ["Kernel", "Mutant", "Remembering", "mutant", "mutants", "quiet"]

Kernel = Callable[..., Any]
K = TypeVar("K", bound=Kernel)

AREAS = (
    "masks",
    "mask_values",
    "mask_shapes",
    "empty_rows",
    "causal",
    "heads",
    "softmax",
    "precision",
    "neighbours",
    "nan",
    "randomness",
    "state",
    "layout",
    "sizes",
    "errors",
)

FEATURES = PLAIN_FEATURES - {"gradients"}
"""What every NumPy kernel here can do; a mutant that needs more says so."""

_registry: dict[str, Mutant] = {}


@dataclass(frozen=True)
class Mutant:
    """A wrong kernel, what it gets wrong, and the right version of the same code.

    requirement: the id that must kill it. bug_class: the kind of defect, one of BUG_CLASSES. seen_in: public
    reports of real defects of that kind. also_fails: further requirements that may fail with it, and why.
    """

    name: str
    attention: Kernel
    twin: Kernel
    requirement: str
    bug_class: str
    seen_in: tuple[str, ...]
    claims: Claims
    also_fails: Mapping[str, str] = field(default_factory=dict)

    @property
    def lie(self) -> str:
        """The first line of the kernel's docstring: what it does wrong, in one sentence."""
        return (inspect.getdoc(self.attention) or "").partition("\n")[0]


BUG_CLASSES: dict[str, str] = {
    "ALIAS": "inputs are changed",
    "ALIGN": "causal alignment when T != S",
    "BATCH": "one element's result depends on its neighbours",
    "DROPOUT": "dropout outside training",
    "EMPTY": "zero and unit sizes",
    "FILL": "a finite number stands in for minus infinity",
    "FULLMASK": "a row without a visible key",
    "HEADS": "splitting, merging and grouping of heads",
    "IGNORED": "a mask or flag is accepted and not applied",
    "INT32": "offsets too narrow for the size",
    "LEAK": "the future is seen, windows off by one",
    "MDTYPE": "kind and dtype of the mask",
    "MSHAPE": "broadcasting and indexing of the mask",
    "NANIN": "NaN in the inputs",
    "ORDER": "mask and scale applied in the wrong order",
    "POLARITY": "the mask is read inverted",
    "PREC": "too little precision inside",
    "SCALE": "the factor on q k^T",
    "SOFTMAX": "axis, normaliser or running maximum of the softmax",
    "STATE": "something is left behind by earlier calls",
    "STRIDE": "memory layout of the inputs",
    "TAIL": "sizes that do not fill the last tile",
    "VALID": "errors that are missing, late or of the wrong kind",
}


def quiet(kernel: K) -> K:
    """The kernel without NumPy's floating-point warnings: infinities and NaN are part of the job here."""

    @functools.wraps(kernel)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            return kernel(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


class Remembering:
    """A kernel with a memory, `step(memory, q, k, v, mask, is_causal)`; fresh() gives one without any yet."""

    def __init__(self, step: Kernel) -> None:
        self.step = step
        self.memory: dict[Any, Any] = {}
        self.__doc__ = step.__doc__
        self.__name__ = step.__name__
        self.__module__ = step.__module__

    def __call__(self, q: Any, k: Any, v: Any, mask: Any = None, is_causal: bool = False) -> Any:
        """The step, with this object's memory."""
        with np.errstate(all="ignore"):
            return self.step(self.memory, q, k, v, mask, is_causal)

    def fresh(self) -> Remembering:
        """The same kernel with an empty memory."""
        return Remembering(self.step)


def mutant(
    name: str,
    *,
    requirement: str,
    bug_class: str,
    seen_in: tuple[str, ...],
    twin: Kernel,
    features: tuple[str, ...] = (),
    dtypes: tuple[str, ...] = DTYPES,
    also_fails: Mapping[str, str] | None = None,
    remembers: bool = False,
) -> Callable[[K], K]:
    """Register a wrong kernel. features: beyond FEATURES. remembers: its first argument is a memory."""

    def register(kernel: K) -> K:
        if name in _registry:
            raise ValueError(f"two mutants are called {name!r}")
        _registry[name] = Mutant(
            name=name,
            attention=Remembering(kernel) if remembers else quiet(kernel),
            twin=twin,
            requirement=requirement,
            bug_class=bug_class,
            seen_in=seen_in,
            claims=Claims(dtypes=dtypes, features=FEATURES | set(features)),
            also_fails=dict(also_fails or {}),
        )
        return kernel

    return register


def mutants() -> dict[str, Mutant]:
    """All mutants by name."""
    for area in AREAS:
        import_module(f"{__name__}.{area}")
    return dict(_registry)
