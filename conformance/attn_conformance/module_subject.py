"""A module under judgement: attention problems through its windows, forward calls, sessions on its caches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from attn_conformance.borders import Border, Natives, Pullback
from attn_conformance.cases import Call, Carrier, Forward, Upstream, carrier, merge, split, upstream
from attn_conformance.cases.values import STORAGE
from attn_conformance.conventions import Convention
from attn_conformance.differentiated import Differentiated
from attn_conformance.faults import put
from attn_conformance.gradients import Gradient, ask_gradients
from attn_conformance.implementation import PARAMETERS, Implementation, Session
from attn_conformance.judge import Answer, Failed, ask_forward, lower_call
from attn_conformance.process_state import process_state
from attn_conformance.scope import OPENED_BY, WINDOWS, Scope
from attn_conformance.subject import Array, Result, Subject, blaming
from attn_reference import Claims, Problem, lower


@dataclass(frozen=True)
class ModuleSubject(Subject):
    """An Implementation, and the modules that the example at hand has built with it.

    key_bias: whether its modules have a key.bias, which the interface of the seed lacks.
    """

    kind: ClassVar[Literal["kernel", "module"]] = "module"

    target: str
    implementation: Implementation
    convention: Convention
    border: Border
    claims: Claims
    device: str = "cpu"
    key_bias: bool = False
    foreign: bool = False
    assumed: frozenset[str] = frozenset()
    state: dict[str, Any] = field(default_factory=process_state, compare=False, repr=False)
    handles: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def open(self) -> ModuleSubject:
        """The same implementation, with no module built yet."""
        with blaming():
            fresh = getattr(self.implementation, "fresh", None)
            implementation = fresh() if callable(fresh) else self.implementation
        return replace(self, implementation=implementation, handles={})

    def claiming(self, claims: Claims) -> ModuleSubject:
        """The same implementation under other claims."""
        return replace(self, claims=claims)

    @property
    def scope(self) -> Scope:
        """What may be drawn for this subject."""
        closed = {window for window, feature in OPENED_BY.items() if feature not in self.claims.features}
        windows = tuple(window for window in WINDOWS if window != "kernel" and window not in closed)
        return Scope(self.claims, self.border.layouts, self.border.grad_modes, windows)

    # --- attention problems, seen through a window

    def carrier(self, call: Call) -> Carrier:
        """The weights that carry a call's q, k and v through forward."""
        return self.carrying(call.heads, call.head_size, 2 if call.window == "cross" else 3)

    def carrying(self, heads: int, used: int, parts: int, variant: int = 0) -> Carrier:
        """A carrier whose head size is one that is served."""
        least = parts * used
        width = min((size for size in self.claims.head_sizes if size >= least), default=least)
        return carrier(heads, used, width, parts, variant)

    def lower(self, call: Call) -> Problem:
        """The problem that a call poses: that of its q, k and v, or of what the carrier makes of them."""
        if call.window == "qkv":
            return lower(call.q, call.k, call.v, call.mask, call.is_causal)
        q, k, v = _spread(call)
        return lower(q, k, v, call.mask, call.is_causal, 1 / math.sqrt(self.carrier(call).width))

    def arguments(self, call: Call) -> dict[str, Array]:
        """q, k and v with merged heads, or x and xa that carry them, and the mask."""
        if call.window == "qkv":
            named = {"q": merge(call.q), "k": merge(call.k), "v": merge(call.v)}
        elif call.window == "cross":
            weights = self.carrier(call)
            named = {"x": weights.pack(call.q), "xa": weights.pack(call.k, call.v)}
        else:
            new = slice(call.k.shape[2] - call.q.shape[2], None)
            named = {"x": self.carrier(call).pack(call.q, call.k[:, :, new], call.v[:, :, new])}
        if call.mask is not None:
            named["mask"] = call.mask
        return put(call.fault, named, call.sizes)

    def run(self, call: Call, natives: dict[str, Any] | None = None) -> Result:
        """One call of qkv_attention or forward, or two steps on a fresh cache."""
        natives = self.natives(call) if natives is None else natives
        mask = natives.get("mask")
        handle = self._handle_for(call)
        with blaming(), self.border.grad_mode(call.grad):
            if call.window == "qkv":
                returned = self._attention(handle, natives["q"], natives["k"], natives["v"], mask)
            elif call.window == "cached":
                session = self.session(handle)
                if past := self._past(call):
                    session.step(past["x"])
                returned = session.step(natives["x"], None, mask)
            else:
                returned = self.implementation.forward(handle, natives["x"], natives.get("xa"), mask)
        y = self.received(returned)
        size = call.heads * call.head_size if call.window == "qkv" else self.carrier(call).n_state
        expected = (*(call.q.shape[i] for i in (0, 2)), size)
        if call.fault == "none" and y.shape != expected:
            raise Failed(f"returned shape {y.shape}, expected (B, T, n_state) = {expected}")
        if y.shape == expected:
            y = split(y, call.heads) if call.window == "qkv" else self.carrier(call).heads_of(y)
        return Result(y, None, self.device_of(returned), returned)

    def differentiated(self, call: Call, of: Iterable[str]) -> Differentiated:
        """The call of qkv_attention, of those of q, k, v and mask that are named."""
        natives, handle = self.natives(call), self._handle_for(call)

        def function(inputs: Natives) -> Any:
            given = {**natives, **inputs}
            return self._attention(handle, given["q"], given["k"], given["v"], given.get("mask"))

        def inward(name: str, array: Array) -> Array:
            return array if name == "mask" else split(array, call.heads)

        B, H, T, D = call.q.shape
        return Differentiated(
            function,
            {name: natives[name] for name in of},
            (B, T, H * D),
            own=self._own_gradients(handle, natives),
            outward=lambda dout: upstream.arrange(merge(dout.values), dout.layout),
            inward=inward,
        )

    def _own_gradients(self, handle: Any, natives: Natives) -> Pullback | None:
        """The gradients that the implementation computes itself, where it says how."""
        own: Any = getattr(self.implementation, "gradients", None)
        return None if own is None else lambda dout: dict(own(handle, natives, dout))

    def prepare(self, call: Call) -> None:
        """Build the module that serves a call."""
        self._handle_for(call)

    def _attention(self, handle: Any, *arguments: Any) -> Any:
        attention: Any = getattr(self.implementation, "attention")  # noqa: B009  # optional in the protocol
        return attention(handle, *arguments)

    def _past(self, call: Call) -> dict[str, Any]:
        """The native tokens of the step that fills the cache before a call, {} if there are none."""
        old = slice(0, call.k.shape[2] - call.q.shape[2])
        k, v = call.k[:, :, old], call.v[:, :, old]
        if not k.shape[2]:
            return {}
        return {"x": self.border.asarray(self.carrier(call).pack(k, k, v), self.device)}

    def _handle_for(self, call: Call) -> Any:
        """The module that serves a call; calls of one example that differ in length or mask share it."""
        kind: Any = (call.heads, call.head_size) if call.window == "qkv" else self.carrier(call)
        key = (kind, call.is_causal, "" if "casts-weights" in self.claims.features else call.dtype)
        if key not in self.handles:
            if call.window == "qkv":
                size = call.heads * call.head_size
                zeros = _zeros(call.dtype).items()
                params = {name: np.broadcast_to(zero, (size,) * zero.ndim) for name, zero in zeros}
            else:
                params = self.carrier(call).params(call.dtype)
            self.handles[key] = self.build(params, call.heads, call.is_causal)
        return self.handles[key]

    # --- forward calls and sessions

    def build(
        self, params: dict[str, Array], n_head: int, causal: bool, *, n_state: int | None = None
    ) -> Any:
        """A module with these parameters; Raised if the implementation refuses.

        n_state: where it is not the size of the parameters, since no parameters have it.
        """
        size = params["query.bias"].shape[0] if n_state is None else n_state
        natives = self.native_params(params)
        with blaming():
            return self.implementation.build(size, n_head, causal, natives)

    def native_params(self, params: dict[str, Array]) -> dict[str, Any]:
        """Parameters as the framework's own arrays, with a key.bias (zero, unless given) where modules have one."""
        named = {name: array for name, array in params.items() if self.key_bias or name != "key.bias"}
        if self.key_bias:
            named.setdefault("key.bias", np.zeros_like(params["query.bias"]))
        return {name: self.border.asarray(array, self.device) for name, array in named.items()}

    def forward(self, call: Forward, handle: Any = None, shape: tuple[int, ...] | None = None) -> Array:
        """The result of forward without a cache, (B, T, n_state), by a module built for the call or a given one.

        shape: that of the result, where it is not that of x.
        """
        handle = self.build(call.params, call.n_head, call.is_causal) if handle is None else handle
        natives = {name: self.border.asarray(array, self.device) for name, array in call.arrays().items()}
        with blaming(), self.border.grad_mode("off"):
            returned = self.implementation.forward(
                handle, natives["x"], natives.get("xa"), natives.get("mask")
            )
        y = self.received(returned)
        shape = call.x.shape if shape is None else shape
        if y.shape != shape:
            raise Failed(f"returned shape {y.shape}, expected (B, T, n_state) = {shape}")
        return y

    def lower_forward(self, call: Forward) -> Problem:
        """The attention that a forward call poses between the projections: who sees whom, without values."""
        src = call.x if call.xa is None else call.xa
        q, k = (np.empty((a.shape[0], call.n_head, a.shape[1], 0)) for a in (call.x, src))
        return lower(q, k, k, call.mask, call.is_causal)

    def answer_forward(self, call: Forward) -> Answer:
        """What the oracle allows for a forward call, (B, 1, T, n_state)."""
        params = {name: array for name, array in call.cast.items() if self.key_bias or name != "key.bias"}
        return ask_forward(replace(call, params=params), self.claims.arithmetic)

    def differentiated_forward(self, call: Forward, handle: Any, of: Iterable[str]) -> Differentiated:
        """Forward, of those of x, xa, mask and the parameters that are named, by a module built for the call.

        A parameter is left out that the module does not show under its name.
        """
        natives = {name: self.border.asarray(array, self.device) for name, array in call.arrays().items()}

        def function(inputs: Natives) -> Any:
            given = {**natives, **inputs}
            return self.implementation.forward(handle, given["x"], given.get("xa"), given.get("mask"))

        own = self._own_gradients(handle, natives)
        known = natives | (self.native_params(call.params) if own else leaves(handle))
        inputs = {name: known[name] for name in of if name in known}
        return Differentiated(function, inputs, call.x.shape, own=own)

    def answer_forward_gradients(
        self, call: Forward, dout: Upstream, of: Iterable[str]
    ) -> dict[str, Gradient]:
        """What the oracle allows for the gradients of a forward call's inputs."""
        params = {name: array for name, array in call.params.items() if self.key_bias or name != "key.bias"}
        arrays = {**call.arrays(), **params}
        problem = lower_call(replace(call, params=params))
        inputs = {name: arrays[name] for name in of}
        return ask_gradients(problem, dout.exact, inputs, call.dtype, self.claims.arithmetic)

    def session(self, handle: Any, cache: Any = None) -> Session:
        """A session of a module on an empty cache, or on one that another session has."""
        with blaming():
            open_: Any = getattr(self.implementation, "open")  # noqa: B009  # optional in the protocol
            session: Session = open_(handle) if cache is None else open_(handle, cache)
        return session


def leaves(handle: Any) -> dict[str, Any]:
    """The parameters that a PyTorch module computes with, by their own names: none of other handles."""
    with blaming():
        named: Any = getattr(handle, "named_parameters", dict)
        found: dict[str, Any] = dict(named())
    return found


def _zeros(dtype: str) -> dict[str, Array]:
    """Parameters that qkv_attention does not use, to be broadcast."""
    matrix, vector = np.zeros((1, 1), STORAGE[dtype]), np.zeros(1, STORAGE[dtype])
    return {name: matrix if name.endswith("weight") else vector for name in PARAMETERS}


def _spread(call: Call) -> tuple[Array, Array, Array]:
    """q, k and v as a carrier gives them: a NaN or infinity in a token reaches all that is projected from it."""
    q, k, v = call.q, call.k, call.v
    bad_q, bad_kv = _tainted(q), _tainted(k) | _tainted(v)
    if not (bad_q.any() or bad_kv.any()):
        return q, k, v
    if call.window != "cross":  # the new tokens carry q, k and v together; with T = S all are new
        past = k.shape[2] - q.shape[2]
        bad_q = bad_kv[:, past:] = bad_q | bad_kv[:, past:]

    def filled(array: Array, bad: Array) -> Array:
        return np.where(bad[:, None, :, None], np.array(np.nan, array.dtype), array)

    return filled(q, bad_q), filled(k, bad_kv), filled(v, bad_kv)


def _tainted(array: Array) -> Array:
    """(B, L): tokens with a number that is not finite."""
    return np.asarray(~np.isfinite(array.astype(np.float64)).all(axis=(1, 3)))
