"""Kills: what came of each wrong implementation and its right twin, and the file of all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from attn_conformance.rows import EFFORTS
from attn_conformance.selftest.attribution import MOST_FURTHER, Attribution
from attn_conformance.selftest.frame import framed, unframed
from attn_reference import SPEC_VERSION

POWER = 7
"""A mutant has to die within a seventh of an effort's examples in the median seed: then a bug of its kind that shows in
half as many cases is still found nearly always."""

LISTS = ("wrong_killers", "killers")
"""Fields of kills that are lists, or None."""


@dataclass(frozen=True)
class Kill:
    """What came of one mutant.

    requirement: the one that must reject it. rejected: whether it did with each seed, or all but one in `duels.PARDON`.
    examples: of the check that failed, until it did; seconds: how long these took. size: of the shrunk case, as far as
    it has B, H, T and S; case: all of it, in one line. All these are of the first seed that rejected it, and None if
    none did. message: why it was not rejected, if more is known than that nothing failed. twin: what the right twin did
    wrong with any seed, None if it passed. wrong_killers: other requirements that fail without being expected to, None
    if they were not asked. killers: all checks that reject it, as `attribution.killer` writes them; None likewise. What
    stands back (`standing.stood_back`) has not failed. by_seed: the examples with each seed, None where it survived.
    """

    mutant: str
    kind: str
    bug_class: str
    requirement: str
    rejected: bool
    examples: int | None = None
    seconds: float | None = None
    size: Mapping[str, int] | None = None
    case: str | None = None
    message: str | None = None
    twin: str | None = None
    wrong_killers: tuple[str, ...] | None = None
    killers: tuple[str, ...] | None = None
    by_seed: tuple[int | None, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the requirement rejects the mutant and not its twin, and few others do that nobody expects to."""
        return self.rejected and self.twin is None and not self.misleading

    @property
    def misleading(self) -> bool:
        """Whether the requirements that fail do not tell what is wrong: they are too many, or fail in its place."""
        wrong = len(self.wrong_killers or ())
        return wrong > (MOST_FURTHER if self.rejected else 0)

    @property
    def survived(self) -> int:
        """With how many seeds it was not rejected."""
        return self.by_seed.count(None)

    @property
    def median_examples(self) -> float:
        """Examples until it is rejected, in the median seed; infinitely many where half of them let it live."""
        return median(math.inf if n is None else n for n in self.by_seed)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal record back."""
        lists = {name: getattr(self, name) for name in LISTS}
        plain = {name: None if found is None else list(found) for name, found in lists.items()}
        return asdict(self) | plain | {"by_seed": list(self.by_seed)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Kill:
        """The record that `to_json` wrote; KeyError or TypeError if fields are missing or unknown."""
        lists = {name: data.get(name) for name in LISTS}
        tuples = {name: None if found is None else tuple(found) for name, found in lists.items()}
        return Kill(**{**data, **tuples, "by_seed": tuple(data.get("by_seed", ()))})


@dataclass(frozen=True)
class Kills:
    """A self-test: what was asked, where, and what came of every mutant. seconds: of the whole, by so many jobs.

    seed, seeds: the first of so many, each the one after the last.
    """

    seed: int
    full: bool
    jobs: int
    seconds: float
    kills: tuple[Kill, ...]
    environment: Mapping[str, Any]
    suite: str
    spec: str = SPEC_VERSION
    effort: str = "default"
    seeds: int = 1

    @property
    def ok(self) -> bool:
        """Whether every mutant is rejected by its requirement, soon enough and by few others, and every twin passes."""
        return all(kill.ok for kill in self.kills) and not self.late

    @property
    def most_examples(self) -> int:
        """Within how many a mutant has to be rejected in the median seed."""
        return EFFORTS[self.effort] // POWER

    @property
    def late(self) -> tuple[Kill, ...]:
        """Mutants that are rejected, yet not within `most_examples`; one seed has no median, and none is then."""
        if self.seeds == 1:
            return ()
        return tuple(
            kill for kill in self.kills if kill.rejected and kill.median_examples > self.most_examples
        )

    def weakest(self, count: int) -> list[Kill]:
        """Those that live longest: by the seeds that they survive, their median and their worst."""

        def life(kill: Kill) -> tuple[float, ...]:
            return kill.survived, kill.median_examples, max(n or 0 for n in kill.by_seed)

        return sorted(self.kills, key=life, reverse=True)[:count]

    @property
    def attribution(self) -> Attribution | None:
        """Who rejects what beside the requirement that is named; None if nothing else was asked."""
        found = [(kill.mutant, kill.requirement, kill.killers) for kill in self.kills]
        known = [(mutant, requirement, names) for mutant, requirement, names in found if names is not None]
        return Attribution.of(known) if self.full and len(known) == len(found) else None

    @property
    def counts(self) -> dict[str, int]:
        """How many mutants there are, how many of them are rejected, and for how many the twin passes."""
        return {
            "mutants": len(self.kills),
            "rejected": sum(kill.rejected for kill in self.kills),
            "twins passed": sum(kill.twin is None for kill in self.kills),
        }

    def to_json(self) -> dict[str, Any]:
        """The file that `--json` writes."""
        own = {
            name: getattr(self, name)
            for name in ("suite", "spec", "seed", "seeds", "effort", "full", "jobs", "seconds")
        }
        kills = [kill.to_json() for kill in self.kills]
        environment = dict(self.environment)
        who = None if self.attribution is None else self.attribution.to_json()
        rest = {"environment": environment, "counts": self.counts, "attribution": who, "mutants": kills}
        return framed("kills", own | rest)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Kills:
        """What `to_json` wrote; ValueError for data of another kind or version, or with other fields."""

        def made(content: dict[str, Any]) -> Kills:
            return Kills(kills=tuple(map(Kill.from_json, content.pop("mutants"))), **content)

        return unframed("kills", data, made, derived=["counts", "attribution"])
