"""Cliffs: neighbouring sizes of which one costs far more for each unit of its work.

Hypothesis draws a workload and a step to its neighbour: one query or key more, the next head size, the same numbers at
odd strides. Both are posed to one implementation and timed in pairs, under the rule of the benchmarks; a step that is
found steep is shrunk to a small one. Each measurement costs real time, so that examples are few, and shrinking has an
end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from attn_conformance.bench.clocks import Clock, clock_for, quiet
from attn_conformance.bench.grids import missing
from attn_conformance.bench.lawful import dtype_of
from attn_conformance.bench.pairs import Progress, Side, compare
from attn_conformance.bench.posed import Posed
from attn_conformance.bench.posed_kernel import PosedKernel
from attn_conformance.bench.rule import Decision, Rule
from attn_conformance.bench.run import silent, version_of
from attn_conformance.bench.workloads import Workload
from attn_conformance.environment import environment
from attn_conformance.judge import Failed
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.loading import TargetError
from attn_conformance.subject import Subject
from attn_conformance.targets import Narrowing, subject

SCHEMA = 1
"""Version of the file: it grows by additions alone."""

Kind = Literal["length", "keys", "head-size", "strides"]
KINDS: tuple[Kind, ...] = get_args(Kind)

EXAMPLES = 6
"""Pairs of neighbours drawn of each kind, where nothing else is asked for."""

FACTOR = 1.5
"""How many times as much a unit of work costs beyond a cliff: far more than noise, and worth padding for."""

LOOKS = (12, 20, 40)
NOISE = 0.25
"""Of a pair's log ratio: so large a step is told from none through five times the noise of small ones."""

SHRINKS = 20
"""Steps that are measured to make one that was found smaller."""

TILES = 64
"""Cliffs are likeliest where a tile ends: half of all lengths that are drawn are multiples of this."""

HEAD_SIZES = (32, 64, 96, 128)
APART = 8
"""To the next head size."""


@dataclass(frozen=True)
class Step:
    """From a workload to its neighbour."""

    kind: Kind
    workload: Workload

    @property
    def neighbour(self) -> Workload:
        """The workload on the other side; of odd strides the same."""
        w = self.workload
        if self.kind == "length":
            return replace(w, T=w.T + 1, S=w.S + 1)
        if self.kind == "keys":
            return replace(w, S=w.S + 1)
        return replace(w, D=w.D + APART) if self.kind == "head-size" else w

    @property
    def more(self) -> float:
        """How many times as much work the neighbour is: in bytes for one query, else in operations."""
        w, n = self.workload, self.neighbour
        return n.bytes / w.bytes if self.kind == "keys" else n.flops / w.flops

    def describe(self) -> str:
        """In words."""
        if self.kind == "strides":
            return f"{self.workload.name}, from contiguous arrays to rows that lie D + 1 numbers apart"
        return f"from {self.workload.name} to {self.neighbour.name}"


@dataclass(frozen=True)
class Cliff:
    """A step that is steep. decision: on the times; ratio: of those for each unit of work. kernels: of both sides."""

    step: Step
    decision: Decision
    kernels: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def ratio(self) -> float:
        """Times as much for each unit of work."""
        return self.decision.ratio / self.step.more


@dataclass(frozen=True)
class Cliffs:
    """A search: what was found, how many steps were measured, how many of them left open, which could not be."""

    target: str
    seed: int
    factor: float
    examples: int
    environment: dict[str, Any]
    found: tuple[Cliff, ...]
    measured: int
    undecided: int
    problems: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether no cliff was found, and something could be told."""
        return not self.found and not self.problems and self.undecided < self.measured

    def to_json(self) -> dict[str, Any]:
        """The file that `bench --cliffs --json` writes."""
        found = [
            asdict(cliff) | {"ratio": cliff.ratio, "text": cliff.step.describe()} for cliff in self.found
        ]
        return {"cliffs": SCHEMA} | asdict(self) | {"found": found}


class Apart(PosedKernel):
    """A workload whose buffers are not exchanged for those of another side, which lie differently."""

    def alike(self, other: Posed[Any]) -> bool:
        """Never."""
        return False


class Strided(Apart):
    """The same workload on arrays whose rows lie one number further apart."""

    def repeat(self, times: int) -> None:
        """Make so many calls in each round."""
        known, border, device = len(self.buffers), self.subject.border, self.subject.device
        super().repeat(times)
        for natives in self.buffers[known:]:
            for name, shape in self.pool.shapes.items():
                wide = np.zeros((*shape[:-1], shape[-1] + 1), self.pool.values.dtype)
                natives[name] = border.asarray(wide[..., :-1], device)


class Laid(Side):
    """A side of a kernel whose arrays are laid out in one way."""

    posing: ClassVar[type[PosedKernel]] = Apart

    def __init__(
        self, subject: Subject, workload: Workload, version: str | None, seed: Sequence[int]
    ) -> None:
        super().__init__(subject, workload, version, seed)
        assert isinstance(subject, KernelSubject)
        self.posed = self.posing(subject.open(), workload, self.rng)


class LaidOdd(Laid):
    """One whose rows lie one number further apart."""

    posing = Strided


def steps(kind: Kind, found: Subject, dtype: str, device: str) -> st.SearchStrategy[Step]:
    """Steps of a kind, the smallest workloads first."""
    cuda = device == "cuda"
    low, high = (256, 4096) if cuda else (64, 512)
    if kind == "keys":
        low, high = 4 * low, 4 * high
    tiles = st.integers(-(-low // TILES), high // TILES).map(lambda n: n * TILES)
    lengths = st.one_of(tiles, st.integers(low, high))
    served = found.claims.head_sizes or HEAD_SIZES
    if kind == "head-size" and found.claims.head_sizes:
        served = tuple(size for size in served if size + APART in served)
    B, H = (8, 16) if cuda else (1, 4)
    causal = kind == "keys" and found.kind == "module"
    work: Literal["decode", "forward"] = "decode" if kind == "keys" else "forward"

    def step(n: int, D: int) -> Step:
        T = 1 if kind == "keys" else n
        w = Workload(work, B, H, T, n, D, dtype, causal, kind=found.kind, device=device)
        return Step(kind, w)

    return st.builds(step, lengths, st.sampled_from(served)) if served else st.nothing()


def unasked(kind: Kind, found: Subject, dtype: str, device: str) -> str | None:
    """Why no step of a kind can be asked of a subject, None if it can."""
    if kind == "strides" and (found.kind == "module" or found.border.name == "jax"):
        return "there are no strides to choose: modules project, and JAX's arrays have none"
    served = found.claims.head_sizes
    if kind == "head-size" and served and not any(size + APART in served for size in served):
        return f"no head sizes {APART} apart are served"
    work: Literal["decode", "forward"] = "decode" if kind == "keys" else "forward"
    size = (served or HEAD_SIZES)[0]
    return missing(Workload(work, 1, 1, 1, 8, size, dtype, kind=found.kind, device=device), found)


class _Steep(Exception):
    """Raised to Hypothesis by a step that is steep."""


class Search:
    """Measures steps, each once; limit: of how many more, once one was found."""

    def __init__(
        self, found: Subject, clock: Clock, factor: float, seed: tuple[int, int], among: int
    ) -> None:
        self.subject, self.clock, self.factor, self.seed, self.among = found, clock, factor, seed, among
        self.known: dict[Step, Cliff | None] = {}
        self.undecided = 0
        self.problems: list[str] = []
        self.left: int | None = None

    def cliff(self, step: Step) -> Cliff | None:
        """The cliff that a step is, None if it is none, or if there is no time left to tell."""
        if step not in self.known:
            if self.left == 0:
                return None
            if self.left is not None:
                self.left -= 1
            self.known[step] = self._measured(step)
        return self.known[step]

    def _measured(self, step: Step) -> Cliff | None:
        seed = (*self.seed, len(self.known))
        version = version_of(self.subject.target)
        try:
            one, two = (Laid, LaidOdd) if step.kind == "strides" else (Side, Side)
            base = one(self.subject, step.workload, version, (*seed, 1))
            other = two(self.subject, step.neighbour, version, (*seed, 2))
        except Failed as failed:
            self.problems.append(f"{step.describe()}: {failed}")
            return None
        limit = self.factor * step.more - 1
        rule = Rule(margin=limit, delta=limit, looks=LOOKS, noise=NOISE)
        clock, decision = compare(
            base, other, self.clock, rule, np.random.default_rng((*seed, 0)), self.among
        )
        results = [side.measured(clock) for side in (base, other)]
        if problem := next((result.problem for result in results if result.problem), None):
            self.problems.append(f"{step.describe()}: {problem}")
            return None
        assert decision is not None  # there was no problem
        self.undecided += decision.verdict == "inconclusive"
        if decision.verdict != "regressed":
            return None
        return Cliff(step, decision, (results[0].kernels, results[1].kernels))


def smallest(search: Search, strategy: st.SearchStrategy[Step], examples: int, seed: int) -> Cliff | None:
    """The smallest cliff that shrinking comes to from the first that is found among so many examples."""
    found: list[Cliff] = []

    @seeded(seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=(HealthCheck.too_slow,),
        verbosity=Verbosity.quiet,
    )
    @given(strategy)
    def probe(step: Step) -> None:
        cliff = search.cliff(step)
        if cliff is not None:
            if not found:
                search.left = SHRINKS
            found.append(cliff)
            raise _Steep

    try:
        probe()
    except _Steep:
        return found[-1]  # Hypothesis ends with the smallest
    return None


def run(
    target: str,
    *,
    narrowing: Narrowing = Narrowing(),
    examples: int = EXAMPLES,
    kinds: Sequence[Kind] = KINDS,
    factor: float = FACTOR,
    seed: int = 0,
    progress: Progress = silent,
    clock: Callable[[Collection[str], str], Clock] | None = None,
) -> Cliffs:
    """Search so many examples of each kind of step, in the first dtype that the target is asked for.

    clock: from the framework and the device, in place of the machine's. TargetError where the target cannot be called,
    ValueError where nothing can be asked.
    """
    begun = time.monotonic()
    found, refused = subject(target, narrowing)
    if "OUT-1" in refused:
        raise TargetError(f"{target}: {refused['OUT-1']}")
    dtype, device = dtype_of(found, narrowing), narrowing.device
    reasons = {kind: unasked(kind, found, dtype, device) for kind in kinds}
    asked: list[Kind] = [kind for kind in kinds if reasons[kind] is None]
    if not asked:
        raise ValueError(f"nothing can be asked of {target}: {'; '.join(r for r in reasons.values() if r)}")
    timer = (clock or clock_for)({found.border.name}, device)
    searches: list[Search] = []
    cliffs: list[Cliff] = []
    with quiet({found.border.name}, device):
        for number, kind in enumerate(asked):
            progress(kind, number, len(asked))
            among = len(asked) * (examples + SHRINKS)
            search = Search(found, timer, factor, (seed, number), among)
            searches.append(search)
            cliff = smallest(search, steps(kind, found, dtype, device), examples, seed)
            cliffs += [] if cliff is None else [cliff]
    return Cliffs(
        target,
        seed,
        factor,
        examples,
        environment(found),
        tuple(cliffs),
        sum(len(search.known) for search in searches),
        sum(search.undecided for search in searches),
        tuple(problem for search in searches for problem in search.problems),
        round(time.monotonic() - begun, 1),
    )
