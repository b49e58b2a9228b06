"""Benchmarks inside pytest, as a stranger's CI meets them; implementations say how long they take: no clock runs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest_plugins = ["pytester"]

KERNEL = (Path(__file__).parents[2] / "examples" / "numpy_kernel.py").read_text(encoding="utf-8")
PACKAGE = {
    "plain": KERNEL,
    "ticks": """
import random
now, drawn = 0, random.Random(0)
def read():
    return now
def takes(milliseconds, scatter=0.002):
    global now
    now += int(milliseconds * 1e6 * (1 + scatter * drawn.gauss(0, 1)))
""",
    "timed": """
from mypkg import ticks
from mypkg.plain import attention
def timed(milliseconds, scatter=0.002, shift=0):
    def kernel(q, k, v, mask=None, is_causal=False):
        ticks.takes(milliseconds, scatter)
        return attention(q, k, v, mask, is_causal) + shift
    return kernel
base, same = timed(6), timed(6)
slower = timed(6.5)
other = timed(9)
noisy = timed(6, scatter=0.3)
wrong = timed(6, shift=1)
""",
}
FAKED = """
from attn_conformance.bench import asking
from attn_conformance.bench.clocks import HostClock
from attn_conformance.bench.workloads import Workload
from mypkg import ticks

WORKLOADS = [Workload("forward", 1, 2, 8, 8, 4, "float32"), Workload("decode", 1, 2, 1, 8, 4, "float32")]
asking.grid = lambda *given: WORKLOADS
asking.clock_for = lambda borders, device: HostClock("thread", ticks.read, ticks.read, ticks.read)
asking.machines.fingerprint = lambda *given: {"device": "cpu", "cpu": "imagined", "ceilings": {}}
"""
STORING = """
import faked, json
from attn_conformance.bench import asking
from attn_conformance.targets import Narrowing
bench = asking.opened("mypkg.timed:base", asking.Terms({base!r}, None, Narrowing(), 0, False))
run = bench.run(*map(bench.measured, bench.workloads))
open("stored.json", "w").write(json.dumps(run.to_json()))
"""
FORWARD, DECODE = "forward-b1-h2-t8-s8-d4-float32", "decode-b1-h2-t1-s8-d4-float32"


@pytest.fixture(autouse=True)
def as_outside_of_xdist(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may run on a worker, whose environment would switch pytest-benchmark off in the runs they make."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    package = pytester.mkpydir("mypkg")
    for name, source in PACKAGE.items():
        (package / f"{name}.py").write_text(source, encoding="utf-8")
    pytester.makepyfile(faked=FAKED)
    return pytester


def bench(folder: pytest.Pytester, target: str, *arguments: str) -> pytest.RunResult:
    """The suite's benchmarks on mypkg.timed:TARGET."""
    command = ("-p", "faked", "--pyargs", "attn_conformance.suite.test_bench", "--attn-bench", "-rA")
    return folder.runpytest_subprocess(*command, "--attn-impl", f"mypkg.timed:{target}", *arguments)


def stored(folder: pytest.Pytester, base: str | None = None, **changes: str) -> str:
    """A file of benchmarks of mypkg.timed:base, as its command line would write it, with texts replaced."""
    done = folder.run(sys.executable, "-c", STORING.format(base=base))
    assert done.ret == 0, done.stderr.str()
    path = folder.path / "stored.json"
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_one_test_a_workload_and_a_line_for_each(folder: pytest.Pytester) -> None:
    result = bench(folder, "same", "--attn-vs", "mypkg.timed:base", "-v", "-W", "error", "--strict-markers")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [f"*::test_bench[[]{FORWARD}[]] PASSED*", f"*::test_bench[[]{DECODE}[]] PASSED*"]
    )
    result.stdout.re_match_lines(
        [".*= benchmarks of attention =.*", rf"{FORWARD}: not slower: (0\.99|1\.00)\d \(.*; below 1\.05$"]
    )


def test_a_regression_is_an_ordinary_failure_that_says_what_to_do(folder: pytest.Pytester) -> None:
    result = bench(folder, "slower", "--attn-vs", "mypkg.timed:base", "--junitxml=junit.xml")
    result.assert_outcomes(failed=2)
    assert result.ret == 1
    result.stdout.re_match_lines(
        [
            rf"{FORWARD}: slower: 1\.08\d \(1\.0[78]\d to 1\.0[89]\d\) times the base's time, .*1\.02 would be allowed",
            r"  candidate mypkg\.timed:slower: 6\.\d\d ms \(median of 12 rounds, thread clock\).*",
            r"  base mypkg\.timed:base: [56]\.\d\d ms \(median of 12 rounds, thread clock\).*",
            r"  again: attn-conformance bench mypkg\.timed:slower --vs mypkg\.timed:base --only forward .*",
        ]
    )
    cases = ElementTree.parse(folder.path / "junit.xml").getroot().findall(".//testcase")
    assert len(cases) == 2
    assert all("slower: 1.08" in case.find("failure").attrib["message"] for case in cases)  # type: ignore[union-attr]


def test_the_first_failure_stops_a_run_that_is_told_to(folder: pytest.Pytester) -> None:
    bench(folder, "slower", "--attn-vs", "mypkg.timed:base", "-x").assert_outcomes(failed=1)


def test_fractions_of_a_percent_count(folder: pytest.Pytester) -> None:
    source = (folder.path / "mypkg" / "timed.py").read_text(encoding="utf-8")
    source += "below, above = timed(6 * 1.016, 0.001), timed(6 * 1.029, 0.001)\n"
    (folder.path / "mypkg" / "timed.py").write_text(source, encoding="utf-8")
    bench(folder, "below", "--attn-vs", "mypkg.timed:base").assert_outcomes(passed=2)
    result = bench(folder, "above", "--attn-vs", "mypkg.timed:base")
    result.assert_outcomes(failed=2)
    result.stdout.re_match_lines([rf"{FORWARD}: slower: 1\.0[23]\d .*; 1\.02 would be allowed"])


def test_what_cannot_be_told_is_no_pass_unless_it_is_to_be_skipped(folder: pytest.Pytester) -> None:
    arguments = ("noisy", "--attn-vs", "mypkg.timed:base")
    failed = bench(folder, *arguments)
    failed.assert_outcomes(failed=2)
    failed.stdout.re_match_lines([rf"{FORWARD}: inconclusive: .*; the times scatter by \d+\.\d%"])
    skipped = bench(folder, *arguments, "--attn-inconclusive", "skip")
    skipped.assert_outcomes(skipped=2)
    assert not re.search(r"\bpassed\b", skipped.outlines[-1])


def test_the_time_of_a_wrong_result_does_not_count(folder: pytest.Pytester) -> None:
    result = bench(folder, "wrong")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([f"{FORWARD}: its time does not count: *"])


def test_without_anything_to_compare_with_times_are_taken(folder: pytest.Pytester) -> None:
    result = bench(folder, "base")
    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines([rf"{FORWARD}: [56]\.\d\d ms$"])


# ------------------------------------------------------------------------------------------- the store


def test_pytest_benchmark_keeps_the_very_samples_and_what_was_decided(folder: pytest.Pytester) -> None:
    pytest.importorskip("pytest_benchmark")
    result = bench(folder, "slower", "--attn-vs", "mypkg.timed:base", "--benchmark-json=kept.json")
    result.stdout.fnmatch_lines(["*benchmark 'forward': 1 tests*", "*Median*"])

    def refused(constant: str) -> None:
        raise AssertionError(constant)

    kept = json.loads((folder.path / "kept.json").read_text(encoding="utf-8"), parse_constant=refused)
    forward, decode = kept["benchmarks"]
    assert forward["param"] == FORWARD
    assert (forward["group"], decode["group"]) == ("forward", "decode")
    assert forward["stats"]["rounds"] == 12
    assert forward["stats"]["median"] == forward["extra_info"]["candidate"]["median"]
    extra = forward["extra_info"]
    assert extra["state"] == "regressed"
    assert extra["decision"]["low"] > 1.07
    assert extra["machine"] == {"device": "cpu", "cpu": "imagined", "ceilings": {}}
    assert (extra["flops"], extra["bytes"]) == (4 * 2 * 8 * 8 * 4, 4 * 2 * 8 * 4 * 4)
    assert extra["base"]["target"] == "mypkg.timed:base"


def test_numbers_that_are_none_are_null_in_its_file(folder: pytest.Pytester) -> None:
    pytest.importorskip("pytest_benchmark")
    (folder.path / "faked.py").write_text(
        FAKED + "asking.machines.fingerprint = lambda *given: {'device': 'cpu', 'speed': float('nan')}\n"
    )
    bench(folder, "base", "--benchmark-json=kept.json").assert_outcomes(passed=2)
    text = (folder.path / "kept.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert [one["extra_info"]["machine"]["speed"] for one in json.loads(text)["benchmarks"]] == [None, None]


def test_without_pytest_benchmark_the_gate_stands_and_says_what_is_missing(folder: pytest.Pytester) -> None:
    arguments = ("--attn-vs", "mypkg.timed:base", "-p", "no:benchmark", "--strict-markers", "-W", "error")
    result = bench(folder, "slower", *arguments)
    result.assert_outcomes(failed=2)
    said = "*not kept: tables, files and histograms come with pip install 'attn-conformance[[]bench[]]'"
    result.stdout.fnmatch_lines([said])
    bench(folder, "same", *arguments).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "arguments", [("-n", "2", "--dist", "loadgroup"), ("-n", "1"), ("--benchmark-disable",)]
)
def test_the_gate_stands_where_pytest_benchmark_is_switched_off(
    folder: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    pytest.importorskip("pytest_benchmark")
    pytest.importorskip("xdist")
    result = bench(folder, "slower", "--attn-vs", "mypkg.timed:base", *arguments)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([f"*{FORWARD}: slower: *", "*not kept: pytest-benchmark is switched off"])


@pytest.mark.parametrize(
    "arguments", [("-n", "2"), ("-n", "2", "--dist", "loadscope"), ("--tx", "2*popen", "-d")]
)
def test_workers_that_would_time_at_once_are_refused(
    folder: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    pytest.importorskip("xdist")
    result = bench(folder, "same", "--attn-vs", "mypkg.timed:base", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*several workers would time benchmarks at once*--dist loadgroup*"])


# ---------------------------------------------------------------------------------------- collection


def test_benchmarks_are_for_those_who_ask_for_them(folder: pytest.Pytester) -> None:
    arguments = (
        "--pyargs",
        "attn_conformance.suite",
        "--attn-impl",
        "mypkg.timed:base",
        "--collect-only",
        "-q",
    )
    assert "test_bench" not in folder.runpytest_subprocess(*arguments).stdout.str()
    both = folder.runpytest_subprocess("-p", "faked", *arguments, "--attn-bench").stdout.str()
    assert f"test_bench[{FORWARD}]" in both
    assert "test_conformance[" in both


@pytest.mark.parametrize("given", [("--attn-vs", "a:b"), ("--attn-baseline", "f"), ()])
def test_options_that_would_do_nothing_are_refused(folder: pytest.Pytester, given: tuple[str, ...]) -> None:
    suite = "attn_conformance.suite" if given else "attn_conformance.suite.test_bench"
    result = folder.runpytest_subprocess("--pyargs", suite, "--attn-impl", "mypkg.timed:base", *given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*nothing is timed without --attn-bench*"])


def test_several_implementations_have_ids_of_their_own(folder: pytest.Pytester) -> None:
    result = bench(folder, "same", "--attn-impl", "mypkg.timed:base", "-q", "--collect-only")
    assert f"test_bench[mypkg.timed:same-{FORWARD}]" in result.stdout.str()
    assert f"test_bench[mypkg.timed:base-{DECODE}]" in result.stdout.str()


def test_what_an_implementation_does_not_claim_is_skipped_with_the_reason(folder: pytest.Pytester) -> None:
    result = bench(folder, "same", "--attn-without", "cross")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*does not claim cross"])


def test_a_target_that_cannot_be_timed_says_why(folder: pytest.Pytester) -> None:
    result = bench(folder, "nothing")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*attn-conformance cannot time mypkg.timed:nothing*"])


# ----------------------------------------------------------------------------------------- baselines


def test_a_baseline_of_this_machine_decides_what_it_can(folder: pytest.Pytester) -> None:
    path = stored(folder)
    result = bench(folder, "slower", "--attn-baseline", path)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([f"{FORWARD}: inconclusive: 1.0*time both in one run instead*--vs TARGET"])
    source = (folder.path / "mypkg" / "timed.py").read_text(encoding="utf-8")
    (folder.path / "mypkg" / "timed.py").write_text(
        f"{source}\nhalf, double = timed(3), timed(12)\n", encoding="utf-8"
    )
    bench(folder, "half", "--attn-baseline", path).assert_outcomes(passed=2)
    twice = bench(folder, "double", "--attn-baseline", path)
    twice.assert_outcomes(failed=2)
    twice.stdout.re_match_lines([rf"{FORWARD}: slower: (1\.99|2\.00)\d \("])


def test_a_base_in_both_runs_lets_a_baseline_decide_more(folder: pytest.Pytester) -> None:
    path = stored(folder, base="mypkg.timed:other")
    common = ("--attn-vs", "mypkg.timed:other", "--attn-baseline", path)
    bench(folder, "same", *common).assert_outcomes(passed=2)
    result = bench(folder, "slower", *common)
    result.assert_outcomes(failed=2)
    result.stdout.re_match_lines(
        [
            rf"{FORWARD}: slower: 1\.08\d \(.*",
            r"  again: attn-conformance bench mypkg\.timed:slower --vs mypkg\.timed:other --baseline .*stored\.json .*",
        ]
    )


def test_a_baseline_of_another_machine_is_refused_and_nothing_timed(folder: pytest.Pytester) -> None:
    path = stored(folder, imagined="another")
    result = bench(folder, "same", "--attn-baseline", path)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            f"{FORWARD}: the baseline is of another machine: the CPU differs: another and imagined; *--vs TARGET"
        ]
    )
    assert " ms" not in result.stdout.str()


def test_a_workload_that_the_baseline_lacks_fails_and_one_it_has_alone_is_skipped(
    folder: pytest.Pytester,
) -> None:
    path = stored(folder, **{'"T": 8': '"T": 7'})
    result = bench(folder, "base", "--attn-baseline", path)
    result.assert_outcomes(failed=2, skipped=1)
    result.stdout.fnmatch_lines([f"{FORWARD}: undecided: the baseline has no such workload: record it anew*"])
    result.stdout.fnmatch_lines(["SKIPPED*the baseline has it, and this run does not ask for it"])


def test_a_baseline_that_cannot_be_read_says_why(folder: pytest.Pytester) -> None:
    result = bench(folder, "same", "--attn-baseline", "none.json")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*none.json: the file cannot be read: No such file or directory"])
