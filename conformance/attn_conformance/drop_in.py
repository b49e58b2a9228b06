"""Drop-in classes: those with the interface of the seed, which need no adapter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from attn_conformance.borders import Border
from attn_conformance.endings import described
from attn_conformance.implementation import PARAMETERS
from attn_conformance.sessions import DictSession, HookSession
from attn_reference.claims import MODULE_FEATURES, Claims

TORCH_MODULE = ("torch.nn.modules.module", "Module")
"""Where torch.nn.Module says that it lives: recognised without importing torch."""


class LacksParameters(TypeError):
    """A class whose parameters lack names of CTOR-4: it needs an adapter."""


@dataclass(frozen=True)
class DropIn:
    """The Implementation of a class `cls(n_state, n_head, causal)`.

    hooks: whether its cache is managed by forward hooks on key and value, as Whisper's and ESPnet's decoders do it.
    """

    cls: Callable[..., Any]
    border: Border
    claims: Claims
    hooks: bool = False

    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Any]) -> Any:
        """An instance in evaluation mode; the dtype and device of its parameters are those of `params`."""
        options = {"causal": causal} if "causal" in self.claims.features else {}
        module = self.cls(n_state, n_head, **options)
        if self.border.name == "torch":
            sample = next(iter(params.values()))
            module = module.to(dtype=sample.dtype, device=sample.device).eval()
        try:
            self.load(module, params)
        except ValueError as error:  # which, from here, must not look like the constructor's refusal
            raise RuntimeError(f"load_state_dict raised {described(error)}") from error
        return module

    def fresh(self) -> DropIn:
        """Of a class that keeps a memory of its own and has `fresh()`, what that returns in its place."""
        fresh = getattr(self.cls, "fresh", None)
        return replace(self, cls=fresh()) if callable(fresh) else self

    def load(self, handle: Any, params: Mapping[str, Any]) -> None:
        """Load parameters by name; further ones keep their values, and a key.bias that nobody has is left out."""
        state = dict(handle.state_dict())
        lacking = [name for name in PARAMETERS if name not in state]
        if lacking:
            raise LacksParameters(f"its parameters lack {', '.join(lacking)}; it has {', '.join(state)}")
        handle.load_state_dict(state | {name: params[name] for name in params if name in state})

    def parameters(self, handle: Any) -> dict[str, Any]:
        """What state_dict() says."""
        return dict(handle.state_dict())

    def forward(self, handle: Any, x: Any, xa: Any = None, mask: Any = None) -> Any:
        """A call without a cache."""
        given = {"xa": xa, "mask": mask}
        return handle(x, **{name: value for name, value in given.items() if value is not None})

    def attention(self, handle: Any, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        """A call of qkv_attention."""
        return handle.qkv_attention(q, k, v) if mask is None else handle.qkv_attention(q, k, v, mask)

    def open(self, handle: Any, cache: Any = None) -> DictSession:
        """A session over a dict, in which hooks or the module itself keep the keys."""
        return (HookSession if self.hooks else DictSession)(handle, cache)


def stated_or_plain(cls: Any) -> Claims:
    """The claims of a class: its own word, or all that its signatures leave room for."""
    stated = getattr(cls, "claims", None)
    if isinstance(stated, Claims):
        return stated
    features = set(MODULE_FEATURES)
    forward = _parameters(getattr(cls, "forward", None) or cls.__call__)
    for parameter, needed in (
        ("xa", {"cross"}),
        ("mask", {"bool-mask", "float-mask", "float32-mask"}),
        ("kv_cache", {"cache", "shared-cache", "cache-edits"}),
    ):
        if parameter not in forward:
            features -= needed
    if "causal" not in _parameters(cls):
        features.discard("causal")
    if not callable(getattr(cls, "qkv_attention", None)):
        features.discard("qkv")
    if of_torch(cls):
        features.add("torch-module")
    return Claims(devices=("cpu", "cuda"), features=frozenset(features))


def of_torch(cls: type) -> bool:
    """Whether a class is a torch.nn.Module."""
    return any((base.__module__, base.__name__) == TORCH_MODULE for base in cls.__mro__)


def looks_like_one(cls: Any) -> bool:
    """Whether a class has the seed's constructor."""
    return isinstance(cls, type) and {"n_state", "n_head"} <= set(_parameters(cls))


def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()
