"""Wrong modules, each a subclass of the plain one that is named after its lie: they prove what the suite catches.

A module is a class with the interface of the seed, on NumPy arrays; it draws no parameters, they are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from attn_conformance.mutants import Mutant, register
from attn_conformance.mutants.modules.plain import Cache, Pair, Plain, Projection
from attn_conformance.mutants.plain import Array
from attn_reference.claims import DTYPES, MODULE_FEATURES, Claims

__all__ = [
    "Array",
    "Cache",
    "Pair",
    "Plain",
    "Projection",
    "SharedMemory",
    "module_mutant",
]

FEATURES = MODULE_FEATURES - {"gradients", "linear-memory"}
"""What every NumPy module here can do; a mutant that has less says so."""

M = TypeVar("M", bound=type[Plain])


class SharedMemory(Plain):
    """A right module whose class has a memory; `fresh()` gives the same class without any yet."""

    memory: ClassVar[dict[Any, Any]] = {}

    @classmethod
    def fresh(cls) -> type[SharedMemory]:
        """The same class with an empty memory."""
        return type(
            cls.__name__, (cls,), {"memory": {}, "__doc__": cls.__doc__, "__module__": cls.__module__}
        )


def module_mutant(
    name: str,
    *,
    requirement: str,
    bug_class: str,
    seen_in: tuple[str, ...],
    twin: type[Plain] = Plain,
    features: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    dtypes: tuple[str, ...] = DTYPES,
    also_fails: Mapping[str, str] | None = None,
    least: Mapping[str, int] | None = None,
) -> Callable[[M], M]:
    """Register a wrong module. features, without: what it claims beyond FEATURES, or does not claim of them."""

    def decorate(module: M) -> M:
        register(
            Mutant(
                name=name,
                kind="module",
                target=module,
                twin=twin,
                requirement=requirement,
                bug_class=bug_class,
                seen_in=seen_in,
                claims=Claims(dtypes=dtypes, features=(FEATURES | set(features)) - set(without)),
                also_fails=dict(also_fails or {}),
                least=dict(least or {}),
            )
        )
        return module

    return decorate
