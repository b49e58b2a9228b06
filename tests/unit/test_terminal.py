"""What a person reads: failures that share an exception are told once."""

import io

from rich.console import Console

from attn_conformance.report.terminal import show
from attn_conformance.results import Report, Row
from attn_reference.requirements import load_requirements

EAGER = "differs from the reference: 1 of 2 off\nwithin the bound of eager arithmetic"


def shown(*rows):
    report = Report(
        "it", "kernel", "kernel", "numpy", {}, 0, "smoke", {r.requirement: r for r in rows}, 1.0, {}
    )
    console = Console(file=io.StringIO(), width=100)
    show(report, load_requirements(), console, {}, quiet=True)
    return console.file.getvalue()


def failed(requirement, message, **more):
    return Row(requirement, "must", "failed", message=message, **more)


def test_failures_by_one_exception_or_one_arithmetic_are_told_once():
    text = shown(
        failed("EQ-3", "raised TypeError: half"),
        failed("EQ-5", EAGER),
        failed("MASK-1", "step 2 (self 1): raised TypeError: half"),
        failed("MASK-2", "raised TypeError: double"),
        failed("MASK-3", EAGER),
    )
    assert [line.strip() for line in text.splitlines() if "same in" in line] == [
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
