"""What is told of benchmarks: the gate's words, the page, the summary for pull requests, files that are read back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from attn_conformance.bench.gate import Outcome, duration, outcome, size, state
from attn_conformance.bench.plain import plain
from attn_conformance.bench.results import Benchmark, Benchmarks, Measurement
from attn_conformance.bench.rule import Decision, Rule
from attn_conformance.bench.verdict import closing
from attn_conformance.bench.workloads import Workload
from attn_conformance.cli import main
from attn_conformance.commands import bench as command
from attn_conformance.report.bench import bench_page, facts
from attn_conformance.report.plots import Axis, doublings, short, spread_out, ticks
from attn_conformance.report.reading import read, read_any, read_benchmarks
from attn_conformance.report.summary import LONGEST, summary

RULE = Rule()
WORKS = tuple(Workload("forward", 1, 8, n, n, 64, "float32") for n in (128, 256, 512, 1024))
DECODE = Workload("decode", 2, 8, 1, 1024, 64, "bfloat16", Hkv=2)

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}{% raw %}",
    "| a | b |\n|---|---|\n# h\n```\n</details>",
    "[x](javascript:alert(1)) ![i](http://z) **b** @me <!-- ",
    "left \u202e right \x07",
]


def measurement(target: str = "my.pkg:fast", time: float = 1e-3, **changes: Any) -> Measurement:
    made = Measurement(target, "1.0", (time * 0.99, time, time * 1.01), (time,) * 3, 2**20, ("flash",), 0.2)
    return replace(made, **changes)


def benchmark(
    work: Workload = WORKS[0], verdict: str = "fine", ratio: float = 1.0, **changes: Any
) -> Benchmark:
    decision = Decision(verdict, ratio, ratio * 0.99, ratio * 1.01, 0.004, 20)  # type: ignore[arg-type]
    base = measurement("torch-sdpa", 1e-3, version="2.13.0")
    made = Benchmark(work, "thread", measurement(time=1e-3 * ratio), base, decision)
    return replace(made, **changes)


SLOWER = benchmark(WORKS[1], "regressed", 1.083)
NOISY = benchmark(WORKS[2], "inconclusive", 1.01)
WRONG = benchmark(
    WORKS[3], candidate=measurement(seconds=(), problem="differs from the reference"), decision=None
)
MISSING = benchmark(DECODE, base=None, decision=None, problem="the baseline has no such workload")
ALONE = benchmark(base=None, decision=None)
ALL = (benchmark(), SLOWER, NOISY, WRONG, MISSING)


def run(*benchmarks: Benchmark, **changes: Any) -> Benchmarks:
    machine = {"name": "a CPU", "memory": 3 * 2**30, "ceilings": {"gemm": {"float32": 4e10}, "read": 2e10}}
    canary = Decision("fine", 1.001, 0.99, 1.01, 0.002, 12)
    environment = {"date": "2026-01-02T03:04:05+00:00", "torch": "2.13.0"}
    made = Benchmarks(
        "my.pkg:fast", "torch-sdpa", 3, RULE, machine, environment, "0.1.0", 12.3, canary, benchmarks
    )
    return replace(made, **changes)


def match(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    return None if a == b else "they differ"


def told(one: Benchmark) -> Outcome:
    return outcome(one, RULE, "attn-conformance bench my.pkg:fast")


# ---------------------------------------------------------------------------------------------- gate


@pytest.mark.parametrize(
    ("one", "expected", "passed"),
    [
        (benchmark(), "fine", True),
        (SLOWER, "regressed", False),
        (NOISY, "inconclusive", False),
        (WRONG, "wrong", False),
        (MISSING, "undecided", False),
        (ALONE, "measured", True),
        (benchmark(decision=None), "undecided", False),
        (benchmark(candidate=measurement(problem="p")), "wrong", False),
    ],
)
def test_nothing_passes_but_what_is_known_to_be_fine_or_was_not_asked(
    one: Benchmark, expected: str, passed: bool
) -> None:
    assert state(one) == expected
    assert told(one).passed == passed


def test_a_failure_tells_workload_ratio_bounds_kernels_and_how_to_see_it_again() -> None:
    found = told(SLOWER)
    assert found.headline == (
        "forward-b1-h8-t256-s256-d64-float32: slower: 1.083 (1.072 to 1.094) times the base's time, with 99% "
        "confidence; 1.02 would be allowed"
    )
    assert found.text.splitlines() == [
        "  candidate my.pkg:fast 1.0: 1.08 ms (median of 3 rounds, thread clock) by flash with 1.00 MiB at the most",
        "  base torch-sdpa 2.13.0: 1.00 ms (median of 3 rounds, thread clock) by flash with 1.00 MiB at the most",
        "  again: attn-conformance bench my.pkg:fast",
    ]


def test_what_is_not_known_says_why_and_what_to_do() -> None:
    assert "the bounds are too wide" in told(NOISY).headline
    assert "A second run" in told(NOISY).text
    loud = Decision("inconclusive", 1.0, 0.9, 1.1, 0.0712, 320)
    assert "the times scatter by 7.1%" in told(replace(NOISY, decision=loud)).headline
    assert "noisy canary" in told(replace(NOISY, problem="noisy canary")).headline
    assert told(WRONG).headline.endswith("its time does not count: differs from the reference")
    assert told(MISSING).headline.endswith("undecided: the baseline has no such workload")
    assert told(replace(MISSING, problem=None, base=measurement(problem="crashed"))).headline.endswith(
        "crashed"
    )
    assert told(ALONE).headline.endswith("float32: 1.00 ms")
    assert "no time" in told(WRONG).text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.50 s"), (0.0123, "12.3 ms"), (1.5e-6, "1.50 µs"), (3e-9, "3.00 ns"), (float("nan"), "no time"),
     (123e-6, "123 µs")],
)  # fmt: skip
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_are_in_powers_of_1024() -> None:
    assert [size(n) for n in (12, 1536, 3 * 2**20, 2**31)] == ["12 B", "1.50 KiB", "3.00 MiB", "2.00 GiB"]


# --------------------------------------------------------------------------------------------- files


def written(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_a_file_is_read_as_it_was_written_and_is_json(tmp_path: Path) -> None:
    unbounded = Decision("inconclusive", 1.0, 0.0, float("inf"), 0.0, 2)
    made = run(*ALL, replace(ALONE, decision=unbounded))
    text = json.dumps(made.to_json(), allow_nan=False)
    path = written(tmp_path, json.loads(text))
    assert read_benchmarks(path) == made == read_any(path)


def test_numbers_that_are_none_are_null() -> None:
    assert plain({"a": (float("nan"), float("inf"), 1.5), 2: None, "o": object}) == {
        "a": [None, None, 1.5],
        "2": None,
        "o": "<class 'object'>",
    }


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(bench=2), "bench is 2, and this version reads 1; install a newer attn-conformance"),
        (lambda d: d.pop("bench"), "this is no file of benchmarks: it has no member 'bench'; write it anew with"),
        (lambda d: d.pop("rule"), "at the top: 'rule' is a required property"),
        (lambda d: d["benchmarks"][0].update(clock="sun"), "benchmarks[0].clock: 'sun' is not one of"),
        (lambda d: d["benchmarks"][0]["candidate"].update(seconds=[-1.0]), "benchmarks[0].candidate.seconds[0]: -1.0"),
        (lambda d: d["benchmarks"][0]["candidate"].update(error=float("nan")), "some number is none, or infinite"),
        (lambda d: d["benchmarks"][0]["workload"].update(T=0), "benchmarks[0].workload.T: 0 is less than"),
        (lambda d: d.update(more=1), "not a file of benchmarks: "),
    ],
)  # fmt: skip
def test_a_file_that_is_not_as_it_should_be_is_refused(tmp_path: Path, change: Change, said: str) -> None:
    data = run(*ALL).to_json()
    change(data)
    path = written(tmp_path, data)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {said}')}") as raised:
        read_benchmarks(path)
    assert "attn-conformance" in str(raised.value)


def test_results_and_benchmarks_are_told_apart(tmp_path: Path) -> None:
    path = written(tmp_path, run(*ALL).to_json())
    with pytest.raises(ValueError, match="no result file"):
        read(path)
    results = next((Path(__file__).parents[2] / "docs" / "baselines").glob("*.json"))
    assert read_any(results) == read(results)


# ---------------------------------------------------------------------------------------------- page


class Page(HTMLParser):
    """The elements and the visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = attributes.items()
        return [attrs for name, attrs in self.elements if name == tag and wanted <= attrs.items()]


def page(*runs: Benchmarks) -> Page:
    return Page(bench_page(runs, match))


def test_a_page_says_how_each_workload_did() -> None:
    found = page(run(*ALL))
    assert "my.pkg:fast against torch-sdpa" in found.words
    assert "✗ 1 slower, 1 wrong, 1 undecided, 1 inconclusive, 1 not slower" in found.words
    assert "1.083 (1.072 to 1.094)" in found.words
    assert "slower: 1.083 (1.072 to 1.094) times the base's time" in found.words
    assert (
        "attn-conformance bench my.pkg:fast --vs torch-sdpa --only forward --dtype float32 --seed 3"
        in found.words
    )
    assert "base against itself 1.001 (0.990 to 1.010), not slower" in found.words
    assert "name a CPU memory 3.00 GiB gemm float32 40 GFLOP/s read 20 GB/s" in found.words
    assert "of matrix products" in found.words
    assert [row["data-mark"] for row in found.all("tr", role="row") if "data-mark" in row] == [
        "fine", "regressed", "inconclusive", "wrong", "undecided"
    ]  # fmt: skip
    assert len(found.all("article")) == 1 + 4  # a story for each that did not pass


def test_intervals_lie_where_the_ratios_are() -> None:
    found = page(run(*ALL))
    ranges = [
        line for line in found.all("line") if line.get("class") == "range" and line["y1"] == line["y2"] == "6"
    ]
    places = [tuple(float(str(line[x])) for x in ("x1", "x2")) for line in ranges]
    assert len(places) == 3
    assert places[0][0] < 50 < places[0][1]
    assert 50 < places[1][0] < places[1][1] < 100


def test_times_are_drawn_by_size_and_said_in_words() -> None:
    (chart,) = page(run(*ALL)).all("svg", role="img")
    assert "S=128: 1.00 ms; S=256: 1.08 ms; S=512: 1.01 ms" in str(chart["aria-label"])
    assert page(run(benchmark())).all("svg", role="img") == []


def test_history_is_drawn_with_its_changes() -> None:
    runs = []
    for day in range(20):
        factor = 1.2 if day >= 12 else 1.0
        one = benchmark(candidate=measurement(time=1e-3 * factor * (1 + day % 3 / 500), version=f"1.{day}"))
        runs.append(run(one, environment={"date": f"2026-01-{day + 1:02d}"}))
    found = page(*reversed(runs))
    assert "the latest of 20 runs" in found.words
    assert "1.20 times what it was, from run 13 (1.12 2026-01-13) on" in found.words
    (chart,) = found.all("svg", role="img")
    assert str(chart["aria-label"]).startswith(
        "The ratio to torch-sdpa over 20 runs, 1 change found: 1.0 2026-01-01"
    )
    assert "No change was found" in page(*runs[:3]).words


def test_several_candidates_share_a_page_and_no_anchor() -> None:
    found = page(run(*ALL), run(benchmark(), candidate="other"), run(ALONE, base=None, candidate="third"))
    ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {str(a["href"])[1:] for a in found.all("a") if str(a["href"]).startswith("#")}
    assert links <= set(ids)
    assert "Benchmarks of 3 implementations" in found.words


def test_no_runs_are_no_page() -> None:
    with pytest.raises(ValueError, match="no benchmarks"):
        bench_page([], match)


def hostile(text: str) -> Benchmarks:
    one = measurement(text, version=text, kernels=(text,), problem=text)
    base = measurement(text, kernels=(text, "other"))
    made = [replace(each, candidate=one, base=base, problem=text) for each in ALL]
    made += [replace(SLOWER, base=base), replace(NOISY, problem=text)]
    return run(*made, candidate=text, base=text, machine={text: text}, environment={text: text}, suite=text)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_hostile_acts_on_a_page(text: str) -> None:
    usual, found = page(hostile("plain")), page(hostile(text))
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in usual.elements]
    assert not [attrs for _, attrs in found.elements if any(name.startswith("on") for name in attrs)]
    assert "\u202e" not in found.text
    assert "\x07" not in found.text


def test_facts_are_named_by_their_places() -> None:
    assert facts({"a": {"b": 1.23456, "c": None}, "d": [1, 2], "e": 3}) == (
        ("a b", "1.235"), ("d", "1, 2"), ("e", "3")
    )  # fmt: skip


def test_ticks_are_round_and_few() -> None:
    for low, high in ((1e-6, 1e-2), (0.9, 1.1), (3e-4, 4e-4), (1.0, 1000.0), (2.0, 2.0)):
        axis = spread_out([low, high], 0, 100)
        found = ticks(axis, "{:.4g}".format)
        assert 2 <= len(found) <= 9
        assert all(0 <= tick.at <= 100 for tick in found)
        assert all(axis(float(tick.text)) == pytest.approx(tick.at, abs=0.5) for tick in found)


def test_sizes_that_are_too_near_have_no_ticks() -> None:
    assert [tick.text for tick in doublings([1024, 1030, 4096], Axis(512, 8192, 0, 300))] == ["1k", "4k"]
    assert [short(n) for n in (512, 1000, 1024, 1536, 16384)] == ["512", "1000", "1k", "1536", "16k"]


# ------------------------------------------------------------------------------------------- summary


def rendered(text: str) -> Page:
    return Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def test_a_summary_has_what_did_not_pass_first_and_the_rest_folded() -> None:
    text = summary(run(*ALL))
    found = rendered(text)
    assert (
        "my.pkg:fast against torch-sdpa: 1 slower, 1 wrong, 1 undecided, 1 inconclusive, 1 not slower"
        in found.words
    )
    order = [found.words.index(one.workload.name) for one in (SLOWER, WRONG, MISSING, NOISY, ALL[0])]
    assert order == sorted(order)
    assert found.words.index("1 that passed") < order[-1]
    assert len(found.all("table")) == 2
    assert "✗ slower 1.083 (1.072 to 1.094) 1.08 ms 1.00 ms 1.00 MiB 1.00 MiB" in found.words
    assert "attn-conformance bench my.pkg:fast --vs torch-sdpa --only forward" in found.words
    assert "The base against itself: 1.001 (0.990 to 1.010), not slower." in found.words


def test_a_summary_tells_where_other_kernels_ran() -> None:
    changed = replace(SLOWER, candidate=measurement(kernels=("math",)))
    assert "math, the base flash" in rendered(summary(run(changed))).words
    assert "the base flash" not in rendered(summary(run(SLOWER))).words


def test_a_summary_of_one_implementation_has_times_only() -> None:
    found = rendered(summary(run(ALONE, base=None, canary=None)))
    assert "○ my.pkg:fast: 1 measured" in found.words
    assert "Medians; nothing was compared." in found.words
    assert "nothing was timed" in summary(run())


def test_a_summary_fits_into_a_comment_and_counts_what_does_not() -> None:
    works = [replace(WORKS[0], B=n) for n in range(1, 600)]
    text = summary(run(*(replace(SLOWER, workload=w) for w in works), *(benchmark(w) for w in works)))
    assert len(text) <= LONGEST
    found = rendered(text)
    assert re.search(r"\d{2,} more; there is no room", found.words)
    assert "599 that passed" in found.words


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_hostile_acts_in_a_summary(text: str) -> None:
    usual, found = rendered(summary(hostile("plain"))), rendered(summary(hostile(text)))
    assert found.elements == usual.elements


# -------------------------------------------------------------------------------------- command line


def test_report_makes_a_page_of_files_of_benchmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, run(*ALL).to_json())
    assert main(["report", str(file), str(file), "--html", str(tmp_path / "pages")]) == 0
    assert f"written: {tmp_path / 'pages' / 'index.html'}" in capsys.readouterr().out.replace("\n", "")
    assert (
        "the latest of 2 runs" in Page((tmp_path / "pages" / "index.html").read_text(encoding="utf-8")).words
    )


def test_report_keeps_results_and_benchmarks_apart(tmp_path: Path) -> None:
    file = written(tmp_path, run(*ALL).to_json())
    results = next((Path(__file__).parents[2] / "docs" / "baselines").glob("*.json"))
    assert main(["report", str(file), str(results), "--html", str(tmp_path / "pages")]) == 0
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == ["benchmarks.html", "index.html"]


def timed(time: float) -> Benchmarks:
    """A run of one implementation, with rounds enough for bounds."""
    rounds = tuple(time * (1 + n / 1e4) for n in range(20))
    one = benchmark(candidate=measurement(seconds=rounds), base=None, decision=None)
    return run(one, base=None, canary=None)


TIMED = [timed(1e-3), timed(2e-3)]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which everything takes twice as long as in the stored run."""
    monkeypatch.setattr(command, "fingerprint", lambda device, torch: TIMED[0].machine)
    monkeypatch.setattr(command.runs, "run", lambda *given, **more: TIMED[1])


@pytest.mark.usefixtures("here")
def test_a_run_against_a_baseline_is_told_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (*TIMED[0].benchmarks, benchmark(DECODE, base=None, decision=None))
    stored = replace(TIMED[0], benchmarks=more)
    file = written(tmp_path, stored.to_json())
    written_to = {name: str(tmp_path / f"out.{name}") for name in ("json", "html", "markdown")}
    options = [word for name, path in written_to.items() for word in (f"--{name}", path)]
    assert main(["bench", "my.pkg:fast", "--baseline", str(file), *options]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "regressed" in said
    assert "In the baseline, not timed" in said
    assert DECODE.name in said
    assert "is slower than the baseline" in said
    kept = read_benchmarks(written_to["json"])
    assert kept.baseline == str(file)
    assert [state(one) for one in kept.benchmarks] == ["regressed"]
    assert "✗ 1 slower" in Page(Path(written_to["html"]).read_text(encoding="utf-8")).words
    assert "1 slower" in rendered(Path(written_to["markdown"]).read_text(encoding="utf-8")).words


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"machine": {"cpu": "another"}}, "the baseline is of another machine: the CPU differs"),
        ({"rule": 1}, "rule"),
    ],
)
def test_a_baseline_that_does_not_hold_here_is_refused_before_anything_is_timed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
    said: str,
) -> None:
    monkeypatch.setattr(command.runs, "run", None)
    file = written(tmp_path, TIMED[0].to_json() | change)
    assert main(["bench", "my.pkg:fast", "--baseline", str(file)]) == 2
    assert said in capsys.readouterr().err


def test_the_end_of_a_run_against_a_baseline_says_what_would_help() -> None:
    unknown = replace(run(NOISY, base=None, canary=None), baseline="old.json")
    assert not closing(unknown).ok
    assert "--vs TARGET" in closing(unknown).sentence
    missing = replace(unknown, benchmarks=(MISSING,))
    assert not closing(missing).ok
    assert "1 of 1 workloads could not be compared" in closing(missing).sentence
    assert closing(replace(unknown, benchmarks=(benchmark(),))).ok
