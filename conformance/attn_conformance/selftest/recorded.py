"""What was recorded, and what the rule makes of it: its decisions, how many are wrong, what they took.

A recording is a folder: a file about the whole, and one for each process. Decisions share no rounds: each was timed
until the rule decided, and judging cuts it there again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from math import sqrt
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from attn_conformance.bench.pairs import LIMIT
from attn_conformance.bench.results import Clock
from attn_conformance.bench.rule import MAD_TO_SIGMA, Decision, Rule
from attn_conformance.selftest.binomial import lower_limit, upper_limit

SCHEMA = 1
"""Version of the files: they grow by additions alone."""

HEAD = "recording.json"
"""The file about the whole."""

FALSE_ALARMS, DETECTED = 0.001, 0.99
"""Targets: of decisions on copies at the most so many regressed; with more work at the least so many."""

LEVEL = 0.05
"""Chance that an exact limit of a rate is wrong."""

Target = Literal["reached", "open", "missed"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Pairs of two sides on the same buffers: seconds of each round, by the clock that decides and by the wall clock.

    more: the candidate had more work. repeats: calls in a round. passed: seconds that all of it took, the warm-up
    included. problem: why the times do not count, "" if they do.
    """

    more: bool
    clock: Clock
    repeats: int
    passed: float
    problem: str
    base: Array
    candidate: Array
    base_wall: Array
    candidate_wall: Array


@dataclass(frozen=True, eq=False)
class Part:
    """One process. before, after: the machine's load average."""

    number: int
    workload: str
    before: float
    after: float
    comparisons: tuple[Comparison, ...]

    def write(self, file: Path) -> None:
        """Write it as compressed NumPy arrays, whole or not at all."""
        found = self.comparisons
        beside = file.with_suffix(".tmp")
        with beside.open("wb") as stream:
            np.savez_compressed(
                stream,
                about=np.array(json.dumps([self.number, self.workload, self.before, self.after])),
                more=np.array([c.more for c in found]),
                clock=np.array([c.clock for c in found]),
                repeats=np.array([c.repeats for c in found]),
                passed=np.array([c.passed for c in found]),
                problem=np.array([c.problem for c in found]),
                rounds=np.array([len(c.base) for c in found]),
                base=np.concatenate([c.base for c in found]),
                candidate=np.concatenate([c.candidate for c in found]),
                base_wall=np.concatenate([c.base_wall for c in found]),
                candidate_wall=np.concatenate([c.candidate_wall for c in found]),
            )
        beside.replace(file)

    @staticmethod
    def read(file: Path) -> Part:
        """What was written; ValueError or KeyError for another file."""
        with np.load(file, allow_pickle=False) as data:
            ends = np.cumsum(data["rounds"])[:-1]
            readings = (np.split(data[name], ends) for name in READINGS)
            facts = (data[name].tolist() for name in ("more", "clock", "repeats", "passed", "problem"))
            rows = zip(*facts, *readings, strict=True)
            number, workload, before, after = json.loads(str(data["about"]))
            return Part(number, workload, before, after, tuple(Comparison(*row) for row in rows))


READINGS = tuple(field.name for field in fields(Comparison) if field.name.startswith(("base", "candidate")))


def windows(base: Array, candidate: Array, rule: Rule) -> list[Decision]:
    """The decisions on pairs one after another: each begins after the rounds that the last one needed.

    ValueError where rounds are left over that decide nothing: they were recorded under another rule.
    """
    decisions: list[Decision] = []
    begun = 0
    while begun < len(base):
        for look in rule.looks:
            end = begun + look
            if end > len(base):
                raise ValueError(f"{len(base) - begun} rounds decide nothing")
            if (decision := rule.decide(base[begun:end].tolist(), candidate[begun:end].tolist())) is not None:
                break
        else:
            raise AssertionError("the last look decides")
        decisions.append(decision)
        begun = end
    return decisions


@dataclass(frozen=True)
class Rates:
    """What came of comparisons of one kind on one workload, or on all ("all").

    regressed, fine, inconclusive: decisions; failed: comparisons whose times did not count. limit: of the share that is
    wrong, an exact upper limit of confidence 95 %: wrong is regressed on copies, anything else with more work. rounds:
    mean, median and 95th percentile; late: comparisons that took longer than a benchmark run would have waited.
    ratio: median over processes of the median of all pairs. sigma: robust standard deviation of a pair's log ratio
    within its process. bias, largest: standard deviation and largest size of processes' median log ratios; by_chance:
    the standard deviation that these would have without a bias. seconds: median of a call.
    """

    more: bool
    workload: str
    processes: int
    regressed: int
    fine: int
    inconclusive: int
    failed: int
    limit: float
    rounds: tuple[float, float, float]
    late: int
    ratio: float
    sigma: float
    bias: float
    largest: float
    by_chance: float
    seconds: float

    @property
    def decisions(self) -> int:
        """Comparisons, those among them that failed."""
        return self.regressed + self.fine + self.inconclusive + self.failed

    @property
    def detected(self) -> float:
        """Lower limit, as exact, of the share that is regressed."""
        return lower_limit(self.regressed, self.decisions, LEVEL)

    @property
    def target(self) -> Target:
        """reached: the limit is within it. missed: what was counted is not. open: too few decisions to say."""
        if self.more:
            within, certain = self.regressed >= DETECTED * self.decisions, self.detected >= DETECTED
        else:
            within, certain = self.regressed <= FALSE_ALARMS * self.decisions, self.limit <= FALSE_ALARMS
        if not within:
            return "missed"
        return "reached" if certain else "open"


@dataclass(frozen=True)
class Summary:
    """What came of one recording. clocks: that were used; load: smallest, median and largest load average."""

    about: Mapping[str, Any]
    processes: int
    clocks: tuple[str, ...]
    load: tuple[float, float, float]
    rates: tuple[Rates, ...]

    def whole(self, *, more: bool) -> Rates:
        """The rates on all workloads together."""
        return next(rates for rates in self.rates if rates.more is more and rates.workload == "all")

    @property
    def ok(self) -> bool:
        """Whether the targets are reached."""
        return all(self.whole(more=which).target == "reached" for which in (False, True))


@dataclass(frozen=True)
class Summaries:
    """What came of recordings."""

    summaries: tuple[Summary, ...]

    @staticmethod
    def read(path: Path) -> Summaries:
        """Of a recording's folder, judged by the rule that it was recorded under; or what was written of some.

        ValueError for what is neither.
        """
        try:
            if path.is_dir():
                return Summaries((judged(path),))
            return Summaries.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no recording: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal summaries back."""
        return {"recordings": SCHEMA} | asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Summaries:
        """What `to_json` wrote; ValueError for data of another kind or version."""
        if data.get("recordings") != SCHEMA:
            raise ValueError(f"not a file of judged recordings, schema {SCHEMA}")
        return Summaries(tuple(map(_summary, data["summaries"])))


def _summary(data: Mapping[str, Any]) -> Summary:
    rates = tuple(Rates(**{**rates, "rounds": tuple(rates["rounds"])}) for rates in data["rates"])
    return Summary(**{**data, "clocks": tuple(data["clocks"]), "load": tuple(data["load"]), "rates": rates})


def judged(folder: Path) -> Summary:
    """What the rule makes of a recording; ValueError if it is empty, or not whole."""
    about = json.loads((folder / HEAD).read_text(encoding="utf-8"))
    if about.get("recording") != SCHEMA:
        raise ValueError(f"{folder} holds no recording, schema {SCHEMA}")
    parts = [Part.read(file) for file in sorted(folder.glob("*.npz"))]
    if not parts:
        raise ValueError(f"{folder} holds no process yet")
    rule = Rule.from_json(about["rule"])
    clocks = {c.clock for part in parts for c in part.comparisons}
    loads = [load for part in parts for load in (part.before, part.after)]
    return Summary(
        about,
        len(parts),
        tuple(name for name in get_args(Clock) if name in clocks),
        (min(loads), float(np.median(loads)), max(loads)),
        tuple(summed(parts, rule)),
    )


def summed(parts: Iterable[Part], rule: Rule) -> Iterable[Rates]:
    """The rates of copies and of more work, by workload and of all."""
    parts = list(parts)
    names = list(dict.fromkeys(part.workload for part in parts))
    for more in (False, True):
        for name in (*names, "all"):
            chosen = [
                [c for c in part.comparisons if c.more is more]
                for part in parts
                if name in ("all", part.workload)
            ]
            if chosen := [comparisons for comparisons in chosen if comparisons]:
                yield _rates(more, name, chosen, rule)


def _rates(more: bool, name: str, processes: list[list[Comparison]], rule: Rule) -> Rates:
    """processes: the comparisons of each."""
    found = [c for comparisons in processes for c in comparisons]
    counting = [c for c in found if not c.problem]
    cut = [windows(c.base, c.candidate, rule) for c in counting]
    decisions = [decision for several in cut for decision in several]
    counts = Counter(decision.verdict for decision in decisions)
    failed = len(found) - len(counting)
    total = len(decisions) + failed
    wrong = total - counts["regressed"] if more else counts["regressed"]
    logs = [np.concatenate([np.log(c.candidate / c.base) for c in comparisons]) for comparisons in processes]
    middles = np.array([np.median(of) for of in logs])
    sigma = _sigma(np.concatenate([of - middle for of, middle in zip(logs, middles, strict=True)]))
    own = np.array([_sigma(of - middle) for of, middle in zip(logs, middles, strict=True)])
    lengths = np.array([len(of) for of in logs])
    rounds = np.array([d.rounds for d in decisions] or [0])
    return Rates(
        more,
        name,
        len(processes),
        counts["regressed"],
        counts["fine"],
        counts["inconclusive"],
        failed,
        upper_limit(wrong, total, LEVEL),
        (float(rounds.mean()), float(np.median(rounds)), float(np.percentile(rounds, 95))),
        sum(c.passed > LIMIT * len(several) for c, several in zip(counting, cut, strict=True)),
        float(np.exp(np.median(middles))),
        sigma,
        float(middles.std(ddof=1)) if len(middles) > 1 else 0.0,
        float(abs(middles - (np.median(middles) if more else 0.0)).max()),
        sqrt(float(np.mean(MEDIAN_TO_MEAN**2 * own**2 / lengths))),
        float(np.median([np.median(c.base) / c.repeats for c in found])),
    )


MEDIAN_TO_MEAN = sqrt(np.pi / 2)
"""Standard deviation of the median of a large normal sample, over that of its mean."""


def _sigma(deviations: Array) -> float:
    return MAD_TO_SIGMA * float(np.median(abs(deviations)))
