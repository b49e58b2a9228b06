"""What a module takes for its inputs: x where xa was given, and another axis for the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attn_conformance.causes.cause import Cause, Situation, asked, from_answer_to, from_parts
from attn_conformance.causes.scores import triangle
from attn_reference import ForwardProblem, Problem


def _xa_ignored(situation: Situation) -> float | None:
    p = situation.problem
    posed: Problem | ForwardProblem | None
    if isinstance(p, ForwardProblem):
        posed = replace(p, src=p.x) if p.mask is None or p.x.shape[1] == p.src.shape[1] else None
    else:
        posed = next(iter(situation.mistaken.get("x for xa", ())), None)
    return None if posed is None else from_answer_to(situation, posed)


def _batch_second(situation: Situation) -> float | None:
    """Recognises results (B, T, E) of inputs that were read as (T, B, E): position t of the batch is a sequence."""
    p, right = situation.problem, situation.right
    posed: Problem | ForwardProblem
    if situation.hiding == "mask":
        return None
    if isinstance(p, ForwardProblem):
        if p.x.shape != p.src.shape:
            return None
        posed = replace(p, x=p.x.swapaxes(0, 1), src=p.src.swapaxes(0, 1))
    else:
        if p.q.shape[2] != p.k.shape[2]:
            return None
        q, k, v = (array.swapaxes(0, 2) for array in (p.q, p.k, p.v))
        posed = replace(p, q=q, k=k, v=v, visible=np.ones((1, 1, 1, 1), bool))
        if situation.hiding == "causal":
            posed = replace(posed, visible=triangle(posed))
    wrong = asked(posed, right.dtype, right.arithmetic)
    return from_parts(situation, *(part.swapaxes(0, 2) for part in (wrong.value, wrong.low, wrong.limit)))


CAUSES = (
    Cause(
        "xa-ignored",
        "every element is what attention gives if x attends to itself: xa is ignored",
        _xa_ignored,
    ),
    Cause(
        "batch-second",
        "every element is what attention gives if arrays (B, T, E) are read as (T, B, E): batch and time are exchanged",
        _batch_second,
    ),
)
