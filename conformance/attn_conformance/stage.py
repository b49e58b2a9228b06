"""The stage: the modules and caches of a script, played step by step beside what the oracle remembers of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attn_conformance.cases import Carrier, Forward, ScriptCase, Step, draw_params
from attn_conformance.cases.values import STORAGE
from attn_conformance.expect import within
from attn_conformance.implementation import Session
from attn_conformance.judge import Answer, Evidence, Failed, NotAsked, ask, differs
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.subject import Array, Raised, blaming
from attn_reference import lower

Posed = tuple[Array, Array, Array | None]
"""x, what it attends to, and a mask."""

Key = tuple[int, int]
"""A cache's number and a module's."""


@dataclass(frozen=True)
class Weights:
    """A module's parameters, and what forward gives with them: exactly carried, or random."""

    params: dict[str, Array]
    heads: int
    carrier: Carrier | None

    def tokens(self, rng: np.random.Generator, case: ScriptCase, length: int) -> Array:
        """(B, length, n_state): random tokens."""
        kind = STORAGE[case.dtype]
        if self.carrier is None:
            size = self.params["query.bias"].shape[0]
            return np.asarray(rng.standard_normal((case.batch, length, size)).astype(kind))
        shape = (self.carrier.parts, case.batch, self.heads, length, self.carrier.used)
        return self.carrier.pack(*rng.standard_normal(shape).astype(kind))

    def answer(
        self, subject: ModuleSubject, x: Array, src: Array, mask: Array | None, causal: bool
    ) -> Answer:
        """What the oracle allows where x attends to all of src."""
        if self.carrier is None:
            return subject.answer_forward(Forward(x, src, self.params, self.heads, mask, causal))
        q, parts = self.carrier.unpack(x)[0], self.carrier.unpack(src)
        problem = lower(q, parts[-2], parts[-1], mask, causal, 1 / math.sqrt(self.carrier.width))
        return ask(problem, str(x.dtype.name), subject.claims.arithmetic)

    def shown(self, y: Array) -> Array:
        """A result (B, T, n_state) in the form in which the answer has it."""
        return y[:, None] if self.carrier is None else self.carrier.heads_of(y)


class Stage:
    """Plays a script; Failed at the first step whose result, exception or trace is not what it must be."""

    def __init__(
        self,
        subject: ModuleSubject,
        case: ScriptCase,
        *,
        session: Callable[..., Session] | None = None,
        judging: bool = True,
    ) -> None:
        """session: what opens one, from a module and a cache or None; the subject's own way if not given.

        judging: whether the results of steps are held against the oracle.
        """
        self.judging = judging
        self.subject = subject
        self.case = case
        self.open = session or subject.session
        self.rng = np.random.default_rng((case.seed, 1))
        self.parts = 2 if any(step.act == "cross" for step in case.steps) else 3
        self.weights: dict[int, Weights] = {}
        self.handles: dict[int, Any] = {}
        self.sessions: dict[Key, Session] = {}
        self.held: dict[Key, Array] = {}  # tokens whose keys a cache holds for a module
        self.last: dict[str, Any] = {}  # native arguments of the last call
        self.mattered = False

    def play(self) -> bool:
        """All steps in order; whether some result would have differed without what was cached."""
        for number, step in enumerate(self.case.steps):
            try:
                self.act(step)
            except Failed as failed:
                where = f"step {number + 1} ({step.describe()})"
                raise failed.told(f"{where}: {failed.message}") from failed
        return self.mattered

    def act(self, step: Step) -> None:
        """One step."""
        acts = {
            "self": self._self,
            "cross": self._cross,
            "plain": self._plain,
            "rejected": self._rejected,
            "misfit": self._misfit,
            "disturb": self._disturb,
            "reorder": self._reorder,
            "truncate": self._truncate,
            "fork": self._fork,
        }
        acts[step.act](step)

    # --- what takes part

    def module(self, number: int) -> tuple[Any, Weights]:
        """The handle and weights of a module, built when it first takes part."""
        if number not in self.handles:
            case, subject = self.case, self.subject
            size = case.heads * case.head_size
            if case.carried:
                exact = subject.carrying(case.heads, case.head_size, self.parts, variant=number)
                self.weights[number] = Weights(exact.params(case.dtype), case.heads, exact)
            else:
                rng = np.random.default_rng((case.seed, 2, number))
                self.weights[number] = Weights(draw_params(rng, size, case.dtype), case.heads, None)
            params = self.weights[number].params
            load: Any = getattr(subject.implementation, "load", None)
            if case.copied and number and load is not None:
                self.handles[number] = copy.deepcopy(self.module(0)[0])
                with blaming():
                    load(self.handles[number], subject.native_params(params))
            else:
                self.handles[number] = subject.build(params, case.heads, case.causal)
        return self.handles[number], self.weights[number]

    def session(self, step: Step) -> Session:
        """The session of a step's module on its cache, which modules share."""
        key = (step.cache, step.module)
        if key not in self.sessions:
            shared = [s for (cache, _), s in self.sessions.items() if cache == step.cache]
            handle, _ = self.module(step.module)
            self.sessions[key] = self.open(handle, shared[0].cache if shared else None)
        return self.sessions[key]

    def sessions_on(self, cache: int) -> list[tuple[Key, Session]]:
        """All sessions on a cache."""
        return [(key, session) for key, session in self.sessions.items() if key[0] == cache]

    def step_of(
        self, session: Session, x: Array, xa: Array | None = None, mask: Array | None = None
    ) -> Array:
        """One step of a session, (B, T, n_state); Raised or Failed as a call is."""
        given = {"x": x, "xa": xa, "mask": mask}
        border, device = self.subject.border, self.subject.device
        self.last = {n: border.asarray(array, device) for n, array in given.items() if array is not None}
        with blaming(), border.grad_mode("off"):
            returned = session.step(self.last["x"], self.last.get("xa"), self.last.get("mask"))
        y = self.subject.received(returned)
        if y.shape != x.shape:
            raise Failed(f"returned shape {y.shape}, expected (B, T, n_state) = {x.shape}")
        return y

    # --- the acts

    def _self(self, step: Step) -> None:
        session, (_, weights) = self.session(step), self.module(step.module)
        key = (step.cache, step.module)
        x = weights.tokens(self.rng, self.case, step.length)
        old = self.held.get(key, x[:, :0])
        src = np.concatenate([old, x], axis=1)
        mask = self._mask(step, src.shape[1])
        try:
            y = self.step_of(session, x, mask=mask)
        except Raised:
            if step.length:
                raise
            return  # OUT-4: an empty chunk may be refused
        self.held[key] = src
        # Without the cache, a step would have seen its own tokens alone.
        narrow = None if mask is None else mask[..., -step.length :]
        others = [(x, np.concatenate([held, x], axis=1), None) for held in self._elsewhere(key)]
        self._compare(
            weights, y, (x, src, mask), (x, x, narrow) if old.shape[1] else None,
            {"another cache": [] if step.masked else others},
        )  # fmt: skip

    def _cross(self, step: Step) -> None:
        session, (_, weights) = self.session(step), self.module(step.module)
        key = (step.cache, step.module)
        x = weights.tokens(self.rng, self.case, step.length)
        xa = weights.tokens(self.rng, self.case, self.case.keys)
        first = key not in self.held
        mask = self._mask(step, self.case.keys)
        y = self.step_of(session, x, xa, mask)
        entry = self.held.setdefault(key, xa)
        mistaken: dict[str, list[Posed]] = {
            "own xa": [(x, xa, mask)],
            "x for xa": [] if step.masked else [(x, x, None)],
            "another cache": [(x, held, mask) for held in self._elsewhere(key)],
        }
        without = (x, entry, None) if step.masked else None if first else (x, xa, None)
        self._compare(weights, y, (x, entry, mask), without, mistaken)

    def _mask(self, step: Step, keys: int) -> Array | None:
        """(B, H, T, keys), where the step has one; every row sees the last key."""
        if not step.masked:
            return None
        mask = self.rng.random((self.case.batch, self.case.heads, step.length, keys)) < 0.7
        mask[..., -1] = True
        return mask

    def _elsewhere(self, key: Key) -> list[Array]:
        """What other caches hold for a module."""
        return [held for (cache, module), held in self.held.items() if module == key[1] and cache != key[0]]

    def _plain(self, step: Step) -> None:
        handle, weights = self.module(step.module)
        x = weights.tokens(self.rng, self.case, step.length)
        native = self.subject.border.asarray(x, self.subject.device)
        with blaming(), self.subject.border.grad_mode("off"):
            returned = self.subject.implementation.forward(handle, native)
        self._compare(weights, self.subject.received(returned), (x, x, None), None)
        self.mattered = True

    def _rejected(self, step: Step) -> None:
        session, (_, weights) = self.session(step), self.module(step.module)
        x = weights.tokens(self.rng, self.case, step.length)
        held = self.held.get((step.cache, step.module), x[:, :0])
        xa, keys = None, held.shape[1] + step.length
        if self.parts == 2:
            xa, keys = weights.tokens(self.rng, self.case, self.case.keys), self.case.keys
        arguments = REJECTED[step.fault]({"x": x, "xa": xa, "mask": None}, self.case.heads, keys)
        before = picture(self.subject, session.cache)
        rejected = False
        try:
            self.step_of(session, **arguments)
        except Raised:
            rejected = True
        except Failed:
            pass  # numbers came back, if of an odd shape
        if not rejected:
            raise NotAsked("the call was not rejected, which other requirements judge")
        if picture(self.subject, session.cache) != before:
            raise Failed("the rejected call changed the cache")
        self.mattered = True

    def _misfit(self, step: Step) -> None:
        session, (_, weights) = self.session(step), self.module(step.module)
        wider = replace(self.case, batch=self.case.batch + 1)
        x = weights.tokens(self.rng, wider, step.length)
        xa = weights.tokens(self.rng, wider, self.case.keys) if self.parts == 2 else None
        try:
            y = self.step_of(session, x, xa)
        except Raised:
            self.mattered = True
            return
        raise Failed(
            f"a batch of {wider.batch} on an entry of {self.case.batch} gave numbers of shape {y.shape}"
        )

    def _disturb(self, step: Step) -> None:
        for native in self.last.values():
            self.subject.border.overwrite(native)

    def _reorder(self, step: Step) -> None:
        self._edit(step, lambda session: session.reorder, step.order, lambda a: a[list(step.order)])

    def _truncate(self, step: Step) -> None:
        self._edit(step, lambda session: session.truncate, step.length, lambda a: a[:, : step.length])

    def _edit(
        self, step: Step, method: Callable[[Any], Any], argument: Any, change: Callable[[Array], Array]
    ) -> None:
        for key, session in self.sessions_on(step.cache):
            if key not in self.held:
                continue
            self._editable(session)
            with blaming():
                method(session)(argument)
            self.held[key] = change(self.held[key])

    def _editable(self, session: Session) -> None:
        if getattr(session, "length", None) is None:
            raise NotAsked("the cache does not show the module's entries, so a caller cannot edit them")

    def _fork(self, step: Step) -> None:
        new = 1 + max(cache for cache, _ in self.sessions)
        for (_, module), session in self.sessions_on(step.cache):
            self._editable(session)
            fork: Any = getattr(session, "fork")  # noqa: B009  # optional in the protocol
            with blaming():
                self.sessions[new, module] = fork()
            if (step.cache, module) in self.held:
                self.held[new, module] = self.held[step.cache, module]

    def _compare(
        self,
        weights: Weights,
        y: Array,
        posed: Posed,
        without: Posed | None,
        mistaken: Mapping[str, Sequence[Posed]] | None = None,
    ) -> None:
        if not self.judging:
            return
        answer = weights.answer(self.subject, *posed, self.case.causal)
        try:
            within(weights.shown(y), answer)
        except Failed as failed:
            others = {
                name: [weights.answer(self.subject, *other, self.case.causal).problem for other in others]
                for name, others in (mistaken or {}).items()
            }
            evidence = Evidence(weights.shown(y), answer, others)
            raise Failed(failed.message, failed.comparison, evidence) from None
        if without is not None and not self.mattered:
            other = weights.answer(self.subject, *without, self.case.causal)
            self.mattered = differs(answer, other)


Arguments = dict[str, Any]


def _with_mask(make: Callable[[int, int, int, int], Any]) -> Callable[[Arguments, int, int], Arguments]:
    def fault(arguments: Arguments, heads: int, keys: int) -> Arguments:
        B, T, _ = arguments["x"].shape
        return {**arguments, "mask": make(B, heads, T, keys)}

    return fault


def _wider(name: str) -> Callable[[Arguments, int, int], Arguments]:
    def fault(arguments: Arguments, heads: int, keys: int) -> Arguments:
        array = arguments[name]
        return {**arguments, name: np.concatenate([array, array[..., :1]], axis=-1)}

    return fault


REJECTED: dict[str, Callable[[Arguments, int, int], Arguments]] = {
    "mask": _with_mask(lambda B, H, T, S: np.ones((B, H, T, S), bool)),
    "mask of rank 2": _with_mask(lambda B, H, T, S: np.tri(T, S, S - T, dtype=bool)),
    "float mask": _with_mask(lambda B, H, T, S: np.zeros((1, 1, T, S), np.float32)),
    "mask with a key too many": _with_mask(lambda B, H, T, S: np.ones((B, H, T, S + 1), bool)),
    "mask of rank 1": _with_mask(lambda B, H, T, S: np.ones(S, bool)),
    "x too wide": _wider("x"),
    "xa too wide": _wider("xa"),
    "x of rank 2": lambda arguments, heads, keys: {**arguments, "x": arguments["x"][0]},
}
"""Calls that must be rejected: the first three by causal modules alone. Arguments, H, and S = cached + new."""

CAUSAL_REJECTED = ("mask", "mask of rank 2", "float mask")
"""Those that are fine where nothing is causal."""


def picture(subject: ModuleSubject, cache: Any) -> Any:
    """What a cache holds, bit for bit, as far as it shows: mappings and sequences of arrays."""
    if isinstance(cache, Mapping):
        return [(id(key), picture(subject, value)) for key, value in cache.items()]
    if isinstance(cache, (list, tuple)):
        return [picture(subject, value) for value in cache]
    try:
        array = subject.border.asnumpy(cache)
    except TypeError:
        return type(cache).__name__ if cache is not None else None
    return array.shape, array.tobytes()
