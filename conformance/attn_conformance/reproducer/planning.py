"""Planning: which recorded events a script needs to show a finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from attn_conformance.reproducer.differences import Finding
from attn_conformance.reproducer.recording import Event, Log, Ref

SESSIONS = ("step", "reorder", "truncate", "fork", "length")
"""Acts of sessions."""


@dataclass(frozen=True)
class Plan:
    """Which events a script has, by number, and what of them it may leave out.

    views: whether arrays have the strides that they were handed over with. weights: whether parameters are loaded.
    """

    events: tuple[int, ...]
    views: bool
    weights: bool


def plans(log: Log, finding: Finding) -> list[Plan]:
    """Ways to show a finding, from the least that may suffice to all that came before it."""
    last = finding.event
    if finding.kind == "deadly":
        choices = [[n for n, event in enumerate(log.events) if event.act != "length"]]
    else:
        ends = [last] if finding.kind != "repeat" else [finding.other, last]
        event = log.events[last]
        before = [n for n in range(last) if log.events[n].act not in ("length", "parameters")]
        caches = _sharing(log, event.of) if event.act in SESSIONS else set()
        handle = _handle(log, event)
        on_caches = [n for n in before if log.events[n].act in SESSIONS and log.events[n].of in caches]
        on_handle = [n for n in before if handle is not None and _handle(log, log.events[n]) == handle]
        instance = _instance(log, event)
        on_instance = [n for n in before if _instance(log, log.events[n]) == instance]
        choices = [[*more, *ends] for more in ([], on_caches, on_handle, on_instance)]
    whole = []
    for chosen in choices:
        events = tuple(sorted(_with_needs(log, chosen)))
        if events not in whole:
            whole.append(events)
    strided = any(held.layout != "contiguous" for held in log.arrays)
    # Without its parameters a module shows what is not about numbers.
    numbers = finding.kind in ("value", "nan", "repeat", "deadly") or log.events[last].act == "parameters"
    loads = not numbers or log.events[last].act == "attention"
    loads = loads and any(log.events[n].act == "build" for n in whole[0])
    return [
        Plan(events, views, weights)
        for events in whole
        for views in ((False, True) if strided else (False,))
        for weights in ((False, True) if loads else (True,))
    ]


def _maker(log: Log, made: int, *acts: str) -> int:
    return next(n for n, event in enumerate(log.events) if event.act in acts and event.made == made)


def _needs(log: Log, number: int) -> Iterable[int]:
    """The events that made what an event is about."""
    event = log.events[number]
    if event.act in SESSIONS:
        yield _maker(log, event.of, "open", "fork")
    elif event.act in ("forward", "attention", "load", "parameters", "open", "copy"):
        yield _maker(log, event.of, "build", "copy")
    if event.act == "open" and event.given.get("cache") is not None:
        yield _maker(log, event.given["cache"], "open", "fork")


def _with_needs(log: Log, chosen: Sequence[int]) -> set[int]:
    found, todo = set(), list(chosen)
    while todo:
        number = todo.pop()
        if number not in found:
            found.add(number)
            todo += _needs(log, number)
    used = {ref.number for number in found for ref in _refs(log.events[number].given)}
    last = max(found)
    writes = {n for n, e in enumerate(log.events[:last]) if e.act == "write" and e.of in used}
    return found | writes


def _refs(value: Any) -> Iterable[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _refs(part)


def _handle(log: Log, event: Event) -> int | None:
    """The number of the handle that an event is about."""
    if event.act in SESSIONS:
        return _handle(log, log.events[_maker(log, event.of, "open", "fork")])
    return event.of if event.act not in ("call", "build", "write") else event.made


def _instance(log: Log, event: Event) -> int | None:
    """The number of the instance of the implementation that an event is about."""
    if event.act in ("call", "build"):
        return event.of
    if event.act == "copy":
        return _instance(log, log.events[_maker(log, event.of, "build", "copy")])
    handle = _handle(log, event)
    if handle is None or event.act == "write":
        return None
    return _instance(log, log.events[_maker(log, handle, "build", "copy")])


def _sharing(log: Log, session: int) -> set[int]:
    """The sessions on one cache, and those whose caches it was forked from or into."""
    links = [
        {event.made, event.of if event.act == "fork" else event.given.get("cache")}
        for event in log.events
        if event.act == "fork" or (event.act == "open" and event.given.get("cache") is not None)
    ]
    found: set[Any] = {session}
    for _ in links:
        for link in links:
            if link & found:
                found |= link
    return found
