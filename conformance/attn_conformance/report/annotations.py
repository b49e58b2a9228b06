"""Results for GitHub Actions: annotations, and a summary of the step."""

import re
from collections.abc import Callable, Iterator, Sequence

from attn_conformance.report.stories import decides, failed, headline, inert, told, visible, whole
from attn_conformance.report.terminal import ranked
from attn_conformance.report.verdict import counts, sentence
from attn_conformance.results import EXPECTED, Report, Row
from attn_conformance.standing import behind

MOST = 10
"""Annotations of one kind that GitHub shows of a step; it drops further ones without a word."""

LONGEST = 900_000
"""Bytes of a summary: GitHub refuses a file of more than 1 MiB."""


def annotations(reports: Sequence[Report], *, strict: bool = False) -> list[str]:
    """Workflow commands: what decides the exit status as errors, other failures as warnings, verdicts as notices.

    Expected failures are no annotations. At most `MOST` of a kind; how many are left out is a notice of its own.
    strict: as for `Report.ok`.
    """
    errors = _failures(reports, lambda row: decides(row, strict=strict))
    warnings = _failures(
        reports, lambda row: failed(row) and not row.expected and not decides(row, strict=strict)
    )
    verdicts = [("attn-conformance", _verdict(report)) for report in reports]
    shown = {"error": errors[:MOST], "warning": warnings[:MOST], "notice": verdicts[: MOST - 1]}
    everything = {"error": errors, "warning": warnings, "notice": verdicts}
    left = {kind: len(everything[kind]) - len(shown[kind]) for kind in shown}
    if any(left.values()):
        parts = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in left.items() if count)
        text = f"{parts} left out here: GitHub shows {MOST} of a kind. The log and the result file have them all."
        shown["notice"].append(("attn-conformance", text))
    return [_command(kind, *parts) for kind in shown for parts in shown[kind]]


def step_summary(reports: Sequence[Report], *, strict: bool = False) -> str:
    """Markdown for $GITHUB_STEP_SUMMARY: a table of verdicts, and each failure with its story.

    Nothing that comes from a target acts as Markdown or HTML. strict: as for `Report.ok`.
    """
    lines = ["## attn-conformance", ""]
    lines += [
        "| target | verdict | must failed | should failed | as expected | stand back | passed | skipped |"
    ]
    lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
    lines += [f"| {' | '.join(_cells(report))} |" for report in reports]
    lines += [""]
    size = sum(len(line.encode()) + 1 for line in lines)
    left = 0
    for report in reports:
        for row in ranked(report):
            if not (failed(row) or decides(row, strict=strict)):
                continue
            block = _details(report, row, strict)
            size += len(block.encode()) + 1
            if size > LONGEST:
                left += 1
            else:
                lines.append(block)
    if left:
        lines.append(f"{left} more failed; they are in the result file, for which there is no room here.")
    return "\n".join(lines) + "\n"


def _failures(reports: Sequence[Report], kept: Callable[[Row], bool]) -> list[tuple[str, str]]:
    """Title and text of each row that is kept, those first that lead to the mistake."""
    return [
        (f"{report.target}: {row.requirement}", told(report, row) if failed(row) else whole(report, row))
        for report in reports
        for row in ranked(report)
        if kept(row)
    ]


def _verdict(report: Report) -> str:
    return (
        f"{report.target} {sentence(report)} ({counts(report)}; effort {report.effort}, seed {report.seed})"
    )


def _command(kind: str, title: str, text: str) -> str:
    """A workflow command; characters that would end it or its title are escaped as the runner decodes them."""
    name = _data(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={name}::{_data(text)}"


def _data(text: str) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return visible(escaped)


def _cells(report: Report) -> Iterator[str]:
    rows = [row for row in report.rows.values() if row.status == "failed"]
    yield inert(report.target)
    yield f"**{inert(sentence(report))}**"
    yield from (str(sum(r.level == level and not r.expected for r in rows)) for level in ("must", "should"))
    yield str(sum(row.expected for row in report.rows.values()))
    back = sum(behind(row.message) is not None for row in report.rows.values())
    yield from map(str, (back, report.counts["passed"], report.counts["skipped"] - back))


def _details(report: Report, row: Row, strict: bool) -> str:
    """One failure, folded: the story in a fence that nothing in it can close."""
    text = whole(report, row)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    what = headline(row)
    if row.expected:
        what = f"as expected: {what.removeprefix(EXPECTED)}"
    elif not decides(row, strict=strict):
        what = f"{row.level}, does not count: {what}"
    title = f"{inert(report.target)} <b>{inert(row.requirement)}</b> {inert(what)}"
    return f"<details><summary>{title}</summary>\n\n{fence}text\n{text}\n{fence}\n\n</details>"
