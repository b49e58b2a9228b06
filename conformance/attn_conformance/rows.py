"""Rows: one requirement judged on one subject, from its claims and an exploration to a status."""

from __future__ import annotations

import math
import time
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from threadpoolctl import threadpool_limits

from attn_conformance.cases import Case
from attn_conformance.expect import allowed_by
from attn_conformance.exploration import AS_REQUIRED, Tally, Watch, attempt, explore, lesser, rests, unwatched
from attn_conformance.judge import Failed, NotAsked
from attn_conformance.registry import Check, checks
from attn_conformance.results import BENCHED, MISSHAPEN, NOT_REPLAYED, Cell, Row, Status
from attn_conformance.stored import Stored
from attn_conformance.subject import Subject
from attn_reference.claims import MASK_FEATURES
from attn_reference.requirements import Requirement, load_requirements

TRIED = frozenset({"gqa", "scale", "dv"})
"""Claims that a plain function does not make, and whose requirements are tried all the same."""

TRIALS = 10
"""Examples in such a trial: enough to tell that something works, not that it conforms."""

ABOUT_MASKS = frozenset({"CAUSAL-4", "CAUSAL-5", "CAUSAL-6", "CACHE-6"})
"""Requirements about masks whose ids do not say so."""

DEFAULT = 150
"""Examples of a row at the default effort, to which a check's own limit refers; never fewer than two."""

EFFORTS = {"smoke": 20, "default": DEFAULT, "thorough": 10 * DEFAULT}
"""Examples for each requirement, shared by its checks. smoke: seconds. default: that of the published rates."""

PARALLEL = frozenset({"NUM-1", "EQ-6"})
"""Requirements whose cases have work for several threads: there the target keeps those that it has. Elsewhere one
thread gives the same result on every machine, and several spin: twice the time on two cores."""

COPIED = "it called the reference ({}): an implementation that does so could pass by copying"


@dataclass(frozen=True)
class Order:
    """A row to be judged: which requirement, and with which cases.

    stored: counterexamples of earlier runs, which come first. replay: whether they alone are asked. shrink: whether a
    failing case is made smaller. examples: how many, where the effort does not say it.
    """

    requirement: str
    effort: str = "default"
    seed: int = 0
    stored: tuple[Stored, ...] = ()
    replay: bool = False
    shrink: bool = True
    examples: int | None = None

    def glance(self, examples: int) -> Order:
        """The same with so few examples, to see whether something fails."""
        return replace(self, examples=examples, shrink=False)


@dataclass(frozen=True)
class Judged:
    """What came of an order: the row, how often each event occurred, and the stored cases that no longer fail.

    rests: of each failure of a failed row, the requirements that judge something simpler which fails, too; () if one of
    them rests on nothing.
    """

    row: Row
    events: Mapping[str, int]
    healed: tuple[Stored, ...] = ()
    rests: tuple[tuple[str, ...], ...] = ()


def judge(order: Order, subject: Subject, refused: Mapping[str, str], watch: Watch = unwatched) -> Judged:
    """Judge one requirement of a subject's kind.

    refused: claimed dtypes that it does not take, with what it said; they fail NUM-1 and nothing else. Or "OUT-1",
    which the smallest call fails already, so that nothing else is asked. watch: is told of each case.
    """
    requirement = load_requirements()[order.requirement]
    if "OUT-1" in refused:
        mine = requirement.id == "OUT-1"
        status: Status = "failed" if mine else "skipped"
        message = refused["OUT-1"] if mine else MISSHAPEN
        return Judged(Row(requirement.id, requirement.level, status, message=message), {})
    with threadpool_limits(limits=1, user_api="blas" if requirement.id in PARALLEL else None):
        stored = _replayed(requirement, order, subject, watch)
        said = stored.row.message
        if order.replay or (stored.row.status != "skipped" and not stored.rests and not allowed_by(said)):
            return stored
        found = _explored(requirement, subject, order, refused, watch)
        says_less = found.row.status != "failed" or (found.rests and not stored.rests)
        if stored.row.status == "failed" and says_less:
            return replace(stored, events=found.events)
        return replace(found, healed=stored.healed)


def _replayed(requirement: Requirement, order: Order, subject: Subject, watch: Watch) -> Judged:
    """The row as the stored cases decide it, skipped if they leave it open; and those that do not fail any more.

    A failure than which another would say more decides it only if no other case fails in a way that does.
    """
    row = Row(
        requirement.id,
        level_for(requirement, subject.kind, subject.claims.features),
        "skipped",
        message=NOT_REPLAYED,
    )
    healed: list[Stored] = []
    failures: list[Failed] = []
    known = {check.name: check for check in checks().get(requirement.id, ()) if subject.kind in check.kinds}
    for number, stored in enumerate(order.stored, 1):
        check = known.get(stored.check)
        if check is None or unmet(requirement, subject, [check]):
            continue  # of another version, or of something that is not claimed now
        try:
            _, failed = attempt(check, subject, stored.case, watch)
        except NotAsked:
            continue
        except Exception as error:
            return Judged(_failed_itself(row, error), {}, tuple(healed))
        if failed is None or row.level == "observed":
            healed.append(stored)
            continue
        failed.rests = rests(check, subject, stored.case, failed)
        failures.append(failed)
        if min(failures, key=_tells_less) is not failed:
            continue
        cells = (Cell(subject.device, stored.case.dtype, "failed"),)
        row = replace(row, status="failed", examples=number, message=failed.message, cells=cells)
        row = replace(row, counterexample=stored.case.to_json(), check=check.name, replayed=True)
        if not lesser(failed):
            break
    if healed and order.replay and row.status == "skipped":
        row = replace(row, status="passed", examples=len(healed), effective=len(healed), message=None)
    resting = [failed.rests for failed in failures]
    return Judged(row, {}, tuple(healed), tuple(dict.fromkeys(resting)) if all(resting) else ())


def _explored(
    requirement: Requirement, subject: Subject, order: Order, refused: Mapping[str, str], watch: Watch
) -> Judged:
    """The row of a requirement from drawn cases."""
    examples = EFFORTS[order.effort] if order.examples is None else order.examples
    started = time.perf_counter()
    level = level_for(requirement, subject.kind, subject.claims.features)
    row = Row(requirement.id, level, "skipped")
    if requirement.benched:
        return Judged(replace(row, message=BENCHED), {})
    number = zlib.crc32(f"{order.seed} {requirement.id}".encode())
    mine = [check for check in checks()[requirement.id] if subject.kind in check.kinds]
    missing = unmet(requirement, subject, mine)
    if missing:
        works = set(missing) <= TRIED and _works(mine[0], subject, missing, number, watch)
        hint = f" (it works where tried; --with {','.join(missing)} asks for it)" if works else ""
        return Judged(replace(row, message=f"not claimed: {', '.join(missing)}{hint}"), {})
    tallies: list[tuple[Check, Tally]] = []
    try:
        asked = [check for check in mine if not check.lacks(subject.scope)]
        share = -(-examples // len(asked))
        for index, check in enumerate(asked):
            most = share if check.at_most is None else min(share, max(2, check.at_most * examples // DEFAULT))
            tally = explore(
                check,
                subject,
                examples=most,
                seed_value=number + index,
                observe=level == "observed",
                watch=watch,
                audit=subject.foreign,
                shrink=order.shrink,
            )
            tallies.append((check, tally))
            if tally.last is not None and not lesser(tally.last[1]):
                break
    except Exception as error:
        row = replace(row, seconds=time.perf_counter() - started)
        return Judged(_failed_itself(row, error), {})
    events = sum((tally.events for _, tally in tallies), Counter())
    failed = next((tally for _, tally in tallies if tally.last is not None), None)
    difference = subject.convention.difference(requirement.id)
    row = replace(
        row,
        # A failed check's own examples tell how soon it was found.
        examples=sum(tally.examples for _, tally in tallies) if failed is None else failed.examples,
        effective=sum(tally.effective for _, tally in tallies),
        seconds=time.perf_counter() - started,
        declared=None if difference is None else f"{difference.text} ({difference.link})",
    )
    if level == "observed":
        return Judged(replace(row, status="observed", observation=_observation(tallies)), events)
    unasked = [tally.unasked for _, tally in tallies if tally.unasked]
    if unasked and not any(tally.effective or tally.failures for _, tally in tallies):
        return Judged(replace(row, message=f"nothing to ask: {unasked[0]}"), events)
    status, message = _status(tallies)
    cells: dict[str, Status] = dict.fromkeys(sum((tally.dtypes for _, tally in tallies), Counter()), status)
    resting: list[tuple[str, ...]] = []
    if (told := _told(tallies)) is not None:
        check, tally, (case, failure) = told
        if failure.rests:
            resting = [rests for _, tally in tallies for rests in tally.resting]
        cells = {case.dtype: status}  # of the others nobody knows: the search ended there
        row = replace(row, counterexample=case.to_json(), check=check.name)
    copied = sorted(set().union(*(tally.copied for _, tally in tallies)))
    if status == "passed" and copied:
        status, message = "failed", COPIED.format(", ".join(copied[:3]))
        cells = dict.fromkeys(cells, status)
    if requirement.id == "NUM-1" and refused:
        status, resting = "failed", []
        message = "; ".join(f"{d} is claimed, yet {text}" for d, text in refused.items())
        cells |= dict.fromkeys(refused, status)
    listed = tuple(Cell(subject.device, dtype, cell) for dtype, cell in cells.items())
    return Judged(
        replace(row, status=status, message=message, cells=listed),
        events,
        rests=tuple(dict.fromkeys(resting)),
    )


def _failed_itself(row: Row, error: Exception) -> Row:
    return replace(row, status="error", message=f"the suite itself failed: {type(error).__name__}: {error}")


def level_for(requirement: Requirement, kind: str, features: Collection[str]) -> str:
    """The level for a kind and what is claimed: a claim can turn what is observed into a must, and the reverse."""
    if requirement.validated and kind == "kernel" and "validates" not in features:
        return "observed"
    invariant = {"batch-invariance", "run-determinism"}.intersection(features)
    return requirement.claimed_level if requirement.claimed_level and invariant else requirement.level


def unmet(requirement: Requirement, subject: Subject, mine: list[Check]) -> list[str]:
    """Features that a requirement, or each of its checks, rests on and the subject does not claim."""
    missing = [feature for feature in requirement.rests_on if not subject.scope.has(feature)]
    about_masks = requirement.group == "MASK" or requirement.id in ABOUT_MASKS
    if about_masks and not missing and not subject.claims.features & MASK_FEATURES:
        return ["bool-mask or float-mask"]
    lacking = [check.lacks(subject.scope) for check in mine]
    if not missing and lacking and all(lacking):
        return [" or ".join(lacking[0])]
    return missing


def _works(check: Check, subject: Subject, features: list[str], number: int, watch: Watch) -> bool:
    claims = replace(subject.claims, features=subject.claims.features | set(features))
    try:
        tally = explore(
            check, subject.claiming(claims), examples=TRIALS, seed_value=number, observe=True, watch=watch
        )
    except Exception:
        return False  # the convention has no way to say it
    return tally.examples > 0 and tally.failures == 0


def _status(tallies: list[tuple[Check, Tally]]) -> tuple[Status, str | None]:
    if (told := _told(tallies)) is not None:
        _, tally, (_, failed) = told
        repeats = "" if tally.repeats else " (not repeatable: a second run of the same case did not fail)"
        return "failed", failed.message + repeats
    for check, tally in tallies:
        needed = check.floor * tally.examples
        if (tally.effective < needed and not tally.unasked) or not tally.examples:
            return (
                "error",
                f"too few effective examples: {tally.effective} of {tally.examples}, {math.ceil(needed)} needed",
            )
    return "passed", None


def _told(tallies: list[tuple[Check, Tally]]) -> tuple[Check, Tally, tuple[Case, Failed]] | None:
    """The failure that a row tells of: the first of those that say most."""
    found = [(check, tally, tally.last) for check, tally in tallies if tally.last is not None]
    return min(found, key=lambda one: _tells_less(one[2][1]), default=None)


def _tells_less(failed: Failed) -> tuple[bool, bool]:
    """The larger, the less a failure says beside others: most of all if it rests on something simpler, which fails."""
    return bool(failed.rests), lesser(failed)


def _observation(tallies: list[tuple[Check, Tally]]) -> str:
    """What was seen, the most frequent first, and for which faults."""
    counts: Counter[str] = Counter()
    faults: dict[str, set[str]] = {}
    seen = sum((tally.seen for _, tally in tallies), Counter())
    for (fault, text), count in seen.items():
        counts[text] += count
        faults.setdefault(text, set()).add(fault)
    parts = []
    for text, count in counts.most_common():
        named = sorted(faults[text] - {"none"}) if text != AS_REQUIRED else []
        parts.append(f"{text} ({count}{': ' if named else ''}{', '.join(named)})")
    return "; ".join(parts)
