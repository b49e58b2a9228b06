"""Right but slow kernels and modules, each beside the same code without the waste: they prove what benchmarks catch.

Each does one needless thing of a kind that real changes brought in. All are PyTorch's, on a CPU and on CUDA, since that
is what the benchmarks time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from attn_conformance.bench.workloads import Workload
from attn_reference.claims import Claims

__all__ = ["Slowdown", "register", "slowdown", "slowdowns"]

AREAS = ("kernels", "modules")

DTYPES = ("float32", "float16", "bfloat16")
"""float64 is what one of them falls back to."""

K = TypeVar("K", bound=Callable[..., Any])

_registry: dict[str, Slowdown] = {}


@dataclass(frozen=True)
class Slowdown:
    """A slow kernel or module, the same code without the waste, what both claim, and where it shows.

    target: a function or an Implementation. workloads: by device, one that shows it.
    """

    name: str
    target: Any
    twin: Any
    claims: Claims
    workloads: Mapping[str, Workload]

    @property
    def lie(self) -> str:
        """The first line of the target's docstring: what it does needlessly, in one sentence."""
        return (inspect.getdoc(self.target) or "").partition("\n")[0]


def slowdown(
    name: str, *, twin: Callable[..., Any], features: tuple[str, ...], cpu: Workload, cuda: Workload
) -> Callable[[K], K]:
    """Register a slow kernel; cpu, cuda: the workloads that show it there."""

    def decorate(kernel: K) -> K:
        claims = Claims(dtypes=DTYPES, devices=("cpu", "cuda"), features=frozenset(features))
        register(Slowdown(name, kernel, twin, claims, {"cpu": cpu, "cuda": cuda}))
        return kernel

    return decorate


def register(slowdown: Slowdown) -> None:
    """Add a slowdown to the registry; ValueError if its name is taken."""
    if slowdown.name in _registry:
        raise ValueError(f"two slowdowns are called {slowdown.name!r}")
    _registry[slowdown.name] = slowdown


def slowdowns() -> dict[str, Slowdown]:
    """All slowdowns by name; ModuleNotFoundError without PyTorch."""
    for area in AREAS:
        import_module(f"{__name__}.{area}")
    return dict(_registry)
