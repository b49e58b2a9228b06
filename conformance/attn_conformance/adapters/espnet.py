"""ESPnet's MultiHeadAttention, the class behind the seed, under ESPnet's own cache hooks. Read: espnet 202412.

Interface, parameter names and mask polarity are the specification's, so the class is a drop-in. forward only reads the
cache, and only for cross-attention; the hooks of `espnet2.speechlm.net_utils` fill a copy of the cache they are given.
"""

from __future__ import annotations

from typing import Any

from espnet2.speechlm.module.transformer import MultiHeadAttention
from espnet2.speechlm.net_utils import install_kv_cache_hook

from attn_conformance.borders import TorchBorder
from attn_conformance.drop_in import DropIn
from attn_conformance.sessions import DictSession
from attn_reference.claims import MODULE_FEATURES, Claims


class EspnetSession(DictSession):
    """A decoding with the hooks in place during a step only: they act in every call of their module."""

    def step(self, x: Any, xa: Any = None, mask: Any = None) -> Any:
        """One call; what the hooks stored stays stored if it raises, as it does for ESPnet's own callers."""
        cache, hooks = install_kv_cache_hook(self.module, self.cache)
        try:
            return self.module(x, xa, mask, cache)
        finally:
            self.cache.update(cache)
            for hook in hooks:
                hook.remove()


class Espnet(DropIn):
    """The drop-in class with ESPnet's sessions in place of the suite's."""

    def open(self, handle: Any, cache: Any = None) -> DictSession:
        """A session on an empty cache, or on another session's."""
        return EspnetSession(handle, cache)


implementation = Espnet(
    MultiHeadAttention,
    TorchBorder(),
    Claims(devices=("cpu", "cuda"), features=MODULE_FEATURES | {"torch-module"}),
)
