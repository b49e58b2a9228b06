"""`attn-conformance bench TARGET [--vs TARGET]`: speed, and whether it has become worse."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attn_conformance.bench import distant, environments
from attn_conformance.bench import run as runs
from attn_conformance.bench.baseline import against, checked, untimed
from attn_conformance.bench.clocks import quiet
from attn_conformance.bench.environments import Environment
from attn_conformance.bench.kernels import plain
from attn_conformance.bench.machine import Fingerprint, fingerprint, match, shares
from attn_conformance.bench.results import Benchmark, Benchmarks, Measurement
from attn_conformance.bench.verdict import closing
from attn_conformance.commands import cliffs, laws
from attn_conformance.commands.alarms import listed
from attn_conformance.commands.run import writable
from attn_conformance.files import put
from attn_conformance.loading import TargetError
from attn_conformance.report.bench import bench_page
from attn_conformance.report.progress import Progress
from attn_conformance.report.reading import read_benchmarks
from attn_conformance.report.summary import summary
from attn_conformance.targets import Narrowing

STYLES = {"fine": "green", "regressed": "bold red", "inconclusive": "yellow"}

TELLING = ("attention", "attn", "flash", "fmha", "softmax", "mm", "gemm")
"""What names of kernels have in them that are worth a table's width, the best first."""


def command(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """The exit status: 0 if nothing has become worse, 1 if something has or it is not certain, 2 as for `run`."""
    sys.path.insert(0, str(Path.cwd()))  # the working directory is importable
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # read at import: else its profiler tells of memory freed
    try:
        writable(options)
        if options.strict and not options.laws:
            raise ValueError("--strict goes with --laws: else whatever is measured counts anyway")
        if options.examples is not None and not options.cliffs:
            raise ValueError("--examples goes with --cliffs")
        if options.laws or options.cliffs:
            return _alone(options, console)
        stored = None if options.baseline is None else read_benchmarks(options.baseline)
        result = measured(options, stored)
    except (TargetError, ValueError) as error:
        errors.print(f"cannot measure: {error}", markup=False)
        return 2
    if options.json is not None:
        put(options.json, json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n")
    if options.html is not None:
        put(options.html, bench_page([result]))
    if options.markdown is not None:
        put(options.markdown, summary(result))
    show(result, console, quiet=options.quiet)
    if stored is not None:
        listed("In the baseline, not timed", (w.name for w in untimed(result, stored)), console)
    return 0 if closing(result).ok else 1


def measured(options: argparse.Namespace, stored: Benchmarks | None = None) -> Benchmarks:
    """The run that the options ask for; against the stored one, if there is one: Refused before anything is timed."""
    machine = None if stored is None else _same_machine(options, stored)
    narrowing = _narrowing(options)
    name = f"bench {options.target}"
    with Progress(name, quiet=options.quiet, unit="workloads") as progress:
        asked = {
            "narrowing": narrowing,
            "only": options.only,
            "seed": options.seed,
            "progress": progress,
            "machine": machine,
        }
        elsewhere = _elsewhere(options)
        if elsewhere is None:
            result = runs.run(options.target, options.vs, **asked)
        else:
            with elsewhere as environment:
                result = distant.run(options.target, options.vs or options.target, environment, **asked)
    return result if stored is None else against(result, stored, match, name=str(options.baseline))


def _elsewhere(options: argparse.Namespace) -> AbstractContextManager[Environment] | None:
    """The environment of the base, None for this process."""
    if options.vs_revision is not None:
        return environments.revision(options.vs_revision, options.vs or options.target)
    if options.vs_package is not None:
        return environments.package(options.vs_package)
    return None if options.vs_python is None else environments.interpreter(options.vs_python)


def _same_machine(options: argparse.Namespace, stored: Benchmarks) -> Fingerprint:
    """The fingerprint of this machine, which has to match."""
    torch = "torch" in stored.machine
    with quiet({"torch"} if torch else {"numpy"}, options.device):
        machine = fingerprint(options.device, torch)
    checked(stored, machine, match)
    return machine


def _narrowing(options: argparse.Namespace) -> Narrowing:
    return Narrowing(
        options.convention, options.add, options.drop, options.dtype, options.head_dims, options.device
    )


def _alone(options: argparse.Namespace, console: Console) -> int:
    """What is asked of one implementation, without another."""
    which = "--laws" if options.laws else "--cliffs"
    others = (options.vs, options.baseline, options.only, options.html, options.markdown)
    if any(others) or (options.laws and options.cliffs):
        raise ValueError(
            f"{which} asks one implementation for workloads of its own, and goes with --json alone"
        )
    command = laws.command if options.laws else cliffs.command
    return command(options, _narrowing(options), console)


def show(result: Benchmarks, console: Console, *, quiet: bool = False) -> None:
    """Print the table, what does not count, what was left out, and the closing sentence; quiet: no table."""
    if not quiet:
        console.print(_table(result), "")
    listed("Does not count", _problems(result), console)
    listed("Other kernels than the base's", _kernels(result), console)
    listed(
        "Slowed down meanwhile",
        (f"{b.workload.name}: {b.throttled}" for b in result.benchmarks if b.throttled),
        console,
    )
    listed("Left out", (f"{out.workload.name}: {out.reason}" for out in result.left_out), console)
    end = closing(result)
    clocks = ", ".join(dict.fromkeys(b.clock for b in result.benchmarks))
    console.print(
        f"\n[{'bold green' if end.ok else 'bold red'}]{escape(end.sentence)}[/] (clock: {clocks}, seed {result.seed}, "
        f"{result.seconds:.1f} s)"
    )


def _problems(result: Benchmarks) -> list[str]:
    found = []
    for benchmark in result.benchmarks:
        problem = benchmark.problem if benchmark.decision is None else None
        if text := problem or benchmark.candidate.problem:
            found.append(f"{benchmark.workload.name}: {text}")
    return found


def _kernels(result: Benchmarks) -> list[str]:
    return [
        f"{b.workload.name}: {', '.join(plain(b.candidate.kernels))}; the base's: {', '.join(plain(b.base.kernels))}"
        for b in result.benchmarks
        if b.base is not None
        and b.base.kernels
        and b.candidate.kernels
        and telling(b.base) != telling(b.candidate)
    ]


def _table(result: Benchmarks) -> Table:
    grid = Table(show_edge=False, pad_edge=False, title=_title(result), title_justify="left")
    grid.add_column("workload")
    names = ["base\nms", "candidate\nms", "ratio [low, high]", "verdict"] if result.against else ["ms"]
    for name in (*names, "share of\nceiling", "peak\nMiB"):
        grid.add_column(name, justify="left" if name == "verdict" else "right", no_wrap="\n" not in name)
    grid.add_column("kernel", overflow="fold")
    for benchmark in result.benchmarks:
        grid.add_row(*_row(benchmark, result))
    return grid


def _title(result: Benchmarks) -> str:
    def named(target: str, measurement: Measurement | None) -> str:
        version = measurement.version if measurement else None
        return escape(f"{target} {version}" if version else target)

    first = result.benchmarks[0]
    text = named(result.candidate, first.candidate)
    if result.baseline is not None:
        text += f", against {escape(str(result.against))}"
    elif result.base is not None:
        text += f", against {named(result.base, first.base)}"
    return f"{text}, on {result.machine.get('gpu') or result.machine.get('cpu')}"


def _row(benchmark: Benchmark, result: Benchmarks) -> list[str]:
    candidate, decision = benchmark.candidate, benchmark.decision
    cells = [benchmark.workload.name.replace("-", " ")]
    if result.against is not None:
        cells += [_milliseconds(benchmark.base)]
    cells += [_milliseconds(candidate)]
    if result.against is not None:
        if decision is None:
            cells += ["", "[bold red]does not count[/]"]
        else:
            bounds = f"{decision.ratio:.3f} \\[{decision.low:.3f}, {decision.high:.3f}]"
            cells += [bounds, f"[{STYLES[decision.verdict]}]{decision.verdict}[/]"]
    reached = shares(candidate, benchmark.workload, result.machine)
    limiting = max(reached, key=lambda name: reached[name], default=None)
    cells += ["" if limiting is None else f"{reached[limiting]:.0%} {limiting}"]
    cells += ["" if candidate.peak is None else f"{candidate.peak / 2**20:.1f}"]
    return [*cells, escape(", ".join(telling(candidate)))]


def _milliseconds(measurement: Measurement | None) -> str:
    if measurement is None or not measurement.seconds or measurement.problem:
        return ""
    return f"{median(measurement.seconds) * 1e3:.4g}"


def telling(measurement: Measurement) -> tuple[str, ...]:
    """The plain names of kernels that tell how attention was computed; of all, where none has such a name."""
    for word in TELLING:
        if found := [name for name in measurement.kernels if word in name.lower()]:
            return plain(found)
    return plain(measurement.kernels)
