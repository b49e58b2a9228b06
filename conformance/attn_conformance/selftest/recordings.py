"""Recordings of pairs: two copies of one function, and one with a twentieth more work, timed as a benchmark times them.

`python -m attn_conformance.selftest.recordings record FOLDER --processes 300` records, each process with buffers and
orders of its own, and goes on where it was broken off; `... judge FOLDER... --json FILE --markdown FILE` applies the
rule to what was recorded (recorded.py).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import queue
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from attn_conformance.bench.clocks import Clock, clock_for, quiet
from attn_conformance.bench.machine import fingerprint, unlike
from attn_conformance.bench.pairs import Progress as Told
from attn_conformance.bench.pairs import Side, compare, play
from attn_conformance.bench.rule import Decision, Rule
from attn_conformance.bench.workloads import Workload
from attn_conformance.files import put
from attn_conformance.isolation.starting import start
from attn_conformance.report.progress import Progress
from attn_conformance.selftest.recorded import HEAD, SCHEMA, Comparison, Part, Summaries
from attn_conformance.selftest.recorded_page import page, tables
from attn_conformance.subject import Subject
from attn_conformance.targets import Narrowing, subject

TARGET = "torch-sdpa"
"""What is timed: its time is proportional to the heads."""

WORKLOADS = {
    "cpu": (
        Workload("forward", 1, 20, 128, 128, 64, "float32", is_causal=True),
        Workload("forward", 1, 20, 96, 96, 64, "float32"),
        Workload("cross", 1, 20, 32, 512, 64, "float32"),
    ),
    "cuda": (
        Workload("forward", 33, 20, 1024, 1024, 64, "bfloat16", device="cuda"),
        Workload("forward", 8, 20, 1024, 1024, 64, "bfloat16", is_causal=True, device="cuda"),
        Workload("forward", 8, 20, 2048, 2048, 64, "bfloat16", is_causal=True, device="cuda"),
    ),
}
"""By device; each process has one of them, in turn. On one core of a CPU a call takes about a millisecond.

On CUDA blocks of equal length run in waves: with 33 elements of 1024 tokens a head is 264 tiles of 128 rows, one wave
of two on each of 132 processors, so that a head more takes 5 % more time. Under causality blocks differ in length.
"""

MORE = 1
"""Heads that the slower side has beside twenty: 5 % more work, in the same call."""

HEAVY = ("torch", "torch.nn.attention.bias")
"""Modules that a process would take seconds to import, those of the target among them."""

FROM_BUFFERS = {"cpu": 1, "cuda": 5}
"""Decisions in succession on the same buffers: on CUDA new ones take longer than a decision."""


@dataclass(frozen=True)
class Plan:
    """What is recorded. same, more: decisions of each process, on two copies and with more work."""

    device: str
    processes: int
    same: int
    more: int
    seed: int


@dataclass(frozen=True)
class Task:
    """One process. slot: of the CUDA device; file: that it writes."""

    plan: Plan
    number: int
    slot: int
    file: str


def record(folder: Path, plan: Plan, jobs: int, progress: Told) -> None:
    """Record what the folder does not hold yet; ValueError if it holds something else, RuntimeError if one ends."""
    folder.mkdir(parents=True, exist_ok=True)
    _begin(folder, plan)
    todo = [n for n in range(plan.processes) if not _file(folder, n).exists()]
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)

    def one(number: int) -> None:
        slot = slots.get()
        try:
            _alone(_recorded, Task(plan, number, slot, str(_file(folder, number))))
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(one, number) for number in todo]
        try:
            for done, future in enumerate(as_completed(started), plan.processes - len(todo) + 1):
                future.result()
                progress("", done, plan.processes)
        finally:
            pool.shutdown(cancel_futures=True)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:04}.npz"


def _begin(folder: Path, plan: Plan) -> None:
    """Write down what is recorded, and on which machine, unless that was done.

    Another plan or rule is another folder, as is a machine of another kind.
    """
    head, here = folder / HEAD, folder / "machine.tmp"
    asked = {name: value for name, value in asdict(plan).items() if name != "processes"}
    found = json.loads(head.read_text(encoding="utf-8")) if head.exists() else None
    if found is not None and found["plan"] != asked:
        raise ValueError(f"{folder} holds a recording of another plan: {found['plan']}")
    if found is not None and Rule.from_json(found["rule"]) != Rule():
        raise ValueError(f"{folder} holds a recording under another rule: {found['rule']}")
    _alone(_described, str(here), plan.device)
    machine = json.loads(here.read_text(encoding="utf-8"))
    here.unlink()
    if found is not None:
        if (difference := unlike(found["machine"], machine)) is not None:
            raise ValueError(f"{folder} holds a recording of another machine: {difference}")
        return
    data = {
        "recording": SCHEMA,
        "plan": asked,
        "rule": asdict(Rule()),
        "target": TARGET,
        "suite": version("attn-conformance"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
    }
    put(head, json.dumps(data, indent=1) + "\n")


def _context() -> BaseContext:
    """Processes forked from a server that has imported PyTorch and run nothing; on other systems begun afresh."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["attn_conformance.selftest.recordings", *HEAVY])
    return server


def _alone(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function of this module in a process of its own; RuntimeError if that fails."""
    process, life = start(_context(), function, *arguments)
    process.join()
    life.close()
    if process.exitcode:
        raise RuntimeError(f"a process ended with status {process.exitcode}: {arguments}")


def _described(life: Connection, file: str, device: str) -> None:
    """Write the fingerprint of this machine."""
    with quiet({"torch"}, device):
        put(Path(file), json.dumps(fingerprint(device)))


def _recorded(life: Connection, task: Task) -> None:
    """Record one process, and write its file."""
    plan = task.plan
    if plan.device == "cuda":
        import torch

        torch.cuda.set_device(task.slot)
    target, _ = subject(TARGET, Narrowing(device=plan.device))
    offered = WORKLOADS[plan.device]
    workload = offered[task.number % len(offered)]
    before = os.getloadavg()[0]
    found: list[Comparison] = []
    # Spread over each other, so that what changes meanwhile changes both.
    kinds = np.random.default_rng((plan.seed, task.number)).permutation(
        [False] * _draws(plan.same, plan.device) + [True] * _draws(plan.more, plan.device)
    )
    with quiet({"torch"}, plan.device):
        for place, more in enumerate(kinds):
            times = min(FROM_BUFFERS[plan.device], plan.more if more else plan.same)
            seed = (plan.seed, task.number, place)
            found.append(_compared(target, workload, bool(more), seed, times))
    part = Part(task.number, workload.name, before, os.getloadavg()[0], tuple(found))
    part.write(Path(task.file))


def _draws(comparisons: int, device: str) -> int:
    return math.ceil(comparisons / FROM_BUFFERS[device])


def _compared(
    target: Subject, workload: Workload, more: bool, seed: tuple[int, ...], times: int
) -> Comparison:
    """Decisions in succession on fresh buffers, by what a benchmark run uses; RuntimeError if a call fails."""
    larger = replace(workload, H=workload.H + MORE) if more else workload
    candidate = Side(target, larger, None, (*seed, 1))
    base = Side(target, workload, None, (*seed, 2))
    rng, rule, begun = np.random.default_rng((*seed, 0)), Rule(), perf_counter()
    clock, _ = compare(base, candidate, clock_for({"torch"}, target.device), rule, rng, limit=math.inf)
    for _ in range(times - 1):
        go_on(base, candidate, clock, rule, rng)
    passed = perf_counter() - begun
    if said := base.problem or candidate.problem:
        raise RuntimeError(f"a call failed: {said}")
    problems = [side.measured(clock).problem for side in (base, candidate)]
    return Comparison(
        more,
        clock.name,
        len(base.posed.buffers),
        passed,
        "; ".join(text for text in problems if text),
        *(np.array([r.seconds for r in side.readings]) for side in (base, candidate)),
        *(np.array([r.wall for r in side.readings]) for side in (base, candidate)),
    )


def go_on(base: Side, candidate: Side, clock: Clock, rule: Rule, rng: np.random.Generator) -> Decision | None:
    """Another decision, on the rounds from here on; None if a call fails."""
    begun = len(base.readings)
    for look in rule.looks:
        play((base, candidate), clock, rng, look - (len(base.readings) - begun))
        if base.problem or candidate.problem:
            return None
        of_base, of_candidate = ([r.seconds for r in side.readings[begun:]] for side in (base, candidate))
        if (decision := rule.decide(of_base, of_candidate)) is not None:
            return decision
    raise AssertionError("the last look decides")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m attn_conformance.selftest.recordings")
    verbs = parser.add_subparsers(dest="verb", required=True)
    made = verbs.add_parser("record", help="record pairs, or go on with a recording")
    made.add_argument("folder", type=Path, metavar="FOLDER")
    made.add_argument("--device", choices=tuple(WORKLOADS), default="cpu")
    made.add_argument("--processes", type=int, default=300, metavar="N", help="(default 300)")
    made.add_argument(
        "--same", type=int, default=10, metavar="N", help="decisions on copies in each (default 10)"
    )
    made.add_argument(
        "--more", type=int, default=3, metavar="N", help="decisions with more work in each (default 3)"
    )
    made.add_argument("--seed", type=int, default=0, help="of inputs and orders (default 0)")
    made.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="processes at once (default: one, on CUDA one for each device)",
    )
    judged = verbs.add_parser("judge", help="what the rule makes of recordings")
    judged.add_argument(
        "recordings", nargs="+", type=Path, metavar="FOLDER", help="or a file that judge has written"
    )
    judged.add_argument("--json", type=Path, metavar="FILE", help="write the result down")
    judged.add_argument("--markdown", type=Path, metavar="FILE", help="write a page of it")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 if the targets are reached (or it was recorded), 1 if not, 2 for what is no recording."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "record":
            plan = Plan(options.device, options.processes, options.same, options.more, options.seed)
            with Progress("recordings", unit="processes") as progress:
                record(options.folder, plan, options.jobs or _devices(options.device), progress)
            return 0
        found = Summaries(tuple(s for path in options.recordings for s in Summaries.read(path).summaries))
    except (OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.json is not None:
        put(options.json, json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n")
    if options.markdown is not None:
        put(options.markdown, page(found))
    sys.stdout.write(tables(found))
    return 0 if all(summary.ok for summary in found.summaries) else 1


def _devices(device: str) -> int:
    """Of CUDA as many as there are, else one."""
    if device != "cuda":
        return 1
    import torch

    return max(1, torch.cuda.device_count())


if __name__ == "__main__":
    # Processes find what they are to call by this module's own name.
    from attn_conformance.selftest import recordings

    sys.exit(recordings.main())
