"""Stored cases: counterexamples that an earlier run has found, by the check that they failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attn_conformance.cases import Case
from attn_conformance.results import Row
from attn_conformance.sound import sound_case


@dataclass(frozen=True)
class Stored:
    """A counterexample. check: the name of the check that it failed."""

    check: str
    case: Case

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal one back."""
        return {"check": self.check, "case": self.case.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Stored:
        """What `to_json` wrote; ValueError for anything else, also for a case that the suite could not have drawn."""
        if not isinstance(check := data.get("check"), str):
            raise ValueError("it does not name the check that the case failed")
        return Stored(check, sound_case(data.get("case")))

    @staticmethod
    def of(row: Row) -> Stored | None:
        """The counterexample of a failed row, None if it has none."""
        if row.status != "failed" or row.counterexample is None or row.check is None:
            return None
        return Stored(row.check, sound_case(row.counterexample))


class OtherClaims(ValueError):
    """Counterexamples that were found under other claims than those under which they are to be tried."""


def counterexamples(entry: Mapping[str, Any], claims: Mapping[str, Any]) -> dict[str, tuple[Stored, ...]]:
    """The counterexamples of an entry of "results" in a result file, by requirement id.

    claims: those under which they are to be tried; OtherClaims where the result was made under others, since a case
    may then ask for what is not claimed, and ValueError where it holds none.
    """
    if entry["claims"] != claims:
        differ = sorted(name for name in claims if entry["claims"].get(name) != claims[name])
        raise OtherClaims(
            f"the result of {entry['target']} was made under other claims ({', '.join(differ)})"
        )
    found: dict[str, tuple[Stored, ...]] = {}
    for name, row in entry["requirements"].items():
        if row.get("counterexample") is None:
            continue
        try:
            found[name] = (Stored.from_json({"check": row.get("check"), "case": row["counterexample"]}),)
        except ValueError as error:
            raise ValueError(f"the counterexample of {name} cannot be replayed: {error}") from error
    if not found:
        raise ValueError(f"the result of {entry['target']} has no counterexample to replay")
    return found
