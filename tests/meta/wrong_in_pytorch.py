"""Modules that compute rightly and live wrongly in PyTorch: targets of test_hosts.py, each a lie of a line or two."""

import torch

from attn_flash import MultiHeadAttention


class Right(MultiHeadAttention):
    """The twin of all."""


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


class SlipsUnderInferenceMode(MultiHeadAttention):
    """A shortcut for inference_mode leaves the bias of out aside."""

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        y = super().forward(x, xa, mask, kv_cache)
        return y - self.out.bias.to(y.dtype) if torch.is_inference_mode_enabled() else y
