"""Annotations and the summary of a step: what GitHub is told, within its limits, and nothing that a target injects."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from attn_conformance.report import annotations as module
from attn_conformance.report.annotations import annotations, step_summary
from attn_conformance.results import EXPECTED, Report, Row
from attn_conformance.standing import BACK
from attn_reference.requirements import load_requirements

MUST = Row(
    "MASK-1",
    "must",
    "failed",
    message="off by 3, 50%\nworst: [1]",
    counterexample={"kind": "kernel"},
    reproducer="import x",
)
SHOULD = Row("NUM-4", "should", "failed", message="NaN is hidden")
ERROR = Row("MASK-4", "must", "error", message="the suite itself failed")
KNOWN = Row("MASK-3", "must", "failed", message=f"{EXPECTED}known here\noff by 4", expected=True)
DECLARED = Row("CAUSAL-3", "must", "passed", declared="top left (link)")
PASSED = Row("MASK-2", "must", "passed")
ALL = (MUST, SHOULD, ERROR, KNOWN, DECLARED, PASSED)

HOSTILE = (
    "</summary><script>alert(1)</script> | **b** [x](javascript:y) ![i](http://z) `c` <!-- @me ~~~\n"
    "```\n````\n</pre></details><img src=x>\n# h\n::error::no"
)


def report(*rows, target="pkg.mod:Class"):
    return Report(target, "kernel", "kernel", "numpy", {}, 7, "smoke", {r.requirement: r for r in rows}, 3.5)


def decoded(line):
    """Kind, title and text of a workflow command, taken apart as the runner does it."""
    kind, properties, text = re.fullmatch(r"::(\w+) ([^:\n\r]*)::([^\n\r]*)", line).groups()
    ((name, title),) = [part.split("=", 1) for part in properties.split(",")]
    assert name == "title"
    return kind, unquote(title), unquote(text)


def test_errors_warnings_and_a_verdict():
    found = [decoded(line) for line in annotations([report(*ALL)])]
    assert [(kind, title) for kind, title, _ in found] == [
        ("error", "pkg.mod:Class: MASK-1"),
        ("error", "pkg.mod:Class: MASK-4"),
        ("warning", "pkg.mod:Class: NUM-4"),
        ("notice", "attn-conformance"),
    ]
    assert found[0][2].startswith("MASK-1 failed (must): In a boolean mask")
    assert "\n  what happened: off by 3, 50%\n    worst: [1]" in found[0][2]
    assert "import x" not in found[0][2]  # a script is too long for an annotation
    counts = "4 of 5 must-requirements judged; 1 must failed, 1 should failed, 1 failed as expected, 2 passed, 1 error"
    assert found[-1][2].startswith(f"pkg.mod:Class fails ({counts};")


def test_strict_makes_errors_of_warnings_and_of_documented_differences():
    kinds = [decoded(line)[:2] for line in annotations([report(SHOULD, DECLARED, KNOWN)], strict=True)]
    assert kinds[:-1] == [("error", "pkg.mod:Class: CAUSAL-3"), ("error", "pkg.mod:Class: NUM-4")]


def test_an_unexpected_pass_is_an_error_also_of_a_should():
    row = replace(SHOULD, message="passed, though it was expected to fail: r")
    assert decoded(annotations([report(row)])[0])[0] == "error"


@pytest.mark.parametrize("line", annotations([report(MUST, target="a:b,c=d%0A::error::x")]))
def test_names_end_neither_a_title_nor_a_command(line):
    kind, title, text = decoded(line)
    assert kind in ("error", "notice")
    assert "a:b,c=d%0A::error::x" in title + text


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_every_command_is_one_line(text):
    for line in annotations([report(replace(MUST, message=text), target=text)]):
        decoded(line)


def test_no_more_of_a_kind_than_github_shows_and_how_many_are_left_out():
    rows = [replace(MUST, requirement=name) for name in list(load_requirements())[:14]]
    reports = [report(*rows, target=f"t{n}") for n in range(12)]
    found = [decoded(line) for line in annotations(reports)]
    kinds = [kind for kind, _, _ in found]
    assert (kinds.count("error"), kinds.count("notice")) == (10, 10)
    assert found[-1][2].startswith("158 errors, 3 notices left out here: GitHub shows 10 of a kind.")
    assert "left out" not in " ".join(annotations([report(*rows[:10])]))


def test_the_summary_has_a_table_and_each_failure_folded():
    back = Row("MASK-5", "must", "skipped", message=BACK.format("MASK-1"))
    text = step_summary([report(*ALL, back), report(PASSED, target="other")])
    lines = [unescape(line) for line in text.splitlines()]
    assert "| pkg.mod:Class | **fails** | 1 | 1 | 1 | 1 | 2 | 0 |" in lines
    assert "| other | **conforms** | 0 | 0 | 0 | 0 | 1 | 0 |" in lines
    titles = [re.sub("<.*?>", "", line) for line in lines if line.startswith("<details>")]
    assert titles == [
        "pkg.mod:Class MASK-1 off by 3, 50%",
        "pkg.mod:Class MASK-4 the suite itself failed",
        "pkg.mod:Class MASK-3 as expected: known here",
        "pkg.mod:Class NUM-4 should, does not count: NaN is hidden",
    ]
    assert "smallest case: B=1" in text
    assert "\nimport x\n```\n" in text
    assert "does not count" not in step_summary([report(SHOULD, DECLARED)], strict=True)


class Tags(HTMLParser):
    """Names of the elements in an HTML text, in order."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(attrs)))

    def handle_comment(self, data):
        self.found.append(("comment", data))


def tags(text):
    parser = Tags()
    parser.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    return parser.found


def hostile(text):
    row = replace(MUST, message=text, reproducer=text)
    known = replace(KNOWN, message=f"{EXPECTED}{text}\n{text}")
    return [report(row, known, replace(DECLARED, declared=text), target=text)]


def test_nothing_that_a_target_says_becomes_markup():
    assert tags(step_summary(hostile(HOSTILE), strict=True)) == tags(
        step_summary(hostile("plain"), strict=True)
    )


@given(st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("|`<>&*_[]()!#\\\n~-:@"))))
def test_nor_does_anything_else(text):
    assert tags(step_summary(hostile(text))) == tags(step_summary(hostile("plain")))


def test_a_summary_that_github_would_refuse_is_cut(monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 6000)
    rows = [replace(MUST, requirement=name, message="é" * 1000) for name in list(load_requirements())[:9]]
    text = step_summary([report(*rows)])
    assert len(text.encode()) < 6200
    told = text.count("<details>")
    assert 0 < told < 9
    assert text.endswith(
        f"\n{9 - told} more failed; they are in the result file, for which there is no room here.\n"
    )
