"""Likely causes: wrong ways to attend that are told by their outputs.

No message is read and nothing is guessed: a cause is another problem, and it is named if the output lies, element by
element, within the certified bound of that problem's answer, while the right answer is far from it.
"""

from __future__ import annotations

from attn_conformance.cases import Case, KernelCase
from attn_conformance.causes import (
    causality,
    forwards,
    gradients,
    inputs,
    masks,
    mistakes,
    outputs,
    places,
    scores,
)
from attn_conformance.causes.cause import Cause, Situation, situation_of
from attn_conformance.causes.gradients import Slope, slope_of
from attn_conformance.judge import Failed

__all__ = ["CATALOGUE", "Cause", "likely_cause"]

CATALOGUE: tuple[Cause, ...] = (
    *causality.CAUSES,
    *outputs.EMPTY_ROWS,
    *masks.CAUSES,
    *scores.CAUSES,
    *inputs.CAUSES,
    *places.CAUSES,
    *forwards.CAUSES,
    *mistakes.CAUSES,
    *outputs.CAUSES,
)
"""All causes of wrong outputs; `gradients` has those of wrong gradients.

Of several that fit equally well the first is named: what the call asks for (causality, a mask) goes
before what every call has (scale, softmax, x and xa), that before what is out of place, and what an output merely
looks like comes last; a cause that leaves most of an output right goes before its neighbours."""

EXCEPTIONS = 0.1
"""The share of further failures that a cause may leave unexplained: extreme values have ways of their own to fail."""


def likely_cause(smallest: tuple[Case, Failed], *others: tuple[Case, Failed]) -> Cause | None:
    """The cause that is proved for a failure and explains the most of others of the same requirement; or None.

    Failures that do not tell of an output and its problem, or of one with more than `LARGEST` scores, are passed over.
    """
    first = _situation(*smallest)
    catalogue = gradients.CAUSES if isinstance(first, Slope) else CATALOGUE
    proved = [] if first is None else [cause for cause in catalogue if cause.proved(first)]
    if not proved:
        return None
    further = [situation for failure in others if (situation := _situation(*failure)) is not None]
    unexplained = {cause: sum(not cause.explains(situation) for situation in further) for cause in proved}
    best = min(proved, key=unexplained.__getitem__)
    return best if unexplained[best] <= EXCEPTIONS * len(further) else None


def _situation(case: Case, failed: Failed) -> Situation | Slope | None:
    if failed.evidence is None:
        return None
    if failed.evidence.of is not None:
        return slope_of(failed.evidence)
    causal, masked = bool(getattr(case, "causal", False)), getattr(case, "mask", None) is not None
    across = isinstance(case, KernelCase) and case.window == "cross"
    return situation_of(failed.evidence, causal=causal, masked=masked, across=across)
