"""Results as JUnit XML: one testsuite for each target, one testcase for each requirement.

The elements and attributes are those of the schema of Jenkins' xUnit plugin, which knows no properties of a
testcase: what is worth reporting of one stands in its system-out and among the properties of its testsuite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from attn_conformance.report.stories import decides, failed, headline, visible, whole
from attn_conformance.results import Report, Row
from attn_reference import SPEC_VERSION

ELEMENTS = {"failures": "failure", "errors": "error", "skipped": "skipped"}
"""By counting attribute: the element of a testcase that it counts."""


def junit(reports: Sequence[Report], *, strict: bool = False) -> str:
    """The XML text of the reports of one invocation.

    A row is a failure or an error if it makes the exit status 1. Else it is skipped with its reason, unless it
    passed or was merely observed. strict: as for `Report.ok`.
    """
    root = Element("testsuites", name="attn-conformance")
    for report in reports:
        root.append(_suite(report, strict))
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.attrib[name]) for suite in root)))
    root.set("time", f"{sum(report.seconds for report in reports):.3f}")
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _suite(report: Report, strict: bool) -> Element:
    suite = Element("testsuite", name=visible(report.target), time=f"{report.seconds:.3f}")
    properties = SubElement(suite, "properties")
    for name, value in _properties(report):
        SubElement(properties, "property", name=visible(name), value=visible(value))
    cases = [_case(report, row, strict) for row in report.rows.values()]
    suite.extend(cases)
    suite.set("tests", str(len(cases)))
    for attribute, element in ELEMENTS.items():
        suite.set(attribute, str(sum(case.find(element) is not None for case in cases)))
    return suite


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    yield "suite", version("attn-conformance")
    yield "spec", SPEC_VERSION
    yield from (
        (name, str(getattr(report, name))) for name in ("seed", "effort", "kind", "convention", "verdict")
    )
    yield from ((f"environment.{name}", str(value)) for name, value in report.environment.items())
    for row in report.rows.values():
        yield from ((f"{name}.{row.requirement}", value) for name, value in _notes(row))


def _notes(row: Row) -> Iterator[tuple[str, str]]:
    """What is worth reporting of a row that need not have failed, by name."""
    notes = {"observation": row.observation, "declared": row.declared}
    yield from ((name, value) for name, value in notes.items() if value is not None)


def _case(report: Report, row: Row, strict: bool) -> Element:
    classname, name = visible(report.target), visible(row.requirement)
    case = Element("testcase", classname=classname, name=name, time=f"{row.seconds:.3f}")
    if decides(row, strict=strict):
        element = SubElement(case, "error" if row.status == "error" else "failure", type=row.level)
        element.set("message", headline(row))
        element.text = whole(report, row)
    elif failed(row):
        reason = headline(row) if row.expected else f"{row.level}: {headline(row)}"
        SubElement(case, "skipped", message=reason).text = whole(report, row)
    elif row.status == "skipped":
        SubElement(case, "skipped", message=visible(row.headline))
    if notes := "\n".join(f"{name}: {value}" for name, value in _notes(row)):
        SubElement(case, "system-out").text = visible(notes)
    return case
