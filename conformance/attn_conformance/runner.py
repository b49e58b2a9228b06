"""The runner: every check on one subject, by Hypothesis, and a report."""

from __future__ import annotations

import os
import platform
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Flaky
from threadpoolctl import threadpool_limits

from attn_conformance.cases import KernelCase
from attn_conformance.cases.events import applicable, occurring
from attn_conformance.independent import BACKEND
from attn_conformance.judge import Failed
from attn_conformance.registry import Check, checks
from attn_conformance.results import NOT_ASKED, PLANNED, Cell, Report, Row, Status
from attn_conformance.subject import Subject
from attn_reference.requirements import Requirement, load_requirements

EFFORTS = {"smoke": 20, "default": 150, "thorough": 1500}
"""Examples for each requirement. smoke: seconds. default: what the published rates are measured at."""

Progress = Callable[[str, int, int], None]
"""Called with a requirement id, how many rows are done, and how many there are."""


@dataclass
class Tally:
    """What the examples of one check have shown so far."""

    examples: int = 0
    effective: int = 0
    dtypes: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    first: tuple[KernelCase, Failed] | None = None
    last: tuple[KernelCase, Failed] | None = None
    repeats: bool = True


def examine(
    check: Check, subject: Subject, *, examples: int, seed_value: int, observe: bool = False
) -> Tally:
    """Run a check on up to `examples` cases; a failing case is kept as found and, as `last`, as small as it gets.

    observe: record what happens in each example and judge nothing.
    """
    tally = Tally()

    @settings(
        max_examples=examples,
        backend=BACKEND,
        database=None,  # the same seed gives the same cases, whatever earlier runs found
        deadline=None,  # effort is counted in examples, never in seconds
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=(
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
    )
    @seed(seed_value)
    @given(check.cases(subject.scope))
    def example(case: KernelCase) -> None:
        searching = tally.first is None
        if searching:
            tally.examples += 1
            tally.dtypes[case.dtype] += 1
            tally.events.update(occurring(case))
        try:
            outcome = check.function(subject.open(), case)
        except Failed as failed:
            if observe:
                tally.seen[_with_fault(case, failed.message.partition(":")[0])] += 1
                return
            tally.first = tally.first or (case, failed)
            tally.last = (case, failed)
            raise
        if not searching:
            return
        tally.effective += outcome is not False
        if observe:
            tally.seen[
                _with_fault(case, outcome if isinstance(outcome, str) else "as the requirement says")
            ] += 1

    # Whatever Hypothesis makes of a failure (also of one that did not repeat), the tally has it.
    try:
        example()
    except Failed:
        pass
    except Flaky:
        tally.repeats = False
    return tally


def _with_fault(case: KernelCase, text: str) -> str:
    return text if case.fault == "none" else f"{case.fault}: {text}"


def run(
    subject: Subject,
    *,
    effort: str = "default",
    seed_value: int = 0,
    only: Iterable[str] = (),
    fail_fast: bool = False,
    refused: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Judge a subject by every requirement of its kind (or those in `only`: ids or groups).

    refused: claimed dtypes that it does not take, with what it said; they fail NUM-1 and nothing else.
    """
    started = time.perf_counter()
    table = {name: r for name, r in load_requirements().items() if "kernel" in r.kinds}
    wanted = _wanted(table, only)
    rows: dict[str, Row] = {}
    events: Counter[str] = Counter()
    stopped = False
    for done, (name, requirement) in enumerate(table.items()):
        if progress is not None:
            progress(name, done, len(table))
        if stopped or name not in wanted:
            why = "not run: an earlier must failed (--fail-fast)" if stopped else NOT_ASKED
            rows[name] = Row(name, requirement.level, "skipped", message=why)
            continue
        with threadpool_limits(limits=1, user_api="blas"):
            row, tally = _judge(requirement, subject, effort, seed_value, refused or {})
        rows[name] = row
        if tally is not None:
            events.update(tally.events)
        stopped = fail_fast and row.status == "failed" and row.level == "must"
    if progress is not None:
        progress("", len(table), len(table))
    possible = applicable(subject.claims, strides=len(subject.border.layouts) > 1)
    return Report(
        target=subject.target,
        kind="kernel",
        convention=subject.convention.name,
        framework=subject.border.name,
        claims=describe_claims(subject),
        seed=seed_value,
        effort=effort,
        rows=rows,
        seconds=time.perf_counter() - started,
        environment=environment(subject),
        events={name: events[name] for name in sorted(possible)},
    )


def _wanted(table: dict[str, Requirement], only: Iterable[str]) -> set[str]:
    asked = [name.upper() for name in only]
    wanted: set[str] = set()
    for name in asked:
        found = {r for r in table if r == name or table[r].group == name}
        if not found:
            groups = sorted({r.group for r in table.values()})
            raise ValueError(f"no requirement or group {name!r}; groups are {', '.join(groups)}")
        wanted |= found
    return wanted or set(table)


def level_for(requirement: Requirement, subject: Subject) -> str:
    """The level that applies to a subject: a claim can turn what is observed into a must, and the reverse."""
    if requirement.validated and not subject.scope.has("validates"):
        return "observed"
    if requirement.id == "PURE-7" and subject.claims.features & {"batch-invariance", "run-determinism"}:
        return "must"
    return requirement.level


def _judge(
    requirement: Requirement, subject: Subject, effort: str, seed_value: int, refused: dict[str, str]
) -> tuple[Row, Tally | None]:
    name, level = requirement.id, level_for(requirement, subject)
    row = Row(name, level, "skipped")
    if requirement.planned:
        return replace(row, message=PLANNED), None
    missing = unmet(requirement, subject)
    if missing:
        return replace(row, message=f"not claimed: {', '.join(missing)}"), None
    check = checks()[name]
    started = time.perf_counter()
    examples = EFFORTS[effort]
    try:
        number = zlib.crc32(f"{seed_value} {name}".encode())
        tally = examine(check, subject, examples=examples, seed_value=number, observe=level == "observed")
    except Exception as error:
        text = f"the suite itself failed: {type(error).__name__}: {error}"
        return replace(row, status="error", message=text, seconds=time.perf_counter() - started), None
    difference = subject.convention.difference(name)
    row = replace(
        row,
        examples=tally.examples,
        effective=tally.effective,
        seconds=time.perf_counter() - started,
        declared=None if difference is None else f"{difference.text} ({difference.link})",
    )
    status, message = _status(tally, check.floor)
    if name == "NUM-1" and refused:
        status = "failed"
        message = "; ".join(f"{dtype} is claimed, yet {text}" for dtype, text in refused.items())
    if level == "observed":
        return replace(row, status="observed", observation=_observation(tally)), tally
    failing = tally.last[0].dtype if tally.last else None
    cells = tuple(
        Cell(subject.device, dtype, "failed" if dtype == failing else "passed" if failing is None else status)
        for dtype in (tally.dtypes if failing is None else [failing])
    ) + tuple(Cell(subject.device, dtype, "failed") for dtype in (refused if name == "NUM-1" else ()))
    row = replace(row, status=status, message=message, cells=cells)
    if tally.last is not None:
        case = tally.last[0]
        row = replace(row, counterexample=case.to_json(), summary=case.describe())
    return row, tally


def unmet(requirement: Requirement, subject: Subject) -> list[str]:
    """Features that a requirement rests on and the subject does not claim."""
    missing = [feature for feature in requirement.rests_on if not subject.scope.has(feature)]
    mask_group = requirement.group == "MASK" or requirement.id == "CAUSAL-5"
    if mask_group and not subject.claims.features & {"bool-mask", "float-mask", "float32-mask"}:
        missing = missing or ["bool-mask or float-mask"]
    return missing


def _status(tally: Tally, floor: float) -> tuple[Status, str | None]:
    if tally.first is not None and tally.last is not None:
        repeats = "" if tally.repeats else " (not repeatable: a second run of the same case did not fail)"
        return "failed", tally.last[1].message + repeats
    needed = floor * tally.examples
    if tally.effective < needed or not tally.examples:
        return (
            "error",
            f"too few effective examples: {tally.effective} of {tally.examples}, {needed:.0f} were needed",
        )
    return "passed", None


def _observation(tally: Tally) -> str:
    return "; ".join(
        f"{text} ({count})" for text, count in sorted(tally.seen.items(), key=lambda item: -item[1])
    )


def describe_claims(subject: Subject) -> dict[str, Any]:
    """The claims as JSON."""
    claims = subject.claims
    return {
        "dtypes": list(claims.dtypes),
        "devices": list(claims.devices),
        "features": sorted(claims.features),
        "arithmetic": claims.arithmetic,
        "head_sizes": list(claims.head_sizes),
    }


def environment(subject: Subject) -> dict[str, Any]:
    """Versions and settings without which a counterexample may not repeat elsewhere."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }
    for package in ("numpy", "ml_dtypes", "hypothesis", subject.border.name):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    facts |= {
        name: os.environ[name]
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY")
        if name in os.environ
    }
    if subject.border.name == "torch":
        import torch

        facts |= {
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }
        if subject.device == "cuda":
            facts["device"] = torch.cuda.get_device_name()
    return facts
