"""Oracle: what a recorded call must give, element by element, whatever the arrays in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases import Call, Forward, split
from attn_conformance.judge import Answer, Comparison, ask, ask_lse, compare
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.reproducer.recording import Event, Log, Ref
from attn_conformance.subject import Subject
from attn_reference import lower

Array = NDArray[Any]


def judged(log: Log, subject: Subject, number: int, name: str) -> Comparison | None:
    """How a result of an event stands to its answer, indices being those of the result; None where none is known."""
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


def _of_kernel(log: Log, subject: KernelSubject, event: Event, got: Array, name: str) -> Comparison | None:
    convention, given = subject.convention, _arrays(log, event)
    roles = {native: role for role, native in convention.names.items()}
    named = {roles[native]: value for native, value in given.items() if native in roles}
    swapped = convention.axes == "BTHD"
    q, k, v = (given[n].swapaxes(1, 2) if swapped else given[n] for n in ("q", "k", "v"))
    mask = named.get("mask", named.get("bias"))
    call = Call(q, k, v, mask, named.get("is_causal", False), named.get("scale"))
    if name == "lse":
        found = compare(got[..., None], ask_lse(subject.lower(call), call.dtype, subject.claims.arithmetic))
        return _moved(found, lambda at: at[:3])
    answer = subject.answer(call)
    if swapped:
        return _moved(compare(got.swapaxes(1, 2), answer), lambda at: (at[0], at[2], at[1], at[3]))
    return compare(got, answer)


def _between_projections(log: Log, subject: Subject, number: int, got: Array) -> Comparison | None:
    event = log.events[number]
    given = _arrays(log, event)
    build, _ = _module(log, event.of, number)
    heads = build.given["n_head"]
    q, k, v = (split(given[n], heads) for n in ("q", "k", "v"))
    problem = lower(q, k, v, given.get("mask"), build.given["causal"])
    found = compare(split(got, heads), ask(problem, q.dtype.name, subject.claims.arithmetic))
    size = q.shape[3]
    return _moved(found, lambda at: (at[0], at[2], at[1] * size + at[3]))


def _of_module(log: Log, subject: Subject, number: int, got: Array) -> Comparison | None:
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
    return _moved(compare(got[:, None], answer), lambda at: (at[0], *at[2:]))


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


def _moved(found: Comparison, index: Any) -> Comparison:
    """The comparison with the indices of its elements in the result's own shape."""

    def moved(element: Any) -> Any:
        return None if element is None else replace(element, index=index(element.index))

    return replace(found, first=moved(found.first), worst=moved(found.worst))
