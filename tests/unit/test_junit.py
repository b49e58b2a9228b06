"""JUnit XML: what each row becomes, in the form that Jenkins' schema describes, whatever a target says."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_conformance.report.junit import junit
from attn_conformance.results import EXPECTED, Report, Row
from attn_conformance.runner import run
from attn_conformance.targets import subject

ROWS = (
    Row(
        "MASK-1",
        "must",
        "failed",
        message="off by 3\nworst [1]",
        counterexample={"kind": "kernel", "batch": 1, "queries": 2},
        reproducer="import x\n",
    ),
    Row("MASK-2", "must", "passed", examples=20, seconds=1.25),
    Row("MASK-3", "must", "failed", message=f"{EXPECTED}known (url)\noff by 4", expected=True),
    Row("MASK-4", "must", "error", message="the suite itself failed: KeyError"),
    Row("NUM-4", "should", "failed", message="NaN is hidden"),
    Row("OUT-4", "should", "error", message="too few effective examples"),
    Row("MASK-8", "must", "skipped", message="not claimed: mask"),
    Row("MASK-9", "observed", "observed", observation="raises (3)"),
    Row("CAUSAL-3", "must", "passed", declared="top left (link)"),
)

CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "properties": {"property"},
    "testcase": {"skipped", "error", "failure", "system-out"},
}
ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "property": {"name", "value"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"message"},
}
"""What the schema of Jenkins' xUnit plugin (junit-10.xsd) allows, as far as it is used here."""


def report(*rows, target="pkg.mod:Class", **more):
    by_name = {row.requirement: row for row in rows}
    environment = {"python": "3.11", "cpus": 2}
    return Report(target, "kernel", "kernel", "numpy", {}, 7, "smoke", by_name, 3.5, environment, **more)


def parsed(*reports, strict=False):
    root = ElementTree.fromstring(junit(reports, strict=strict))
    for element in root.iter():
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
        assert element.attrib.keys() == ATTRIBUTES.get(element.tag, set())
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.get("tests")) == len(cases)
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(name)) == sum(case.find(tag) is not None for case in cases)
    for name in ("tests", "failures", "errors"):
        assert int(root.get(name)) == sum(int(suite.get(name)) for suite in root)
    return root


def results(root):
    """Tag and message of each testcase's result, by name."""
    found = {}
    for case in root.iter("testcase"):
        (element,) = [child for child in case if child.tag != "system-out"] or [None]
        found[case.get("name")] = None if element is None else (element.tag, element.get("message"))
    return found


def test_what_each_row_becomes():
    root = parsed(report(*ROWS))
    assert results(root) == {
        "MASK-1": ("failure", "off by 3"),
        "MASK-2": None,
        "MASK-3": ("skipped", "expected to fail: known (url)"),
        "MASK-4": ("error", "the suite itself failed: KeyError"),
        "NUM-4": ("skipped", "should: NaN is hidden"),
        "OUT-4": ("skipped", "should: too few effective examples"),
        "MASK-8": ("skipped", "not claimed: mask"),
        "MASK-9": None,
        "CAUSAL-3": None,
    }
    case = root.find(".//testcase[@name='MASK-2']")
    assert (case.get("classname"), case.get("time")) == ("pkg.mod:Class", "1.250")
    assert root.find(".//testcase[@name='MASK-9']/system-out").text == "observation: raises (3)"


def test_strict_lets_shoulds_and_documented_differences_fail():
    found = results(parsed(report(*ROWS), strict=True))
    assert found["NUM-4"] == ("failure", "NaN is hidden")
    assert found["OUT-4"] == ("error", "too few effective examples")
    assert found["CAUSAL-3"] == ("failure", "differs as documented: top left (link)")
    assert found["MASK-3"][0] == "skipped"


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.requirement)
def test_something_failed_if_and_only_if_the_exit_status_is_1(row, strict):
    found = report(row, Row("EQ-3", "must", "passed"))
    root = parsed(found, strict=strict)
    assert (root.get("failures"), root.get("errors")) == ("0", "0") or not found.ok(strict=strict)
    assert (root.get("failures"), root.get("errors")) != ("0", "0") or found.ok(strict=strict)


def test_a_failure_tells_its_whole_story():
    text = parsed(report(*ROWS)).find(".//failure").text
    lines = text.splitlines()
    assert lines[0].startswith("MASK-1 failed (must): In a boolean mask True means")
    assert any(line.startswith("  smallest case: B=1 H=1 T=2 S=1") for line in lines)
    assert "  what happened: off by 3" in lines
    assert text.endswith("\n\nimport x\n")


def test_properties_say_under_which_terms():
    root = parsed(report(*ROWS))
    found = {p.get("name"): p.get("value") for p in root.iter("property")}
    assert found.items() >= {"seed": "7", "effort": "smoke", "environment.python": "3.11"}.items()
    assert found.items() >= {"verdict": "fails", "observation.MASK-9": "raises (3)"}.items()
    assert re.fullmatch(r"\d+\.\d+.*", found["suite"])


def test_each_target_is_a_suite():
    root = parsed(report(*ROWS), report(*ROWS[1:2], target="other"))
    assert [(suite.get("name"), suite.get("tests")) for suite in root] == [
        ("pkg.mod:Class", "9"),
        ("other", "1"),
    ]
    assert (root.get("tests"), root.get("time")) == ("10", "7.000")


@given(st.text(), st.sampled_from(ROWS))
def test_whatever_a_target_says_the_text_is_xml(text, row):
    said = replace(row, message=text, observation=text or None, reproducer=text)
    document = junit([replace(report(said, target=text), environment={text: text})])
    ElementTree.fromstring(document.encode("utf-8"))


def test_control_characters_are_shown_and_markup_stays_text():
    row = replace(ROWS[0], message='\x1b[31m\x00 ]]> <b a="1">&amp;\ud800\r\x07')
    root = parsed(report(row, target="a<b>&\x1b.py:f"))
    shown = r'\x1b[31m\x00 ]]> <b a="1">&amp;\ud800\r\x07'
    assert root.find(".//failure").get("message") == shown
    assert shown in root.find(".//failure").text
    assert root[0].get("name") == r"a<b>&\x1b.py:f"


def test_a_real_run():
    found, refused = subject("mutant:top-left-triangle")
    judged = run(found, effort="smoke", only=("CAUSAL",), refused=refused)
    root = parsed(judged)
    assert results(root)["CAUSAL-3"][0] == "failure"
    assert "smallest case: B=" in root.find(".//failure").text
    assert root[0].get("tests") == str(len(judged.rows))
