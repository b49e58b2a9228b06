"""Attribution: whether the rows that fail name the defect, and which checks are the only ones to reject some mutant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attn_conformance.registry import checks
from attn_conformance.results import Row
from attn_conformance.rows import level_for
from attn_reference.requirements import load_requirements

MOST_FURTHER = 3
"""Rows that may fail with a mutant without being named for it or listed with it: more blur what is wrong."""

LEAST_SHARE = 0.8
"""Share of the checks of which each has to be the only killer of some mutant: the others have to be argued for."""

ARGUED: dict[str, str] = {
    "OUT-3:weights_are_cast_to_the_dtype_of_x": "It poses every pair of dtypes of weights and x. PURE-6 asks one "
    "module in several dtypes in turn, and so notices one that does not cast, too.",
    "OUT-6:no_keys_never_give_nan": "It is the must in OUT-4, a should, which asks more of the same cases: who is "
    "held to musts alone is told of NaN all the same.",
}
"""Checks that are the only killer of no mutant, and why they are there all the same."""


def killer(row: Row) -> str:
    """A failed row and the check that failed, as `REQUIREMENT:check`; the requirement alone if none is known."""
    return row.requirement if row.check is None else f"{row.requirement}:{row.check}"


def judging() -> list[str]:
    """The checks of requirements that are a must or a should for some kind: what is observed rejects nothing."""
    table = load_requirements()
    return [
        f"{requirement}:{check.name}"
        for requirement, found in checks().items()
        for check in found
        if any(level_for(table[requirement], kind, ("validates",)) != "observed" for kind in check.kinds)
    ]


@dataclass(frozen=True)
class Attribution:
    """Of a self-test in full.

    further: for each mutant, how many rows failed beside the one named for it, listed ones included. only: by check,
    the mutants of which it is the only killer. All mutants stand for what was seen in real code (`Mutant.seen_in`).
    """

    further: Mapping[str, int]
    only: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of(killers: Iterable[tuple[str, str, tuple[str, ...]]]) -> Attribution:
        """From each mutant's name, the requirement named for it, and its killers."""
        further: dict[str, int] = {}
        only: dict[str, tuple[str, ...]] = dict.fromkeys(judging(), ())
        for mutant, requirement, found in killers:
            further[mutant] = sum(name.partition(":")[0] != requirement for name in found)
            if len(found) == 1 and found[0] in only:
                only[found[0]] += (mutant,)
        return Attribution(further, only)

    @property
    def spread(self) -> dict[str, int]:
        """How many mutants fail no further row, one to three, and more."""
        counts = list(self.further.values())
        none, few = counts.count(0), sum(0 < n <= MOST_FURTHER for n in counts)
        return {"0": none, f"1-{MOST_FURTHER}": few, "more": len(counts) - none - few}

    @property
    def share(self) -> float:
        """Share of the checks that are the only killer of some mutant."""
        return sum(map(bool, self.only.values())) / len(self.only)

    @property
    def others(self) -> dict[str, str | None]:
        """The checks that are not, with what is said for them; None where nothing is."""
        return {name: ARGUED.get(name) for name, mutants in self.only.items() if not mutants}

    @property
    def ok(self) -> bool:
        """Whether, of all mutants, enough checks are the only killer of some, and something is said for the others."""
        return self.share >= LEAST_SHARE and None not in self.others.values()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        only = {name: list(mutants) for name, mutants in self.only.items() if mutants}
        return {
            "further": self.spread,
            "only_killers": only,
            "share": round(self.share, 4),
            "others": self.others,
        }
