"""Substitute: the reference as a subject of the same kind, under the target's convention and claims."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import attn_reference
from attn_conformance.borders import NumpyBorder
from attn_conformance.drop_in import DropIn
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.reproducer.recording import Event, Log, Outcome, Ref, recording
from attn_conformance.reproducer.simpler import simpler
from attn_conformance.reproducer.views import arranged
from attn_conformance.subject import Subject

Array = NDArray[Any]


def reference_for(subject: Subject) -> Subject:
    """The reference in the subject's place."""
    border = NumpyBorder()
    if isinstance(subject, KernelSubject):
        function = _kernel(subject)
        return replace(subject, function=function, border=border, device="cpu")
    assert isinstance(subject, ModuleSubject)
    implementation = DropIn(attn_reference.MultiHeadAttention, border, subject.claims)
    return replace(
        subject, implementation=implementation, border=border, device="cpu", key_bias=False, handles={}
    )


def _kernel(subject: KernelSubject) -> Callable[..., Any]:
    convention = subject.convention
    roles = {name: role for role, name in convention.names.items()}

    def attention(q: Array, k: Array, v: Array, **named: Any) -> Any:
        given = {roles[name]: value for name, value in named.items()}
        if convention.axes == "BTHD":
            q, k, v = (x.swapaxes(1, 2) if x.ndim == 4 else x for x in (q, k, v))
        mask, is_causal = given.get("mask", given.get("bias")), given.get("is_causal", False)
        if is_causal and convention.alignment == "top-left":
            mask, is_causal = np.tri(q.shape[2], k.shape[2], dtype=bool), False
        out = attn_reference.attention(q, k, v, mask, is_causal, given.get("scale"))
        if convention.axes == "BTHD":
            out = out.swapaxes(1, 2)
        if "lse" not in subject.claims.features:
            return out
        problem = attn_reference.lower(q, k, v, mask, is_causal, given.get("scale"))
        return out, attn_reference.solve(problem).lse

    return attention


def replay(log: Log, subject: Subject) -> list[Outcome | None]:
    """What the reference for a subject makes of recorded events, in order: None where one cannot be played."""
    double, noted = recording(reference_for(subject))
    return _Player(log, double, noted, [held.first for held in log.arrays]).play()


def simplified(log: Log, subject: Subject, variant: str) -> Log:
    """The recording of the same events on the subject opened anew, with a variant of `simpler` in the arrays."""
    noting, noted = recording(subject.open())
    _Player(log, noting, noted, simpler([(held.name, held.first) for held in log.arrays], variant)).play()
    return noted


def again(log: Log, subject: Subject, chosen: Sequence[int], *, views: bool) -> Outcome | None:
    """What comes of the last of some of the events, played alone on the subject opened anew.

    views: whether arrays have the strides that they were handed over with.
    """
    noting, noted = recording(subject.open())
    player = _Player(log, noting, noted, [held.first for held in log.arrays], views=views)
    return player.play(chosen)[-1]


class _Player:
    """Plays the events of one log on a subject that is recorded in turn."""

    def __init__(
        self, log: Log, subject: Subject, noted: Log, arrays: list[Array], *, views: bool = True
    ) -> None:
        self.log = log
        self.noted = noted
        self.border = subject.border
        self.natives = [
            subject.border.asarray(
                arranged(array, held.layout if views else "contiguous"),
                subject.device,
                requires_grad=held.grad,
            )
            for array, held in zip(arrays, log.arrays, strict=True)
        ]
        first: Any = (
            subject.function
            if isinstance(subject, KernelSubject)
            else getattr(subject, "implementation", None)
        )
        self.instances = {0: first}
        self.handles: dict[int, Any] = {}
        self.sessions: dict[int, Any] = {}

    def play(self, chosen: Sequence[int] | None = None) -> list[Outcome | None]:
        """What came of each event, or of the chosen ones: None where what it rests on could not be made."""
        events = self.log.events if chosen is None else [self.log.events[n] for n in chosen]
        outcomes: list[Outcome | None] = []
        before = random.getstate(), self.border.get_random_state()
        random.seed(1)
        self.border.seed_random(1)
        for event in events:
            known = len(self.noted.events)
            try:
                with self.border.grad_mode(event.mode):
                    self._act(event)
            except KeyError:
                outcomes.append(None)
                continue
            except Exception as error:
                if len(self.noted.events) == known:
                    outcomes.append(Outcome(error=error))
                    continue
            new = [e for e in self.noted.events[known:] if e.act not in ("write", "copy")]
            outcomes.append(new[-1].outcome if new else Outcome())
        random.setstate(before[0])
        self.border.set_random_state(before[1])
        return outcomes

    def _act(self, event: Event) -> None:
        given = {name: self._native(value) for name, value in event.given.items()}
        act, of = event.act, event.of
        if act == "write":
            self.border.overwrite(self.natives[of])
        elif act == "call":
            self._instance(of)(given.pop("q"), given.pop("k"), given.pop("v"), **given)
        elif act == "build":
            handle = self._instance(of).build(**given)
            if event.made is not None:
                self.handles[event.made] = handle
        elif act == "copy":
            assert event.made is not None
            self.handles[event.made] = copy.deepcopy(self.handles[of])
        elif act in ("forward", "attention", "load", "parameters"):
            handle = self.handles[of]
            getattr(self.instances[0], act)(handle, **given)
        elif act == "open":
            shared = given.get("cache")
            cache = None if shared is None else self.sessions[shared].cache
            assert event.made is not None
            self.sessions[event.made] = self.instances[0].open(self.handles[of], cache)
        elif act == "step":
            self.sessions[of].step(**given)
        elif act == "length":
            _ = self.sessions[of].length
        elif act == "fork":
            assert event.made is not None
            self.sessions[event.made] = self.sessions[of].fork()
        else:
            getattr(self.sessions[of], act)(given["by"])

    def _instance(self, number: int) -> Any:
        """A further instance is a fresh one, where there is such a thing."""
        if number not in self.instances:
            fresh = getattr(self.instances[0], "fresh", None)
            self.instances[number] = fresh() if callable(fresh) else self.instances[0]
        return self.instances[number]

    def _native(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return self.natives[value.number]
        if isinstance(value, dict):
            return {name: self._native(part) for name, part in value.items()}
        return value
