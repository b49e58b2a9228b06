"""Tables of judged recordings, and the page of them."""

from __future__ import annotations

import json
from typing import Any

from attn_conformance.bench.rule import Rule
from attn_conformance.selftest.rates import Grid
from attn_conformance.selftest.recorded import DETECTED, FALSE_ALARMS, Rates, Summaries, Summary

TARGETS = {"reached": "reached", "open": "open, too few decisions", "missed": "**missed**"}


def page(found: Summaries) -> str:
    """The page in Markdown."""
    parts = [
        "# Decisions about speed",
        """\
How often is the same code called slower, and how often is code found that does 5 % more? Each process of a recording
compares, as `attn-conformance bench` does, PyTorch's attention on 20 heads with itself, and with itself on 21 heads:
more work, not a constant factor on the times. Every comparison begins with new rounds and, but on CUDA, with new
buffers; no round serves two decisions. The rule was fixed before, and was not changed after.""",
        *(_section(summary) for summary in found.summaries),
        """\
## Again

```sh
python -m attn_conformance.selftest.recordings record FOLDER --processes 300 --seed 1    # --device cuda
python -m attn_conformance.selftest.recordings judge FOLDER --json FILE --markdown FILE
```

Inconclusive counts as missed. Limits are exact (Clopper and Pearson), one-sided, with 95 % confidence, and take
decisions as independent, which those of one process are not quite. Processes are forked from one that has imported
PyTorch and run nothing: each has buffers of its own, but the libraries stand at the same addresses in all. Sigma is the
robust standard deviation of a pair's log ratio; bias that of the processes' median log ratios, beside what chance alone
would make of it. Late are comparisons that took longer than a benchmark run gives them, with the warm-up: there the
last looks would have been left out.""",
    ]
    return "\n\n".join(parts) + "\n"


def tables(found: Summaries) -> str:
    """The tables alone, each under the verdict on its targets."""
    return "".join(f"{_verdict(summary)}\n\n{_grid(summary).markdown()}\n" for summary in found.summaries)


def _section(summary: Summary) -> str:
    about, machine = summary.about, summary.about["machine"]
    device = machine.get("gpu") or f"one core of {machine['cpu']}"
    low, middle, high = summary.load
    rule, plan = Rule.from_json(about["rule"]), about["plan"]
    looks = ", ".join(map(str, rule.looks))
    ceilings = json.dumps(_rounded(machine["ceilings"]))
    seen = "looked at again" if rule.patient else "believed at once"
    return f"""\
## {device}

{_verdict(summary)}

Load average {middle:.1f} ({low:.1f} to {high:.1f}) on {machine["cores"]} cores; clock: {", ".join(summary.clocks)}.
Margin {rule.margin:.0%}, delta {rule.delta:.0%}, alpha {rule.alpha:.0%}, looks at {looks} rounds, noise guard
{rule.noise:.0%}, bias {rule.bias:.1%}; what is fine, but with a median above the margin, was {seen}.
Measured with attn-conformance {about["suite"]}, PyTorch {machine["torch"]}, Python {machine["python"]},
{about["date"][:10]}, seed {plan["seed"]}; measured ceilings: {ceilings}.

{_grid(summary).markdown()}"""


def _rounded(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _rounded(value) for name, value in data.items()}
    return float(f"{data:.3g}")


def _verdict(summary: Summary) -> str:
    same, more = summary.whole(more=False), summary.whole(more=True)
    share = more.regressed / more.decisions
    return (
        f"**{same.regressed} false alarms in {same.decisions} decisions** of {same.processes} processes (at the most "
        f"{same.limit:.2%}; target {FALSE_ALARMS:.1%}: {TARGETS[same.target]}). "
        f"**{more.regressed} of {more.decisions} detected** with 5 % more work, {share:.1%} (at the least "
        f"{more.detected:.1%}; target {DETECTED:.0%}: {TARGETS[more.target]}), of {more.processes} processes; "
        f"{more.fine} were called fine, {more.inconclusive} inconclusive."
    )


COLUMNS = (
    "work",
    "processes",
    "regressed",
    "fine",
    "inconclusive",
    "not counted",
    "wrong at the most",
    "rounds: mean, median, 95th %",
    "late",
    "ms a call",
    "ratio",
    "sigma",
    "bias, largest, by chance",
)


def _grid(summary: Summary) -> Grid:
    return Grid("", COLUMNS, tuple(map(_row, summary.rates)))


def _row(rates: Rates) -> tuple[str, ...]:
    mean, median, most = rates.rounds
    return (
        f"{'21 heads for 20' if rates.more else 'copies'}, {rates.workload}",
        *map(str, (rates.processes, rates.regressed, rates.fine, rates.inconclusive, rates.failed)),
        f"{rates.limit:.2%}",
        f"{mean:.0f}, {median:.0f}, {most:.0f}",
        str(rates.late),
        f"{rates.seconds * 1e3:.3g}",
        f"{rates.ratio:.4f}",
        f"{rates.sigma:.1%}",
        f"{rates.bias:.2%}, {rates.largest:.2%}, {rates.by_chance:.2%}",
    )
