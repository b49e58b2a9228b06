"""The command line: `attn-conformance run | report | explain | list | bench | selftest`."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from attn_conformance.endings import BY_USER
from attn_conformance.isolation.limits import Limits

EPILOG = (
    "Exit status: 0 conforms, differs only as documented, or fails only as expected; 1 fails or incomplete; 2 nothing "
    "could be judged; 130 interrupted."
)


def names(text: str) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[int, ...]:
    """Comma-separated positive integers."""
    parts = names(text)
    if not parts or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"positive integers, as in 64,128, were expected, not {text!r}")
    return tuple(int(part) for part in parts)


def positive(text: str) -> int:
    """A positive integer."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"a positive integer was expected, not {text!r}")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """I/N: two integers, 1 <= I <= N."""
    mine, _, all_ = text.partition("/")
    if not (mine.isdecimal() and all_.isdecimal() and 1 <= int(mine) <= int(all_)):
        raise argparse.ArgumentTypeError(f"I/N with 1 <= I <= N was expected, as in 2/4, not {text!r}")
    return int(mine), int(all_)


def seconds(text: str) -> float:
    """A positive number."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a positive number was expected, not {text!r}")
    return value


def parser() -> argparse.ArgumentParser:
    """The arguments of all verbs."""
    top = argparse.ArgumentParser(
        prog="attn-conformance",
        description="Point it at an attention; it tells you what is wrong.",
        epilog=EPILOG,
    )
    top.add_argument("--version", action="version", version=importlib.metadata.version("attn-conformance"))
    verbs = top.add_subparsers(dest="verb", required=True, metavar="{list,run,explain,report,bench,selftest}")

    listing = verbs.add_parser(
        "list", help="implementations that are registered, and what could be installed"
    )
    listing.add_argument(
        "--claims", action="store_true", help="load each of them and show what it claims (imports frameworks)"
    )

    run = verbs.add_parser("run", help="judge implementations: the main job", epilog=EPILOG)
    run.add_argument("targets", nargs="+", metavar="TARGET",
                     help="a registered name, package.module:object, or path/to/file.py:object")  # fmt: skip
    run.add_argument("--effort", choices=("smoke", "default", "thorough"), default="default",
                     help="examples for each requirement: 20, 150 or 1500")  # fmt: skip
    run.add_argument("--seed", type=int, default=0, help="the same seed gives the same cases (default 0)")
    run.add_argument(
        "--only", type=names, default=(), metavar="ID|GROUP[,...]", help="judge these requirements only"
    )
    run.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="judge the I-th of N parts of the requirements",
    )
    run.add_argument("--spec", metavar="VERSION", help="of the specification: what came later is not asked")
    run.add_argument(
        "--strict", action="store_true", help="documented differences and failed shoulds count as failures"
    )
    run.add_argument("--fail-fast", action="store_true", help="end at the first failed must-requirement")
    _narrowing(run)
    run.add_argument(
        "--expect", type=Path, metavar="FILE.toml", help="failures to expect: one that passes fails"
    )
    run.add_argument(
        "--replay",
        type=Path,
        metavar="RESULT.json",
        help="try the counterexamples of an earlier result, no others",
    )
    run.add_argument("--json", type=Path, metavar="FILE", help="write the result file")
    run.add_argument("--html", type=Path, metavar="FILE", help="write a page to read it on")
    run.add_argument("--junit", type=Path, metavar="FILE", help="write it as JUnit XML")
    run.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="judge by so many processes at once"
    )
    run.add_argument("--no-isolate", action="store_true", help="judge in this process, for debuggers")
    for option, unit, default, what in (
        ("--call-limit", "SECONDS", Limits.call, "for one case"),
        ("--load-limit", "SECONDS", Limits.load, "for importing it"),
        ("--memory-limit", "GIB", Limits.memory, "for a process, once loaded"),
    ):
        run.add_argument(
            option, type=seconds, default=default, metavar=unit, help=f"{what} (default {default:g})"
        )
    run.add_argument("--quiet", action="store_true", help="failures and the verdict only")

    report = verbs.add_parser(
        "report",
        help="result files as pages: one implementation, a matrix, benchmarks and their history",
    )
    report.add_argument(
        "results", nargs="+", type=Path, metavar="RESULT.json", help="of run --json or bench --json"
    )
    report.add_argument("--html", type=Path, metavar="DIR", help="write index.html and what it needs there")
    report.add_argument(
        "--expect",
        type=Path,
        metavar="FILE.toml",
        help="write the failures down as expected: a new file, or what has changed in one that exists",
    )
    report.add_argument(
        "--target", metavar="TARGET", help="whose, where the results are of several (--expect)"
    )

    explain = verbs.add_parser(
        "explain", help="a requirement: its source, who agrees, an example of a failure"
    )
    explain.add_argument("id", metavar="ID", help="of the requirement, as a run's table shows it: MASK-1")

    _bench(verbs)

    proofs = verbs.add_parser("selftest", help="the suite proves itself").add_subparsers(
        dest="proof", required=True
    )
    kills = proofs.add_parser(
        "kills",
        help="wrong implementations have to be rejected, and right ones with the same code not",
        epilog="Exit status: 0 if so; 1 if not; 2 nothing could be judged.",
    )
    kills.add_argument(
        "--full", action="store_true", help="by every requirement: tells the wrong killers (hours)"
    )
    kills.add_argument("--seed", type=int, default=0, help="the same seed gives the same cases (default 0)")
    kills.add_argument(
        "--seeds",
        type=positive,
        default=1,
        metavar="N",
        help="with so many, from --seed on: tells the weakest mutants, and fails for a late one (default 1)",
    )
    kills.add_argument(
        "--jobs", type=positive, metavar="N", help="processes at once (default: one for each core)"
    )
    kills.add_argument(
        "--only", type=names, default=(), metavar="NAME[,...]", help="these mutants or bug classes only"
    )
    kills.add_argument("--json", type=Path, metavar="FILE", help="write the result down")
    kills.add_argument("--html", type=Path, metavar="FILE", help="write a page to read it on")
    kills.add_argument("--quiet", action="store_true", help="survivors, wrong killers and totals only")

    alarms = proofs.add_parser(
        "alarms",
        help="right kernels must not be accused, and numeric defects be detected as often as before",
        epilog="Exit status: 0 if so; 1 if not; 2 nothing could be judged.",
    )
    alarms.add_argument("--cases", type=positive, default=2000, metavar="N", help="to pose (default 2000)")
    alarms.add_argument("--seed", type=int, default=0, help="the same seed gives the same cases (default 0)")
    alarms.add_argument(
        "--jobs", type=positive, metavar="N", help="processes at once (default: one for each core)"
    )
    alarms.add_argument(
        "--only", type=names, default=(), metavar="NAME[,...]", help="these kernels of the panel only"
    )
    alarms.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: PyTorch's kernels there, all of them right (default cpu)",
    )
    alarms.add_argument(
        "--against", type=Path, metavar="FILE", help="an earlier result: a rate lower than its own fails"
    )
    alarms.add_argument(
        "--attack",
        action="store_true",
        help="instead climb for the largest error over limit of right kernels",
    )
    alarms.add_argument(
        "--examples",
        type=positive,
        default=10_000,
        metavar="N",
        help="of an attack, for each kernel (default 10000)",
    )
    alarms.add_argument("--json", type=Path, metavar="FILE", help="write the result down")
    alarms.add_argument(
        "--quiet", action="store_true", help="alarms, rates that have dropped and totals only"
    )

    slower = proofs.add_parser(
        "slowdowns",
        help="slow implementations have to be found slower than the same code without the waste",
        epilog="Exit status: 0 if so; 1 if not, or if that is not certain; 2 nothing could be measured.",
    )
    slower.add_argument("--only", type=names, default=(), metavar="NAME[,...]", help="these slowdowns only")
    slower.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to (default cpu)")
    slower.add_argument(
        "--seed", type=int, default=0, help="of inputs and of the order of rounds (default 0)"
    )
    slower.add_argument("--json", type=Path, metavar="FILE", help="write the result down")
    slower.add_argument("--quiet", action="store_true", help="what is not caught and totals only")
    return top


def _narrowing(verb: argparse.ArgumentParser) -> None:
    """The options that say how a target is called, and which of its claims are looked at."""
    verb.add_argument(
        "--convention", metavar="NAME", help="how arguments are spelled, where the signature does not tell"
    )
    verb.add_argument(
        "--with",
        dest="add",
        type=names,
        default=(),
        metavar="CLAIM[,...]",
        help="claims to add, such as gqa,scale or eager",
    )
    verb.add_argument(
        "--without",
        dest="drop",
        type=names,
        default=(),
        metavar="CLAIM[,...]",
        help="claims to leave out, such as float-mask",
    )
    verb.add_argument("--dtype", type=names, default=(), metavar="NAME[,...]", help="these dtypes only")
    verb.add_argument(
        "--head-dims", type=numbers, default=(), metavar="N[,...]", help="the only head sizes it serves"
    )
    verb.add_argument(
        "--device", default="cpu", choices=("cpu", "cuda"), help="where its arrays are (default cpu)"
    )


def _bench(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = verbs.add_parser(
        "bench",
        help="speed and memory, and whether one implementation is slower than another",
        description="Time an implementation, and with --vs hold it against another: in turn, on fresh inputs, with the "
        "results checked. All in one process, unless the base comes from another environment; the target's code is not "
        "isolated.",
        epilog="Exit status: 0 if nothing is slower and every time counts; 1 if not, or if that is not certain; 2 "
        "nothing could be measured.",
    )
    bench.add_argument("target", metavar="TARGET", help="as for run")
    bench.add_argument("--vs", metavar="TARGET", help="the base that it must not be slower than")
    elsewhere = bench.add_mutually_exclusive_group()
    elsewhere.add_argument(
        "--vs-revision",
        metavar="REV",
        help="take the base (or TARGET itself, without --vs) from this revision of the git repository of the current "
        "folder; as with the next two, base and candidate are in processes of their own",
    )
    elsewhere.add_argument(
        "--vs-package",
        metavar="NAME==VERSION",
        help="take it from this package, or any other that pip installs, without its dependencies",
    )
    elsewhere.add_argument(
        "--vs-python",
        metavar="PYTHON",
        help="take it from the environment of this interpreter, which needs the suite's dependencies",
    )
    bench.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="an earlier --json of this machine that it must not be slower than; on shared CPUs mostly inconclusive",
    )
    bench.add_argument(
        "--only",
        type=names,
        default=(),
        metavar="WORK[,...]",
        help="forward, backward, decode, masked, padded, cross, cross-decode or grouped only",
    )
    bench.add_argument(
        "--laws",
        action="store_true",
        help="instead: how time and memory grow with the sizes, which holds on any machine",
    )
    bench.add_argument(
        "--strict", action="store_true", help="with --laws: laws that are only reported count as well"
    )
    bench.add_argument(
        "--cliffs", action="store_true", help="instead: search sizes whose neighbour is much slower"
    )
    bench.add_argument(
        "--examples",
        type=positive,
        metavar="N",
        help="with --cliffs: of each kind of neighbour (default 6, a second or more each)",
    )
    bench.add_argument("--seed", type=int, default=0, help="of inputs and of the order of rounds (default 0)")
    _narrowing(bench)
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the result file")
    bench.add_argument("--html", type=Path, metavar="FILE", help="write a page that stands alone")
    bench.add_argument("--markdown", type=Path, metavar="FILE", help="write a summary for a pull request")
    bench.add_argument("--quiet", action="store_true", help="what does not count and the verdict only")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    from rich.console import Console

    # Logs have no width of their own; 110 columns hold a table row in every viewer.
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 110)
    errors = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
    verb = import_module(f"attn_conformance.commands.{options.verb}")  # the others' imports would cost time
    try:
        status: int = verb.command(options, console, errors)
    except KeyboardInterrupt:
        errors.print("interrupted")
        return BY_USER
    return status
