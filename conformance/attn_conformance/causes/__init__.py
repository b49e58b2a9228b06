"""Likely causes: wrong ways to attend that are told by their outputs.

No message is read and nothing is guessed: a cause is another problem, and it is named if the output lies, element by
element, within the certified bound of that problem's answer, while the right answer is far from it.
"""

from __future__ import annotations

from collections.abc import Iterable

from attn_conformance.cases import Case
from attn_conformance.causes import causality, forwards, masks, mistakes, outputs, places, scores
from attn_conformance.causes.cause import Cause, Situation, situation_of
from attn_conformance.judge import Failed

__all__ = ["CATALOGUE", "Cause", "likely_cause"]

CATALOGUE: tuple[Cause, ...] = (
    *causality.CAUSES,
    *outputs.EMPTY_ROWS,
    *masks.CAUSES,
    *scores.CAUSES,
    *places.CAUSES,
    *forwards.CAUSES,
    *mistakes.CAUSES,
    *outputs.CAUSES,
)
"""All causes. Of several that fit the first is named: what the call asks for (causality, a mask) goes before what every
call has (scale, softmax), that before what is out of place, and what an output merely looks like comes last."""


def likely_cause(failures: Iterable[tuple[Case, Failed]]) -> Cause | None:
    """The first cause that is proved for the first failure and explains the others; None if there is none.

    failures: of one requirement, with their cases, the smallest first. Those that do not tell of an output and its
    problem, or of one with more than `LARGEST` scores, are passed over.
    """
    situations = [
        situation for case, failed in failures if (situation := _situation(case, failed)) is not None
    ]
    if not situations:
        return None
    smallest, *others = situations
    fitting = (cause for cause in CATALOGUE if cause.proved(smallest) and all(map(cause.explains, others)))
    return next(fitting, None)


def _situation(case: Case, failed: Failed) -> Situation | None:
    causal = bool(getattr(case, "causal", False))
    return None if failed.evidence is None else situation_of(failed.evidence, causal)
