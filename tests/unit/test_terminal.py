"""What a person reads: what leads to the mistake first, failures that share an exception once, and no riddles."""

import io

import pytest
from rich.console import Console

from attn_conformance.cases import KernelCase
from attn_conformance.cli import main
from attn_conformance.report.progress import Progress
from attn_conformance.report.stories import plain
from attn_conformance.report.terminal import show
from attn_conformance.results import BENCHED, NOT_ASKED, UNEXPECTED, Report, Row
from attn_conformance.standing import BACK
from attn_reference.requirements import load_requirements

EAGER = (
    "differs from the reference: 1 of 2 elements out of bound\nwithin the bound of eager arithmetic, which"
)
FLOAT32 = "differs from the reference: 1 of 2 elements out of bound\nwithin the bound of float32: something"
NUMBERS = "differs from the reference: 1 of 2 elements out of bound"
CLAIMS = {"dtypes": ["float64", "float32", "bfloat16"]}


def shown(*rows, **more):
    report = Report(
        "it", "kernel", "kernel", "numpy", CLAIMS, 0, "smoke", {r.requirement: r for r in rows}, 1.0, **more
    )
    console = Console(file=io.StringIO(), width=100)
    show(report, load_requirements(), console, {}, quiet=True)
    return console.file.getvalue()


def failed(requirement, message, level="must", **more):
    return Row(requirement, level, "failed", message=message, **more)


def skipped(requirement, message):
    return Row(requirement, "must", "skipped", message=message)


def lines(text):
    return [line.strip() for line in text.splitlines()]


def order(text):
    return [line.split()[0] for line in text.splitlines() if " failed (" in line]


def test_failures_by_one_exception_or_one_arithmetic_are_told_once():
    text = shown(
        failed("EQ-3", "raised TypeError: half"),
        failed("EQ-5", EAGER),
        failed("MASK-1", "step 2 (self 1): raised TypeError: half"),
        failed("MASK-2", "raised TypeError: double"),
        failed("MASK-3", EAGER),
    )
    assert [line for line in lines(text) if "same in" in line] == [
        "the same in: MASK-1",
        "the same in: MASK-3",
    ]
    assert "MASK-2 failed" in text
    assert "MASK-1 failed" not in text


def test_failures_with_numbers_of_their_own_and_expected_ones_stand_alone():
    text = shown(
        failed("EQ-3", "1 of 2 off"),
        failed("MASK-1", "1 of 2 off"),
        failed("MASK-2", "raised TypeError: half", expected=True),
        failed("MASK-3", "raised TypeError: half"),
    )
    assert "same in" not in text
    assert all(f"{name} failed" in text for name in ("EQ-3", "MASK-1", "MASK-3"))


ALL_SORTS = (
    failed("CTOR-1", "raised AssertionError; ValueError was expected", reproducer="import policy"),
    failed("CTOR-3", NUMBERS, "should"),
    failed("EQ-3", "raised TypeError: half"),
    failed("EQ-5", EAGER),
    failed("MASK-1", NUMBERS, reproducer="import numbers"),
    failed("MASK-9", "accepted the call: numbers of shape (1, 1, 1, 1) came back"),
    failed("CAUSAL-2", "ended the process by SIGSEGV"),
    failed("CAUSAL-3", NUMBERS, cause="every key is seen", reproducer="import cause"),
    failed("CAUSAL-4", "accepted the call: numbers of shape (1, 1, 1, 1) came back"),
    failed("PURE-1", "modified its argument q in place"),
)


def test_what_leads_to_the_mistake_is_told_first_and_its_script_in_full():
    text = shown(*ALL_SORTS)
    likely, numbers, ends = ["CAUSAL-3"], ["MASK-1", "PURE-1"], ["EQ-3", "CAUSAL-2"]
    assert order(text) == [*likely, *numbers, *ends, "CTOR-1", "EQ-5", "MASK-9", "CAUSAL-4", "CTOR-3"]
    assert text.index("import cause") < text.index("MASK-1 failed")


def test_the_verdict_says_which_claims_would_allow_how_many_failures():
    text = shown(failed("EQ-3", EAGER), failed("EQ-5", FLOAT32), failed("MASK-1", NUMBERS))
    assert (
        "2 of the 3 failed musts are within the bound of eager arithmetic or of float32: --with eager, --dtype "
        "float32,bfloat16"
    ) in " ".join(lines(text))
    assert "failed musts are" not in shown(failed("MASK-1", NUMBERS))


def test_the_last_line_says_where_to_read_on():
    text = " ".join(lines(shown(failed("EQ-3", NUMBERS), failed("MASK-1", NUMBERS))))
    assert text.endswith(
        "what a requirement means: attn-conformance explain EQ-3; how to read a failure: "
        "docs/guides/reading-a-failure.md in the repository"
    )
    assert "how to read" not in shown(Row("EQ-3", "must", "passed"))


def test_what_was_left_out_is_one_list_of_claims_and_other_reasons_stand_beside_it():
    text = shown(
        Row("EQ-3", "must", "passed"),
        skipped("CAUSAL-1", "not claimed: causal"),
        skipped("CAUSAL-2", "not claimed: causal, cross"),
        skipped("MASK-4", "not claimed: bool-mask or float-mask"),
        skipped("KERN-1", "not claimed: gqa (it works where tried; --with gqa asks for it)"),
        skipped("CAUSAL-6", "nothing to ask: the calls were not rejected"),
    )
    assert lines(text)[-3:] == [
        "left out, since not claimed: bool-mask or float-mask, causal, cross, gqa",
        "works where tried: --with gqa asks for it",
        "skipped: CAUSAL-6 (nothing to ask: the calls were not rejected)",
    ]


def test_rows_that_stand_back_are_counted_as_judged_and_told_with_the_one_to_mend_first():
    back = [skipped(name, BACK.format("EQ-3")) for name in ("MASK-1", "MASK-2")]
    text = shown(failed("EQ-3", NUMBERS), *back, skipped("CAUSAL-1", "not claimed: causal"))
    assert "3 of 4 must-requirements judged; 1 must failed, 2 stand back, 1 skipped;" in " ".join(lines(text))
    assert "stand back behind EQ-3, which to mend first: MASK-1, MASK-2" in lines(text)
    assert "1 stands back" in shown(failed("EQ-3", NUMBERS), back[0])


def test_what_is_planned_is_not_counted_whether_it_is_asked_for_or_not():
    assert "1 of 1 must-" in shown(Row("EQ-3", "must", "passed"), skipped("PERF-1", BENCHED))
    assert "1 of 1 must-" in shown(Row("EQ-3", "must", "passed"), skipped("PERF-1", NOT_ASKED))


def test_an_expected_failure_that_passes_is_counted_as_such():
    text = shown(failed("MASK-1", f"{UNEXPECTED}: known"), failed("EQ-3", NUMBERS))
    assert "2 of 2 must-requirements judged; 1 must failed, 1 passed unexpectedly;" in " ".join(lines(text))


def test_a_difference_that_is_not_as_documented_is_told_with_what_is_documented():
    text = " ".join(lines(shown(failed("CAUSAL-3", NUMBERS, declared="top left (link)"))))
    assert "documented is: top left (link), and that was tested in its place" in text
    assert "each tested to be as documented" not in text


@pytest.mark.parametrize("target", ["plain.py:A:", "x.py::smile:"])
def test_names_stay_as_they_are(target, capsys):
    main(["run", target])
    assert target in capsys.readouterr().err
    with Progress(target) as progress:
        progress.last = 0.0
        progress("EQ-3", 1, 2)
    assert f"{target}: 1 of 2" in capsys.readouterr().err
    row = failed("EQ-3", NUMBERS, counterexample=KernelCase().to_json())
    assert f"run {target}" in plain(row, f"attn-conformance run {target}")
