"""Results: what rows and reports say of themselves, row by row."""

import pytest

from attn_conformance.cases import KernelCase
from attn_conformance.results import (
    BENCHED,
    INTERRUPTED,
    LEFT_OUT,
    NOT_ASKED,
    NOT_IN_SHARD,
    NOT_REPLAYED,
    SPENT,
    STOPPED,
    UNEXPECTED,
    Cell,
    Report,
    Row,
    to_json,
)


def row(status="passed", level="must", **more):
    return Row("EQ-1", level, status, **more)


def report(*rows, **more):
    by_name = {f"R-{n}": one for n, one in enumerate(rows)}
    return Report("t", "kernel", "seed", "numpy", {"dtypes": []}, 3, "smoke", by_name, 1.23456, **more)


PASSED, FAILED, ERROR, SKIPPED = (row(status) for status in ("passed", "failed", "error", "skipped"))
SURPRISE = row("failed", message=f"{UNEXPECTED}: so")
KNOWN = row("failed", expected=True)


@pytest.mark.parametrize(
    ("rows", "verdict", "ok", "strict"),
    [
        ([], "incomplete", False, False),
        ([SKIPPED], "incomplete", False, False),
        ([PASSED, SKIPPED], "conforms", True, True),
        ([row("passed", "should")], "incomplete", False, False),
        ([PASSED, FAILED, ERROR], "fails", False, False),
        ([PASSED, ERROR], "incomplete", False, False),
        ([PASSED, row("error", "should")], "conforms", True, False),
        ([PASSED, row("failed", "should")], "conforms", True, False),
        ([PASSED, row("failed", "should", expected=True)], "expected-failures", True, True),
        ([PASSED, row("failed", "should", message=f"{UNEXPECTED}: so")], "fails", False, False),
        ([PASSED, SURPRISE], "fails", False, False),
        ([KNOWN], "expected-failures", True, True),
        ([KNOWN, FAILED], "fails", False, False),
        ([row("error", expected=True)], "expected-failures", True, True),
        ([PASSED, row("skipped", message=SPENT)], "incomplete", False, False),
        ([PASSED, row("skipped", message=INTERRUPTED)], "incomplete", False, False),
        ([PASSED, row("skipped", "should", message=SPENT)], "conforms", True, True),
        ([PASSED, row("passed", "should", declared="so")], "differs", True, False),
        ([KNOWN, row("passed", declared="so")], "expected-failures", True, False),
        ([PASSED, row("failed", declared="so", expected=True)], "expected-failures", True, True),
        ([PASSED, row("observed", "observed")], "conforms", True, True),
    ],
)
def test_the_verdict_and_the_exit(rows, verdict, ok, strict):
    found = report(*rows)
    assert (found.verdict, found.ok(), found.ok(strict=True)) == (verdict, ok, strict)


def test_rows_are_counted_by_status():
    counts = report(PASSED, PASSED, FAILED, ERROR, SKIPPED, SKIPPED, row("observed", "observed")).counts
    assert counts == {"passed": 2, "failed": 1, "error": 1, "skipped": 2, "observed": 1}


def test_progress_counts_what_was_asked_for():
    left = [row("skipped", message=message) for message in (NOT_ASKED, NOT_IN_SHARD, NOT_REPLAYED)]
    asked = [PASSED, row("skipped", message=STOPPED), row("skipped", message="not claimed: gqa")]
    assert report(*left, *asked).progress == (3, 3)
    ended = row("skipped", message=INTERRUPTED)
    assert report(*left, *asked, ended, ended).progress == (3, 5)
    assert report(*asked, ended).interrupted
    assert not report(*left, *asked).interrupted
    assert set(LEFT_OUT.values()) == {"not asked", "not run"}


def test_a_row_tells_what_it_is():
    assert row("skipped", message=BENCHED).benched
    assert not row("skipped", message=NOT_ASKED).benched
    assert SURPRISE.unexpected
    assert not row("passed", message=f"{UNEXPECTED}: so").unexpected
    assert not row("failed", message=f"so: {UNEXPECTED}").unexpected
    assert not FAILED.unexpected
    assert row(message="one\ntwo\nthree").headline == "one"
    assert row().headline == ""
    assert row().summary is None
    assert (row().examples, row().effective, row().cells, row().seconds) == (0, 0, (), 0.0)
    case = KernelCase(2, 1, 1, 3, 4, 5, 5)
    assert row(counterexample=case.to_json()).summary == case.describe()


def test_a_row_comes_back_from_json():
    cells = (Cell("cpu", "float32", "passed"), Cell("cuda", "float16", "failed", "flash"))
    found = row("failed", examples=7, effective=5, cells=cells, seconds=1.23456, message="off", check="c")
    data = found.to_json()
    assert "requirement" not in data
    assert (data["seconds"], data["examples"], data["effective"]) == (1.235, 7, 5)
    data["cells"] = [dict(cell) for cell in data["cells"]]
    assert Row.from_json("EQ-1", {**data, "seconds": 1.23456}) == found


def test_a_file_is_that_of_its_first_report_and_has_all():
    first, second = report(PASSED, environment={"numpy": "2"}, events={"e": 2}, options="--x"), report(FAILED)
    data = to_json([first, second], suite="0.1", spec="1")
    head = {
        "schema": 1,
        "suite": "0.1",
        "spec": "1",
        "seed": 3,
        "effort": "smoke",
        "environment": {"numpy": "2"},
    }
    assert {name: data[name] for name in head} == head
    assert [one["verdict"] for one in data["results"]] == ["conforms", "fails"]
    one = data["results"][0]
    assert (one["seconds"], one["interrupted"], one["events"], one["options"]) == (
        1.235,
        False,
        {"e": 2},
        "--x",
    )
    assert one["requirements"] == {"R-0": PASSED.to_json()}
    assert one["counts"] == first.counts
