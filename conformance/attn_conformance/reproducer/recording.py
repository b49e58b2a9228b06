"""Recording: what a check asks of an implementation, call by call, in NumPy terms.

A recording implementation stands between the suite and the real one. It hands on the same native arrays and the same
exceptions, and notes what went in, what came out and what changed on the way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.borders import Border
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.reproducer.views import layout_of
from attn_conformance.subject import Subject

Array = NDArray[Any]


@dataclass(frozen=True)
class Ref:
    """An array that was handed over, by its number in the log."""

    number: int


@dataclass(eq=False)
class Held:
    """A native array that was handed over.

    first: its values then. now: those of the last look. layout: its strides. grad: whether it records gradients.
    """

    name: str
    native: Any
    first: Array
    now: Array
    layout: str
    grad: bool


@dataclass(eq=False)
class Outcome:
    """What an event led to.

    results: arrays that came back, by name where they have one. odd: the type of what came back in place of an array.
    changed: arguments that the call modified. before, after: what the cache at hand shows. drew: whose global random
    generator was used, "random", "numpy" or that of the framework. length: what a session said of its length.
    """

    results: dict[str, Array] = field(default_factory=dict)
    error: Exception | None = None
    odd: str | None = None
    changed: tuple[Ref, ...] = ()
    before: list[Array] | None = None
    after: list[Array] | None = None
    drew: str = ""
    length: int | None = None

    def differs(self, other: Outcome) -> bool:
        """Whether another outcome is not the same, bit for bit."""

        def shown(outcome: Outcome) -> Any:
            results = [(name, a.dtype.name, a.shape, a.tobytes()) for name, a in outcome.results.items()]
            held = [[a.tobytes() for a in arrays or []] for arrays in (outcome.before, outcome.after)]
            return results, type(outcome.error), str(outcome.error), outcome.odd, held, outcome.length

        return shown(self) != shown(other) or (len(self.changed), self.drew) != (
            len(other.changed),
            other.drew,
        )


@dataclass(eq=False)
class Event:
    """One thing that happened.

    act: call (of a kernel), build, copy, load, parameters, forward, attention, open, step, reorder, truncate, fork,
    length, or write (the caller changed an array). of: the number of the instance, handle, session or array
    concerned. given: arguments by name, arrays as Ref. made: the number of the handle or session that came of it.
    mode: the grad mode. seen: by number, arrays that had changed since they were first handed over.
    """

    act: str
    of: int
    given: dict[str, Any] = field(default_factory=dict)
    made: int | None = None
    mode: str = "off"
    seen: dict[int, Array] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)


class Log:
    """The events of one recording, and the arrays, handles and sessions that they speak of."""

    def __init__(self, border: Border) -> None:
        self.border = border
        self.events: list[Event] = []
        self.arrays: list[Held] = []
        self.handles: list[Any] = []
        self.sessions: list[Any] = []
        self.instances = 0

    def instance(self) -> int:
        """The number of a new instance of the implementation."""
        self.instances += 1
        return self.instances - 1

    def handle(self, native: Any) -> int:
        """The number of a handle; one that nobody built is a copy of the last."""
        for number, known in enumerate(self.handles):
            if known is native:
                return number
        self.handles.append(native)
        self.events.append(Event("copy", len(self.handles) - 2, made=len(self.handles) - 1))
        return len(self.handles) - 1

    def call(
        self,
        act: str,
        of: int,
        given: Mapping[str, Any],
        function: Callable[[], Any],
        *,
        makes: list[Any] | None = None,
        cache: Callable[[], Any] | None = None,
    ) -> Any:
        """Call the function, note it, and give back what it gave, or raise what it raised.

        makes: the list that what came back joins, where it is no array. cache: what shows the cache at hand.
        """
        self.events += [
            Event("write", ref.number, {"values": self.arrays[ref.number].now}) for ref in self._changes()
        ]
        refs = {name: self._noted(name, value) for name, value in given.items() if value is not None}
        seen = {n: held.now for n, held in enumerate(self.arrays) if held.now is not held.first}
        event = Event(act, of, refs, mode=self._mode(), seen=seen)
        self.events.append(event)
        outcome = event.outcome
        outcome.before = None if cache is None else entries(self.border, cache)
        state = self._random_state()
        try:
            returned = function()
        except Exception as error:
            outcome.error = error
            raise
        else:
            if makes is not None:
                makes.append(returned)
                event.made = len(makes) - 1
            else:
                self._receive(outcome, returned)
            return returned
        finally:
            now = self._random_state()
            outcome.drew = next((name for name in now if now[name] != state[name]), "")
            outcome.after = None if cache is None else entries(self.border, cache)
            outcome.changed = tuple(self._changes())

    def _random_state(self) -> dict[str, Any]:
        whole = self.border.get_random_state()
        if self.border.name != "torch":
            return {"random": random.getstate(), "numpy": whole}
        return {"random": random.getstate(), "numpy": whole[0], "torch": whole[1:]}

    def _mode(self) -> str:
        torch = getattr(self.border, "torch", None)
        if torch is None:
            return "off"
        if torch.is_inference_mode_enabled():
            return "inference"
        return "on" if torch.is_grad_enabled() and any(held.grad for held in self.arrays) else "off"

    def _noted(self, name: str, value: Any) -> Any:
        """Arrays as Ref, whatever else as it is; a parameter by its own name."""
        if isinstance(value, Mapping):
            return {key: self._noted(key, part) for key, part in value.items()}
        try:
            values = self.border.asnumpy(value)
        except TypeError:
            return value
        values = np.ascontiguousarray(values)
        for number, held in enumerate(self.arrays):
            if held.native is value:
                return Ref(number)
        grad = getattr(value, "requires_grad", False)
        self.arrays.append(Held(name, value, values, values, layout_of(value, values), grad))
        return Ref(len(self.arrays) - 1)

    def _changes(self) -> list[Ref]:
        changed = []
        for number, held in enumerate(self.arrays):
            values = np.ascontiguousarray(self.border.asnumpy(held.native))
            if values.tobytes() != held.now.tobytes():
                held.now = values
                changed.append(Ref(number))
        return changed

    def _receive(self, outcome: Outcome, returned: Any) -> None:
        if isinstance(returned, Mapping):
            named = dict(returned)
        elif isinstance(returned, tuple) and len(returned) == 2:
            named = {"out": returned[0], "lse": returned[1]}
        elif isinstance(returned, int):
            outcome.length = returned
            return
        else:
            named = {"": returned}
        for name, native in named.items():
            try:
                outcome.results[name] = self.border.asnumpy(native)
            except TypeError:
                outcome.odd = type(returned).__name__


def entries(border: Border, cache: Callable[[], Any]) -> list[Array] | None:
    """The arrays that a cache shows, None if it shows none."""
    held = cache()
    values = list(held.values()) if isinstance(held, Mapping) else held
    if not isinstance(values, (list, tuple)):
        return None
    try:
        return [border.asnumpy(value) for value in values]
    except TypeError:
        return None


class RecordingKernel:
    """A function whose calls are noted."""

    def __init__(self, inner: Callable[..., Any], log: Log) -> None:
        self.inner = inner
        self.log = log
        self.number = log.instance()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's own result."""
        given = {**dict(zip("qkv", args, strict=True)), **kwargs}
        return self.log.call("call", self.number, given, lambda: self.inner(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return (lambda: RecordingKernel(found(), self.log)) if name == "fresh" else found


class RecordingModule:
    """An Implementation whose calls are noted; it has of the optional functions what the inner one has."""

    def __init__(self, inner: Any, log: Log) -> None:
        self.inner = inner
        self.log = log
        self.number = log.instance()

    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Any]) -> Any:
        """The inner one's handle."""
        given = {"n_state": n_state, "n_head": n_head, "causal": causal, "params": params}
        return self.log.call(
            "build",
            self.number,
            given,
            lambda: self.inner.build(n_state, n_head, causal, params),
            makes=self.log.handles,
        )

    def forward(self, handle: Any, x: Any, xa: Any = None, mask: Any = None) -> Any:
        """The inner one's result."""
        given = {"x": x, "xa": xa, "mask": mask}
        number = self.log.handle(handle)
        return self.log.call("forward", number, given, lambda: self.inner.forward(handle, x, xa, mask))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        optional = {
            "fresh": lambda: RecordingModule(found(), self.log),
            "attention": self._attention,
            "open": self._open,
            "load": self._load,
            "parameters": self._parameters,
        }
        return optional.get(name, found)

    def _attention(self, handle: Any, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        given = {"q": q, "k": k, "v": v, "mask": mask}
        number = self.log.handle(handle)
        return self.log.call("attention", number, given, lambda: self.inner.attention(handle, q, k, v, mask))

    def _open(self, handle: Any, cache: Any = None) -> Any:
        known = [n for n, s in enumerate(self.log.sessions) if cache is not None and s.cache is cache]
        given = {"cache": known[0] if known else None}
        number = self.log.handle(handle)
        arguments = (handle,) if cache is None else (handle, cache)
        inner = self.log.call(
            "open", number, given, lambda: self.inner.open(*arguments), makes=self.log.sessions
        )
        return RecordingSession(inner, self.log)

    def _load(self, handle: Any, params: Mapping[str, Any]) -> Any:
        number = self.log.handle(handle)
        return self.log.call(
            "load", number, {"params": params}, lambda: self.inner.load(handle, params), makes=[]
        )

    def _parameters(self, handle: Any) -> Any:
        number = self.log.handle(handle)
        return self.log.call("parameters", number, {}, lambda: self.inner.parameters(handle))


class RecordingSession:
    """A session whose steps and edits are noted."""

    def __init__(self, inner: Any, log: Log) -> None:
        self.inner = inner
        self.log = log
        self.number = next(n for n, known in enumerate(log.sessions) if known is inner)

    def step(self, x: Any, xa: Any = None, mask: Any = None) -> Any:
        """The inner one's result."""
        given = {"x": x, "xa": xa, "mask": mask}
        return self.log.call(
            "step",
            self.number,
            given,
            lambda: self.inner.step(x, xa, mask),
            cache=lambda: self.inner.cache,
        )

    def __getattr__(self, name: str) -> Any:
        found: Any = getattr(self.inner, name)
        if name == "length":
            return None if found is None else self.log.call("length", self.number, {}, lambda: found)
        if name in ("reorder", "truncate"):
            return lambda by: self.log.call(name, self.number, {"by": by}, lambda: found(by), makes=[])
        if name == "fork":
            return self._forking(found)
        return found

    def _forking(self, fork: Callable[[], Any]) -> Callable[[], RecordingSession]:
        def forked() -> RecordingSession:
            inner = self.log.call("fork", self.number, {}, fork, makes=self.log.sessions)
            return RecordingSession(inner, self.log)

        return forked


def recording(subject: Subject) -> tuple[Subject, Log]:
    """The subject with its calls noted, and the log where they are; `subject` itself stays as it is."""
    log = Log(subject.border)
    if isinstance(subject, KernelSubject):
        return replace(subject, function=RecordingKernel(subject.function, log)), log
    assert isinstance(subject, ModuleSubject)
    return replace(subject, implementation=RecordingModule(subject.implementation, log), handles={}), log
