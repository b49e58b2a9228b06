"""Modules that compute rightly and live wrongly in PyTorch: targets of test_hosts.py, each a lie of a line or two."""

import torch
from torch import nn
from torch.nn import functional

from attn_flash import MultiHeadAttention


class Right(MultiHeadAttention):
    """The twin of all."""


class ErrorOfAnotherKindWithoutSdpa(MultiHeadAttention):
    """Without scaled_dot_product_attention construction raises AttributeError."""

    def __init__(self, n_state, n_head, causal=False):
        self_attention = functional.scaled_dot_product_attention
        assert self_attention is not None
        super().__init__(n_state, n_head, causal)


class NotPicklable(MultiHeadAttention):
    """Holds a lambda, which pickle refuses."""

    def __init__(self, n_state, n_head, causal=False):
        super().__init__(n_state, n_head, causal)
        self.scale = lambda: 1.0


class OldWeightsAfterDeepcopy(MultiHeadAttention):
    """A list holds the projections too, and forward goes through it: a copy keeps calling the original."""

    def __init__(self, n_state, n_head, causal=False):
        super().__init__(n_state, n_head, causal)
        self.parts = _Kept(self.out)

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        out, self.out = self.out, self.parts.out
        try:
            return super().forward(x, xa, mask, kv_cache)
        finally:
            self.out = out


class _Kept:
    def __init__(self, out):
        self.out = out

    def __deepcopy__(self, memo):
        return _Kept(self.out)


class BiasStaysInFloat32(MultiHeadAttention):
    """After .half() or .to() a constant in float32 is still added: the result is float32."""

    def __init__(self, n_state, n_head, causal=False):
        super().__init__(n_state, n_head, causal)
        self.nothing = torch.zeros(n_state, dtype=torch.float32)

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        y = super().forward(x, xa, mask, kv_cache)
        return y + self.nothing if y.dtype != torch.float64 else (y.float() + self.nothing).double()


class LooksAtItsValues(MultiHeadAttention):
    """A branch on the data: torch.compile cannot take it in one graph."""

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        if x.numel() and x.sum().item() == 12345.0:
            return x
        return super().forward(x, xa, mask, kv_cache)


class StoresBesideHooks(MultiHeadAttention):
    """What hooks have stored is stored once more, before the new keys of the next call."""

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        before = None if kv_cache is None else kv_cache.get(self.key)
        y = super().forward(x, xa, mask, kv_cache)
        if kv_cache is not None and xa is None and self.key._forward_hooks and before is not None:
            for projection in (self.key, self.value):
                entry = kv_cache[projection]
                kv_cache[projection] = torch.cat([entry, entry[:, -x.shape[1] :]], dim=1)
        return y


class AutocastLeavesFloat16(MultiHeadAttention):
    """Under autocast the result is float16, whatever autocast was told."""

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        y = super().forward(x, xa, mask, kv_cache)
        return y.half() if torch.is_autocast_enabled("cpu") else y


class SlipsUnderInferenceMode(MultiHeadAttention):
    """A shortcut for inference_mode leaves the bias of out aside."""

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        y = super().forward(x, xa, mask, kv_cache)
        return y - self.out.bias.to(y.dtype) if torch.is_inference_mode_enabled() else y


class DropsInTraining(MultiHeadAttention):
    """In training mode a tenth of the results is zero."""

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        return nn.functional.dropout(super().forward(x, xa, mask, kv_cache), 0.1, self.training)
