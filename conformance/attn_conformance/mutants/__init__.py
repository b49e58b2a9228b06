"""Wrong kernels and modules, each named after its lie: they prove what the suite catches.

Each has a twin: the same code without the lie, which must pass. A kernel is a function
`fn(q, k, v, mask=None, is_causal=False)` on NumPy arrays (B, H, T, D); modules have a package of their own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, TypeVar

import numpy as np

from attn_reference.claims import DTYPES, PLAIN_FEATURES, Claims

__all__ = ["Kernel", "Kind", "Mutant", "Remembering", "mutant", "mutants", "quiet", "register"]

Kernel = Callable[..., Any]
K = TypeVar("K", bound=Kernel)
Kind = Literal["kernel", "module"]

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
    "lengths",
    "gradient_rounding",
    "memory",
    "errors",
    "gradients",
    "modules.construction",
    "modules.results",
    "modules.function",
    "modules.masks",
    "modules.mask_errors",
    "modules.causal",
    "modules.caches",
    "modules.chunks",
    "modules.cross_caches",
    "modules.shared_caches",
    "modules.errors",
    "modules.inputs",
    "modules.state",
    "modules.numerics",
    "modules.gradients",
    "modules.hosts",
)

FEATURES = PLAIN_FEATURES - {"gradients", "linear-memory"}
"""What every NumPy kernel here can do; a mutant that needs more says so."""

_registry: dict[str, Mutant] = {}


@dataclass(frozen=True)
class Mutant:
    """A wrong kernel or module, what it gets wrong, and the right version of the same code.

    target: a function, a class with the interface of the seed, or an Implementation. requirement: the id that must
    kill it.
    bug_class: the kind of defect, one of BUG_CLASSES. seen_in: public reports of real defects of that kind.
    also_fails: further requirements that may fail with it, and why. least: sizes B, H, T and S that the smallest case
    to show it needs, as far as they are more than 2.
    """

    name: str
    kind: Kind
    target: Any
    twin: Any
    requirement: str
    bug_class: str
    seen_in: tuple[str, ...]
    claims: Claims
    also_fails: Mapping[str, str] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=dict)

    @property
    def lie(self) -> str:
        """The first line of the target's docstring: what it does wrong, in one sentence."""
        return (inspect.getdoc(self.target) or "").partition("\n")[0]


BUG_CLASSES: dict[str, str] = {
    "ALIAS": "inputs are changed, buffers are shared",
    "ALIGN": "causal alignment when T != S",
    "BATCH": "one element's result depends on its neighbours",
    "CACHEKEY": "a cache entry is looked up under the wrong key",
    "CACHEUPD": "a cache is written, sized or read wrongly",
    "CHUNK": "several new tokens on a warm cache",
    "COMPILE": "what was built for one call serves another",
    "CROSS": "lengths and masks of cross-attention",
    "DROPOUT": "dropout outside training",
    "EMPTY": "zero and unit sizes",
    "FILL": "a finite number stands in for minus infinity",
    "FULLMASK": "a row without a visible key",
    "GRAD": "gradients that are wrong or missing",
    "HEADS": "splitting, merging and grouping of heads",
    "IGNORED": "a mask or flag is accepted and not applied",
    "INT32": "offsets too narrow for the size",
    "LEAK": "the future is seen, windows off by one",
    "MDTYPE": "kind and dtype of the mask",
    "MSHAPE": "broadcasting and indexing of the mask",
    "NANIN": "NaN in the inputs",
    "ORDER": "mask and scale applied in the wrong order",
    "PERF": "work or memory that is not needed",
    "POLARITY": "the mask is read inverted",
    "PREC": "too little precision inside",
    "SCALE": "the factor on q k^T",
    "SOFTMAX": "axis, normaliser or running maximum of the softmax",
    "STALE": "keys and values of something else are used again",
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
    least: Mapping[str, int] | None = None,
    remembers: bool = False,
) -> Callable[[K], K]:
    """Register a wrong kernel. features: beyond FEATURES. remembers: its first argument is a memory."""

    def decorate(kernel: K) -> K:
        register(
            Mutant(
                name=name,
                kind="kernel",
                target=Remembering(kernel) if remembers else quiet(kernel),
                twin=twin,
                requirement=requirement,
                bug_class=bug_class,
                seen_in=seen_in,
                claims=Claims(dtypes=dtypes, features=FEATURES | set(features)),
                also_fails=dict(also_fails or {}),
                least=dict(least or {}),
            )
        )
        return kernel

    return decorate


def register(mutant: Mutant) -> None:
    """Add a mutant to the registry; ValueError if its name is taken."""
    if mutant.name in _registry:
        raise ValueError(f"two mutants are called {mutant.name!r}")
    _registry[mutant.name] = mutant


def mutants(kind: Kind | None = None) -> dict[str, Mutant]:
    """All mutants by name, or those of one kind."""
    for area in AREAS:
        import_module(f"{__name__}.{area}")
    return {name: mutant for name, mutant in _registry.items() if kind in (None, mutant.kind)}
