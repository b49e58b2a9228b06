"""What a run of benchmarks amounts to: whether it passes, and one sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass

from attn_conformance.bench.baseline import ADVICE
from attn_conformance.bench.results import Benchmarks

CANARY = "two copies of the base were not found equal on this machine, so that no decision of this run counts"
"""Why benchmarks are inconclusive whose run begins so."""

QUIETER = (
    "measure on a quieter machine, or one at a time what is left open (--only), which needs fewer rounds each"
)
"""Advice where noise is what hinders."""


@dataclass(frozen=True)
class Closing:
    """ok: nothing regressed, and there is no doubt about that. sentence: of what came out, and what to do."""

    ok: bool
    sentence: str


def closing(run: Benchmarks) -> Closing:
    """The end of a run. What is inconclusive, and what does not count, is never a pass."""
    failed = [b for b in run.benchmarks if b.decision is None and b.problem] + [
        b for b in run.benchmarks if run.against is None and b.candidate.problem
    ]
    of = f"of {len(run.benchmarks)} workloads"
    if run.against is None:
        if failed:
            return Closing(False, f"{len(failed)} {of} could not be measured")
        return Closing(True, f"{len(run.benchmarks)} workloads measured, each with results within the bound")
    if run.baseline is None and (run.canary is None or run.canary.verdict != "fine"):
        ratio = "" if run.canary is None else f" (ratio {run.canary.ratio:.3f})"
        return Closing(
            False,
            f"undecided: two copies of {run.base} were not found equal{ratio}, so no difference can be trusted: "
            f"{QUIETER}",
        )
    decisions = [b.decision for b in run.benchmarks if b.decision is not None]
    verdicts = [decision.verdict for decision in decisions]
    slower, open_ = verdicts.count("regressed"), verdicts.count("inconclusive")
    rest = [f"{open_} inconclusive"] * bool(open_) + [f"{len(failed)} not comparable"] * bool(failed)
    if slower:
        text = f"{run.candidate} is slower than {run.against} in {slower} {of}"
        return Closing(False, ", ".join([text, *rest]))
    if failed:
        return Closing(False, f"{len(failed)} {of} could not be compared")
    if open_:
        noisy = any(d.verdict == "inconclusive" and d.noise > run.rule.noise for d in decisions)
        why = QUIETER if noisy else "their differences are close to what is tolerated"
        why = why if run.baseline is None else ADVICE
        which = "all" if open_ == len(run.benchmarks) else f"{open_} {of}"
        return Closing(False, f"{which} inconclusive, which is no pass: {why}")
    return Closing(
        True,
        f"{run.candidate} is not slower than {run.against} by {run.rule.delta:.0%} or more in any {of}",
    )
