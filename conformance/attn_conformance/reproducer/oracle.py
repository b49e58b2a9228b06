"""Oracle: what a recorded call must give, element by element, whatever the arrays in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases import Call, Forward, split
from attn_conformance.judge import Answer, Element, ask, ask_lse, compare
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.reproducer.recording import Event, Log, Ref
from attn_conformance.subject import Subject
from attn_reference import lower

Array = NDArray[Any]
Index = tuple[int, ...]


@dataclass(frozen=True)
class Judged:
    """The first and the worst element out of bound, if there are some, by their indices in the result.

    most: the largest limit of an element.
    """

    first: Element | None
    worst: Element | None
    most: float


def judged(log: Log, subject: Subject, number: int, name: str) -> Judged | None:
    """How a result of an event stands to its answer; None where that is not known."""
    event = log.events[number]
    got = event.outcome.results[name]
    try:
        if event.act == "call":
            assert isinstance(subject, KernelSubject)
            return _of_kernel(log, subject, event, got, name)
        if event.act == "attention":
            return _between_projections(log, subject, number, got)
        if event.act in ("forward", "step"):
            return _of_module(log, subject, number, got)
    except (ValueError, TypeError, KeyError, StopIteration):
        return None  # a call that has no answer
    return None


def _arrays(log: Log, event: Event) -> dict[str, Any]:
    """The arguments of an event as they were handed over, read from the log of what was."""
    return {
        name: event.seen.get(value.number, log.arrays[value.number].first)
        if isinstance(value, Ref)
        else value
        for name, value in event.given.items()
    }


def _of_kernel(log: Log, subject: KernelSubject, event: Event, got: Array, name: str) -> Judged | None:
    convention, given = subject.convention, _arrays(log, event)
    roles = {native: role for role, native in convention.names.items()}
    named = {roles[native]: value for native, value in given.items() if native in roles}
    swapped = convention.axes == "BTHD"
    q, k, v = (given[n].swapaxes(1, 2) if swapped else given[n] for n in ("q", "k", "v"))
    mask = named.get("mask", named.get("bias"))
    call = Call(q, k, v, mask, named.get("is_causal", False), named.get("scale"))
    if name == "lse":
        answer = ask_lse(subject.lower(call), call.dtype, subject.claims.arithmetic)
        return _judged(got[..., None], answer, lambda at: at[:3])
    answer = subject.answer(call)
    if swapped:
        return _judged(got.swapaxes(1, 2), answer, lambda at: (at[0], at[2], at[1], at[3]))
    return _judged(got, answer, lambda at: at)


def _between_projections(log: Log, subject: Subject, number: int, got: Array) -> Judged | None:
    event = log.events[number]
    given = _arrays(log, event)
    build, _ = _module(log, event.of, number)
    heads = build.given["n_head"]
    q, k, v = (split(given[n], heads) for n in ("q", "k", "v"))
    problem = lower(q, k, v, given.get("mask"), build.given["causal"])
    answer = ask(problem, q.dtype.name, subject.claims.arithmetic)
    size = q.shape[3]
    return _judged(split(got, heads), answer, lambda at: (at[0], at[2], at[1] * size + at[3]))


def _of_module(log: Log, subject: Subject, number: int, got: Array) -> Judged | None:
    event = log.events[number]
    given = _arrays(log, event)
    handle, source = event.of, given.get("xa")
    if event.act == "step":
        handle, source = _source(log, number)
    build, params = _module(log, handle, number)
    arrays = {name: log.arrays[ref.number].first for name, ref in params.items()}
    call = Forward(
        given["x"], source, arrays, build.given["n_head"], given.get("mask"), build.given["causal"]
    )
    answer: Answer = subject.answer_forward(call)  # type: ignore[attr-defined]
    return _judged(got[:, None], answer, lambda at: (at[0], *at[2:]))


def _module(log: Log, handle: int, number: int) -> tuple[Event, dict[str, Ref]]:
    """The event that built a handle, and the parameters that it has when an event happens."""
    events = log.events[:number]
    made = next(e for e in events if e.act in ("build", "copy") and e.made == handle)
    if made.act == "copy":
        build, params = _module(log, made.of, log.events.index(made))
    else:
        build, params = made, made.given["params"]
    loaded = [e.given["params"] for e in events if e.act == "load" and e.of == handle]
    return build, loaded[-1] if loaded else params


def _source(log: Log, number: int) -> tuple[int, Array]:
    """The handle of a step, and the tokens that its queries attend to: those of the cache, and the new ones."""
    handles: dict[int, int] = {}
    held: dict[int, Array] = {}
    for event in log.events[: number + 1]:
        of, made = event.of, event.made
        if event.act == "open" and made is not None:
            handles[made] = of
        elif event.act == "fork" and made is not None:
            handles[made] = handles[of]
            held |= {made: held[of]} if of in held else {}
        elif event.act == "reorder" and of in held:
            held[of] = held[of][list(event.given["by"])]
        elif event.act == "truncate" and of in held:
            held[of] = held[of][:, : event.given["by"]]
        elif event.act == "step" and (event.outcome.error is None or event is log.events[number]):
            given = _arrays(log, event)
            if "xa" in given:
                held.setdefault(of, given["xa"])
            else:
                x: Array = given["x"]
                held[of] = np.concatenate([held[of], x], axis=1) if of in held else x
    of = log.events[number].of
    return handles[of], held[of]


def _judged(got: Array, answer: Answer, index: Callable[[Index], Index]) -> Judged:
    """A result in the answer's form; index: from an element's index there to that in the result."""
    found = compare(got, answer)

    def moved(element: Element | None) -> Element | None:
        return None if element is None else replace(element, index=index(element.index))

    return Judged(moved(found.first), moved(found.worst), float(np.max(answer.limit, initial=0.0)))
