"""A workload posed to a subject: buffers with fresh inputs, the bare calls that are timed, and the verdict on results.

What is timed is the implementation's own call on its framework's arrays. What it gave in calls drawn at random, which
nothing tells from the others, is held against the suite's oracle at rows drawn at random after they were given: the
rows of attention do not depend on each other. A gradient is judged for a whole head (kernels) or batch element
(modules), since those of keys and parameters are sums over all rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from attn_conformance.bench.inputs import Drawn, Pool
from attn_conformance.bench.workloads import Workload
from attn_conformance.borders import Natives
from attn_conformance.cases.values import STORAGE
from attn_conformance.judge import Array, Comparison, Failed
from attn_conformance.subject import Subject, blaming

S = TypeVar("S", bound=Subject)

PLACES_JUDGED = 2
"""Heads of a result that are judged."""

ROWS_JUDGED = 6
"""Of each, the first and the last among them: the ends of a causal triangle."""

PREFIX = "prefix"
"""The tokens that a cache begins with: drawn like a buffer, and put in once."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One result and what it was asked for; earlier: of a cache's tokens.

    results: copies of native arrays by name, "out" and gradients. They stay on their device until they are judged.
    """

    drawn: Drawn
    results: Natives
    earlier: tuple[Drawn, ...] = ()


class Posed(ABC, Generic[S]):
    """A workload and one implementation that is to do it; `repeats` calls in a round, each on buffers of its own."""

    subject: S
    workload: Workload
    pool: Pool
    fixed: Natives  # arguments that stay the same

    def __init__(self, rng: np.random.Generator) -> None:
        """rng: draws the inputs, and which results and rows are judged."""
        self.rng = rng
        self.buffers: list[dict[str, Any]] = []
        self.drawn: list[Drawn] = []
        self.calls: list[Callable[[], Any]] = []
        self.kept: Any = None
        self.kept_number = 0
        self.repeat(1)

    @abstractmethod
    def bound(self, natives: Natives) -> Callable[[], Any]:
        """The call that is timed, with its arguments."""

    @abstractmethod
    def unpacked(self, result: Any) -> dict[str, Any]:
        """What a call gave, native arrays by name: "out", and gradients by the names of their inputs."""

    @abstractmethod
    def judge(self, sample: Sample) -> float:
        """The largest error over limit among the rows that are looked at; Failed if it is above 1."""

    def repeat(self, times: int) -> None:
        """Make so many calls in each round."""
        border, device = self.subject.border, self.subject.device
        kind = STORAGE[self.workload.dtype]
        while len(self.buffers) < times:
            made = {
                name: border.asarray(np.zeros(shape, kind), device)
                for name, shape in self.pool.shapes.items()
                if name != PREFIX
            }
            self.buffers.append({**self.fixed, **made})
        del self.buffers[times:]

    def alike(self, other: Posed[Any]) -> bool:
        """Whether buffers of the one serve the other, too."""
        mine, theirs = (
            (p.subject.border.name, p.subject.device, p.workload, p.pool.shapes, p.fixed.keys())
            for p in (self, other)
        )
        return mine == theirs

    def refresh(self) -> None:
        """Other inputs in all buffers, for the next round: what is not timed."""
        self.kept = None
        self.drawn, self.calls = [], []
        for natives in self.buffers:
            drawn = self.pool.draw(self.rng)
            self.pool.fill(natives, drawn)
            self.drawn.append(drawn)
            self.calls.append(self._awaited(self.bound(natives)))
        self.kept_number = int(self.rng.integers(len(self.calls)))

    def run(self) -> None:
        """All calls of a round: what is timed."""
        number = self.kept_number
        for n, call in enumerate(self.calls):
            result = call()
            if n == number:
                self.kept = result

    def sample(self) -> Sample:
        """What one call of the last round gave, drawn at random; Failed where it cannot be had."""
        with blaming():
            results = {name: self.subject.border.copy(n) for name, n in self.unpacked(self.kept).items()}
        return Sample(self.drawn[self.kept_number], results, self.earlier(self.kept_number))

    def result(self, sample: Sample, name: str) -> Array:
        """One of its results; Failed for what is no array of its framework."""
        return self.subject.received(sample.results[name])

    def earlier(self, number: int) -> tuple[Drawn, ...]:
        """What a cache held before a call of the last round."""
        return ()

    def rows(self, length: int) -> Array:
        """Query rows to judge."""
        drawn = self.rng.integers(length, size=ROWS_JUDGED - 2)
        return np.unique([0, length - 1, *drawn])

    def _awaited(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """JAX returns before it has computed."""
        if self.subject.border.name != "jax":
            return call
        jax: Any = getattr(self.subject.border, "jax")  # noqa: B009  # of this border alone
        return lambda: jax.block_until_ready(call())


def shaped(out: Array, expected: tuple[int, ...]) -> Array:
    """The array; Failed if it has another shape."""
    if out.shape != expected:
        raise Failed(f"returned shape {out.shape}, expected {expected}")
    return out


def within(comparison: Comparison, what: str) -> float:
    """The largest error over limit; Failed if an element is out of bound."""
    if not comparison.ok:
        out = f"{comparison.wrong} of {comparison.size} elements out of bound"
        worst = "" if comparison.worst is None else f", by up to {comparison.worst.ratio:.3g} times"
        raise Failed(f"{what} is wrong: {out}{worst}", comparison)
    return comparison.ratio


def padding(workload: Workload) -> Array | None:
    """The boolean mask of padded work, (B, 1, 1, S): the last quarter of each other element's keys is hidden."""
    if workload.work != "padded":
        return None
    mask = np.ones((workload.B, 1, 1, workload.S), bool)
    mask[::2, :, :, workload.S - workload.S // 4 :] = False
    return mask


def pose(subject: Subject, workload: Workload, rng: np.random.Generator) -> Posed[Any]:
    """The workload posed to a subject of its kind, opened afresh; Raised if it refuses to be built."""
    from attn_conformance.bench.posed_kernel import PosedKernel
    from attn_conformance.bench.posed_module import PosedModule
    from attn_conformance.kernel_subject import KernelSubject
    from attn_conformance.module_subject import ModuleSubject

    if isinstance(subject, KernelSubject):
        return PosedKernel(subject.open(), workload, rng)
    assert isinstance(subject, ModuleSubject)  # there are two kinds
    return PosedModule(subject.open(), workload, rng)
