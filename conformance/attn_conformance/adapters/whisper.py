"""Whisper's MultiHeadAttention on both of its paths, under Whisper's own cache hooks. Read: openai-whisper 20250625.

No causal argument; results are pairs (out, scores or None). The only mask that Whisper makes is the floating triangle
of its text decoder; nothing says what a boolean one would mean, so floating masks are claimed and boolean ones are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from torch import Tensor
from whisper.model import (
    MultiHeadAttention,
    Whisper,
    disable_sdpa,
)

from attn_conformance.sessions import DictSession
from attn_reference.claims import MODULE_FEATURES, Claims

FEATURES = MODULE_FEATURES - {"bool-mask", "causal", "drop-in"}
MODEL = SimpleNamespace(n_text_ctx=448)  # of every released model: longer projections are those of the audio


class SdpaSession(DictSession):
    """A decoding on the default path, scaled_dot_product_attention; the hooks are in place during a step only."""

    path: Any = staticmethod(nullcontext)

    def step(self, x: Any, xa: Any = None, mask: Any = None) -> Any:
        """One call; what the hooks stored stays stored if it raises, as it does for Whisper's own callers."""
        model = SimpleNamespace(dims=MODEL, decoder=self.module)
        cache, hooks = Whisper.install_kv_cache_hooks(model, self.cache)
        try:
            with self.path():
                return self.module(x, xa, mask, cache)[0]
        finally:
            self.cache.update(cache)
            for hook in hooks:
                hook.remove()


class ManualSession(SdpaSession):
    """A decoding on the path that also returns the scores, which Whisper takes for word timestamps."""

    path = staticmethod(disable_sdpa)


class Attention:
    """The module on the path of a class of sessions."""

    border = "torch"

    def __init__(self, session: type[SdpaSession], claims: Claims) -> None:
        self.open = session
        self.claims = claims

    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Tensor]) -> Any:
        """The module; causal is never asked for, since it is not claimed."""
        module = MultiHeadAttention(n_state, n_head).to(params["query.weight"]).eval()
        self.load(module, params)
        return module

    def load(self, handle: Any, params: Mapping[str, Tensor]) -> None:
        """Other parameters; their names are Whisper's too."""
        handle.load_state_dict(params)

    def parameters(self, handle: Any) -> dict[str, Tensor]:
        """What state_dict() says."""
        return dict(handle.state_dict())

    def forward(self, handle: Any, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None) -> Any:
        """The first of the pair that the module returns."""
        with self.open.path():
            return handle(x, xa, mask)[0]

    def attention(self, handle: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Any:
        """The first of the pair that qkv_attention returns."""
        with self.open.path():
            return handle.qkv_attention(q, k, v, mask)[0]


sdpa = Attention(SdpaSession, Claims(devices=("cpu", "cuda"), features=FEATURES))
manual = Attention(
    ManualSession,
    # The softmax is done in float32, whatever the dtype of x: float64 is not what it offers.
    Claims(("float32", "float16", "bfloat16"), ("cpu", "cuda"), FEATURES, arithmetic="eager"),
)
