"""The page about yardsticks, and README's table of them."""

from __future__ import annotations

import inspect
from collections import Counter

from attn_conformance.mutants import BUG_CLASSES
from attn_conformance.selftest.kills import Kills
from attn_conformance.selftest.rates import Grid
from attn_conformance.selftest.yardsticks.compared import YARDSTICKS, Compared
from attn_conformance.selftest.yardsticks.yardstick import Yardstick

SUITE = "attn-conformance"


def totals(result: Compared, kills: Kills) -> Grid:
    """Each yardstick, and this suite: wrong ones rejected of all and of those within reach, right ones, seconds."""
    rows = []
    for yardstick in YARDSTICKS.values():
        tally = result.tally(yardstick.name)
        rows.append(
            (
                f"in the manner of {yardstick.title}",
                f"{tally.rejected} of {tally.mutants}",
                f"{tally.rejected} of {tally.within}",
                f"{tally.alarms} of {tally.right}",
                f"{tally.seconds:.0f}",
            )
        )
    mutants = len(kills.kills)
    rows.append(("any of these", f"{len(result.by_any)} of {mutants}", "", "", ""))
    rejected = kills.counts["rejected"]
    twins = kills.counts["mutants"] - kills.counts["twins passed"]
    rows.append((SUITE, f"{rejected} of {mutants}", "", f"{twins} of {mutants}", ""))
    columns = ("tests", "wrong ones rejected", "of those within reach", "right ones rejected", "seconds")
    return Grid("What is rejected", columns, tuple(rows))


def by_class(result: Compared, kills: Kills) -> Grid:
    """For each bug class how many there are, and how many are rejected; of those within reach, where that is not 0."""
    ours = Counter(kill.bug_class for kill in kills.kills if kill.rejected)
    rows = []
    for name in BUG_CLASSES:
        cells = []
        for yardstick in YARDSTICKS:
            mine = [v for v in result.of(yardstick) if v.bug_class == name]
            within = sum(v.within for v in mine)
            cells.append(f"{sum(v.rejected for v in mine)} / {within}" if within else "")
        there = sum(kill.bug_class == name for kill in kills.kills)
        rows.append((f"{name}: {BUG_CLASSES[name]}", f"{there}", *cells, f"{ours[name]}"))
    columns = ("bug class", "implementations", *(y.title for y in YARDSTICKS.values()), SUITE)
    return Grid("By bug class: rejected / within reach", columns, tuple(rows))


def tests(yardstick: Yardstick, result: Compared) -> Grid:
    """The tests of a yardstick: what was taken over, and how many wrong ones they are the first to reject."""
    first = Counter(v.test for v in result.of(yardstick.name) if v.bug_class is not None)
    rows = tuple(
        (f"`{test.__name__}`", " ".join((inspect.getdoc(test) or "").split()), f"{first[test.__name__]}")
        for test in yardstick.tests
    )
    return Grid(yardstick.title, ("test", "what it takes over", "first to reject"), rows)


def accused(result: Compared) -> list[str]:
    """The right implementations that a yardstick rejects, one line each."""
    return [
        f"- {YARDSTICKS[v.yardstick].title}, `{v.test}`: `{v.target}` ({v.message})"
        for v in result.verdicts
        if v.bug_class is None and v.rejected
    ]


def page(result: Compared, kills: Kills) -> str:
    """The page in Markdown."""
    mutants = len(kills.kills)
    alarms = accused(result)
    facts = result.environment
    parts = [
        "# Yardsticks",
        f"""\
What would tests of the usual kind have found? Four small sets of tests with fixed inputs are written in the manner of
the tests that ESPnet, Whisper, PyTorch and flash-attention have for attention: their sizes, dtypes, references and
tolerances, as far as a CPU and our interfaces allow. They judge the same {mutants} wrong implementations as
[`attn-conformance selftest kills`](kills.json), and all right ones: controls, and each twin once.""",
        f"## {totals(result, kills).title}\n\n{totals(result, kills).markdown()}",
        """\
*Within reach* are implementations whose mistake the interface under the tests can express at all: by the requirement
that is named for the mistake, its kind and its dtypes, and whatever is in fact rejected. A function of q, k, v and
`causal` cannot get a cache wrong. *Right ones* are those that the tests have a call for; for this suite, the twins.
Seconds are those of all tests on all targets, one after the other on one core.""",
        f"## {by_class(result, kills).title}\n\n{by_class(result, kills).markdown()}",
        """\
## What this says, and what not

It says how far fixed inputs of usual sizes get with the mistakes that are collected here. It does not rank projects.
The mistakes were collected for this suite, from public reports, and each has a requirement that was written to find
it: that all are rejected is what the suite is held to, and no estimate of how it fares with mistakes that nobody has
thought of.

Tests of a project guard that project's own code, which has no need of defences against most of these; they run on
GPUs, over grids of thousands of sizes of which a few are taken here; and beside them stand tests of whole models, other
interfaces and long use. Tests of modules say nothing of kernels, hence the blank cells. Where a convention differs (a
causal triangle with T > S, a mask beside `is_causal`), ours is posed. Some were made stronger than they are: kernels'
tests reach modules through `qkv_attention`, a decoder's tests reach single modules, and what is posed to one target
stays in its memory for the next test.""",
        "## Right implementations that are rejected\n\n"
        + ("\n".join(alarms) if alarms else "None, by any yardstick."),
        "## The tests",
    ]
    for yardstick in YARDSTICKS.values():
        sources = "\n".join(f"- {source}" for source in yardstick.sources)
        parts.append(
            f"### {yardstick.title}\n\n{yardstick.about}\n\n{sources}\n\n{tests(yardstick, result).markdown()}"
        )
    parts.append(f"""\
## Again

```sh
python -m attn_conformance.selftest.yardsticks docs/selftest/yardsticks.json --readme README.md
```

It wants PyTorch, and writes [yardsticks.json](yardsticks.json), this page beside it, and README's table. Every verdict
with its message is in the former. Measured with attn-conformance {result.suite}, Python {facts["python"]}, NumPy
{facts["numpy"]}, PyTorch {facts["torch"]}, on {facts["platform"]}, {str(facts["date"])[:10]}, {result.jobs} job(s).""")
    return "\n\n".join(parts) + "\n"


def readme(result: Compared, kills: Kills) -> str:
    """README's lines: a sentence and a table."""
    grid = totals(result, kills)
    columns = Grid(grid.title, grid.columns[:4], tuple(row[:4] for row in grid.rows))
    return f"""\
Tests of the usual kind, with fixed inputs, reject fewer: small ones in the manner of those of four projects find
{len(result.by_any)} of {len(kills.kills)} together ([what they are, and what that says](docs/selftest/yardsticks.md)).

{columns.markdown()}
"""
