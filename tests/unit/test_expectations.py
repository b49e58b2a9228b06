"""Expected failures: how they are read, what they make of a row, and what the verdict and the exit say then."""

import json
from datetime import date
from pathlib import Path

import pytest

from attn_conformance.cli import main
from attn_conformance.expectations import Expectation, applied, expectations, settled
from attn_conformance.results import NOT_ASKED, Report, Row

FINDINGS = sorted((Path(__file__).parents[2] / "docs" / "findings").glob("*/expected.toml"))
TODAY = date(2030, 6, 1)
KNOWN = Expectation("MASK-1", "masks are  per\nhead here", url="https://example.org/12")


def row(status, level="must", **more):
    return Row("MASK-1", level, status, **more)


def report(*rows):
    return Report(
        "t", "kernel", "kernel", "numpy", {}, 0, "smoke", {str(n): r for n, r in enumerate(rows)}, 1.0
    )


@pytest.mark.parametrize("file", FINDINGS, ids=lambda file: file.parent.name)
def test_those_of_the_findings_load(file):
    found = expectations(file)
    assert found
    assert all(name == entry.requirement and entry.reason for name, entry in found.items())


def test_every_key_is_read(tmp_path):
    file = tmp_path / "expected.toml"
    file.write_text(
        '[[expected]]\nrequirement = "MASK-1"\nreason = "r"\nurl = "u"\nscript = "s.py"\nexpires = 2030-12-31\n'
    )
    assert expectations(str(file)) == {"MASK-1": Expectation("MASK-1", "r", "u", "s.py", date(2030, 12, 31))}
    assert expectations({"MASK-1": "r"}) == {"MASK-1": Expectation("MASK-1", "r")}
    file.write_text("")
    assert expectations(file) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'requirement = "MASQUE-1"\nreason = "r"',
            ", entry 1: no requirement 'MASQUE-1'; requirement must be an id",
        ),
        ('reason = "r"', ", entry 1: no requirement None"),
        ('requirement = "MASK-1"', r", entry 1 \(MASK-1\): reason is missing; say"),
        (
            'requirement = "MASK-1"\nreason = " "',
            r", entry 1 \(MASK-1\): reason must be a text that is not empty",
        ),
        ('requirement = "MASK-1"\nreason = "r"\nissue = 3', "unknown key 'issue'; remove it, or use one of"),
        (
            'requirement = "MASK-1"\nreason = "r"\nissue = 3\nowner = "o"',
            "unknown key 'issue'; remove it, or use one of",
        ),
        ('requirement = "MASK-1"\nreason = "r"\nexpires = "2030-12-31"', "expires must be a date, such as"),
        (
            'requirement = "MASK-1"\nreason = "r"\nexpires = 2030-12-31T00:00:00',
            "expires must be a date, such as",
        ),
        ('requirement = "MASK-1"\nreason = "r"\nexpires = 2030-13-31', "the file is not TOML"),
        (
            'requirement = "MASK-1"\nreason = "r"\n[[expected]]\nrequirement = "MASK-1"\nreason = "s"',
            ", entry 2: MASK-1 is listed twice; remove one",
        ),
        (
            'requirement = "MASK-1"\nreason = "r"\n[other]',
            r"may hold \[\[expected\]\] tables only, got expected, other",
        ),
    ],
)
def test_what_is_malformed_is_named_with_its_file(tmp_path, text, message):
    file = tmp_path / "expected.toml"
    file.write_text("[[expected]]\n" + text)
    with pytest.raises(ValueError, match=rf"{file}.*{message}"):
        expectations(file)


def test_a_file_that_is_missing_and_one_without_tables(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.toml: the file cannot be read: No such file"):
        expectations(tmp_path / "absent.toml")
    file = tmp_path / "expected.toml"
    file.write_text('expected = ["MASK-1"]')
    with pytest.raises(ValueError, match=r"entry 1: 'MASK-1' is no table; write \[\[expected\]\]"):
        expectations(file)
    for text in ("expected = 3", "expected = 'MASK-1'", "[expected]"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"the file may hold \[\[expected\]\] tables only, got expected"):
            expectations(file)
    file.write_text('[[expected]]\nrequirement = "MASK-1"\nreason = 3')
    with pytest.raises(ValueError, match=r"\(MASK-1\): reason must be a text that is not empty, got 3"):
        expectations(file)
    with pytest.raises(ValueError, match=r"expected failures, entry 1 \(MASK-1\): reason must be a text"):
        expectations({"MASK-1": ""})


@pytest.mark.parametrize("status", ["failed", "error"])
def test_an_expected_failure_says_why_first_and_keeps_what_happened(status):
    found = settled(row(status, message="off by 3"), KNOWN, TODAY)
    assert (found.status, found.expected) == (status, True)
    assert found.message == ("expected to fail: masks are per head here (https://example.org/12)\noff by 3")


def test_an_unexpected_pass_fails_and_says_what_to_do():
    found = settled(row("passed"), KNOWN, TODAY)
    assert (found.status, found.expected, found.unexpected) == ("failed", False, True)
    assert found.message.startswith("passed, though it was expected to fail: masks are per head here")
    assert found.message.endswith("remove MASK-1 from the expected failures")


def test_an_expired_entry_counts_no_longer_and_the_row_says_so():
    known = Expectation("MASK-1", "soon repaired", expires=date(2030, 5, 31))
    failed = settled(row("failed", message="off by 3"), known, TODAY)
    assert not failed.expected
    assert failed.message == "off by 3\nits expected failure expired on 2030-05-31: soon repaired"
    passed = settled(row("passed"), known, TODAY)
    assert (passed.status, passed.message) == (
        "passed",
        "its expected failure expired on 2030-05-31: soon repaired",
    )
    for day in (date(2029, 12, 31), date(2030, 5, 30), date(2030, 5, 31)):
        assert settled(row("failed"), known, day).expected


@pytest.mark.parametrize("left", [row("skipped", message=NOT_ASKED), row("observed", "observed")])
def test_what_was_not_judged_is_left_alone(left):
    assert settled(left, KNOWN, TODAY) is left


def test_rows_that_are_not_listed_are_left_alone():
    before = report(row("failed"))
    assert applied(before, {}, TODAY) == before


@pytest.mark.parametrize(
    ("rows", "verdict", "ok", "strict"),
    [
        ([row("failed", expected=True)], "expected-failures", True, True),
        ([row("passed"), row("error", expected=True)], "expected-failures", True, True),
        ([row("passed"), row("failed", "should", expected=True)], "expected-failures", True, True),
        ([row("failed", expected=True), row("failed")], "fails", False, False),
        ([row("failed", expected=True), row("error")], "incomplete", False, False),
        ([row("failed", expected=True), row("failed", "should")], "expected-failures", True, False),
        ([row("failed", expected=True), row("passed", declared="d")], "expected-failures", True, False),
        ([row("skipped")], "incomplete", False, False),
        ([row("passed"), settled(row("passed", "should"), KNOWN, TODAY)], "fails", False, False),
    ],
)
def test_verdicts_and_exit(rows, verdict, ok, strict):
    found = report(*rows)
    assert (found.verdict, found.ok(), found.ok(strict=True)) == (verdict, ok, strict)


def judged(tmp_path, capsys, target, text, *options):
    file, result = tmp_path / "expected.toml", tmp_path / "result.json"
    file.write_text(text)
    arguments = ["run", target, "--effort", "smoke", "--expect", str(file), "--json", str(result), *options]
    status = main(arguments)
    captured = capsys.readouterr()
    data = json.loads(result.read_text())["results"][0] if result.exists() else None
    return status, captured, data


LISTED = '[[expected]]\nrequirement = "MASK-1"\nreason = "True means hidden here"\n'


def test_a_run_that_fails_only_as_expected_exits_0(tmp_path, capsys):
    options = ("--only", "MASK-1,CAUSAL-2", "--strict", "--fail-fast")
    status, captured, data = judged(tmp_path, capsys, "mutant:inverted-mask", LISTED, *options)
    assert status == 0
    assert "MASK-1 failed (must): True means hidden here" in captured.out
    assert "smallest case" not in captured.out
    assert "1 failed as expected" in captured.out
    assert "fails only as expected" in captured.out
    assert data["verdict"] == "expected-failures"
    found = data["requirements"]["MASK-1"]
    assert (found["status"], found["expected"]) == ("failed", True)
    assert data["requirements"]["CAUSAL-2"]["status"] == "passed"  # --fail-fast went on


def test_an_unexpected_pass_exits_1(tmp_path, capsys):
    status, captured, data = judged(
        tmp_path, capsys, "numpy-reference-kernel", LISTED, "--only", "MASK-1,EQ-3"
    )
    assert status == 1
    assert "what happened: passed, though it was expected to fail: True means hidden here" in captured.out
    assert data["verdict"] == "fails"


def test_a_file_that_is_malformed_exits_2(tmp_path, capsys):
    status, captured, data = judged(tmp_path, capsys, "numpy-reference", LISTED + "issue = 3\n")
    assert (status, data) == (2, None)
    assert captured.err.startswith("--expect: ")
