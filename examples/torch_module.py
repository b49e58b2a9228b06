"""A module in plain PyTorch, every step written out: attn-conformance run examples/torch_module.py:Attention."""

import torch
from torch import nn
from torch.nn.functional import linear

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Attention(nn.Module):
    """The interface of the specification's section 0. It holds all scores at once, so MEM-1, a should, fails."""

    def __init__(self, n_state, n_head, causal=False):
        super().__init__()
        if min(n_state, n_head) < 1 or n_state % n_head:
            raise ValueError(f"n_head must divide n_state, both at least 1, got {n_head} and {n_state}")
        self.n_head, self.causal = n_head, causal
        self.query, self.value, self.out = (nn.Linear(n_state, n_state) for _ in range(3))
        self.key = nn.Linear(n_state, n_state, bias=False)

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        """What x (B, T, n_state) gets from itself or from xa (B, S, n_state), and from what the cache holds."""
        source = x if xa is None else xa
        check("x", x, (None, None, self.query.in_features))
        check("xa", source, (x.shape[0], None, self.query.in_features), x.dtype)
        old = None
        if kv_cache and self.key in kv_cache:
            old = kv_cache[self.key], kv_cache[self.value]
            check("kv_cache", old[0], (x.shape[0], None, self.query.in_features), x.dtype)
        S = source.shape[1] if old is None else old[0].shape[1] + (x.shape[1] if xa is None else 0)
        self.check_mask(mask, x, S)

        if old is not None and xa is not None:
            k, v = old
        else:
            k, v = project(self.key, source), project(self.value, source)
            if old is not None:
                k, v = torch.cat([old[0], k], 1), torch.cat([old[1], v], 1)
        if kv_cache is not None:
            kv_cache[self.key], kv_cache[self.value] = k.detach(), v.detach()
        return project(self.out, self.attend(project(self.query, x), k, v, mask))

    def qkv_attention(self, q, k, v, mask=None):
        """What lies between the projections: q (B, T, n_state), k and v (B, S, n_state) to (B, T, n_state)."""
        check("q", q, (None, None, self.query.in_features))
        check("k", k, (q.shape[0], None, self.query.in_features), q.dtype)
        check("v", v, k.shape, q.dtype)
        self.check_mask(mask, q, k.shape[1])
        return self.attend(q, k, v, mask)

    def attend(self, q, k, v, mask):
        """As `qkv_attention`, in float32 at least."""
        dtype, wide = q.dtype, torch.float64 if q.dtype == torch.float64 else torch.float32
        q, k, v = (x.unflatten(2, (self.n_head, -1)).transpose(1, 2).to(wide) for x in (q, k, v))
        T, S = q.shape[2], k.shape[2]
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        if self.causal:  # the last query sees every key
            mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        empty = (scores == -torch.inf).all(3, keepdim=True)
        weights = torch.softmax(scores.masked_fill(empty, 0), 3).masked_fill(empty, 0)
        return (weights @ v).transpose(1, 2).flatten(2).to(dtype)

    def check_mask(self, mask, x, S):
        """ValueError unless the mask is one for the queries x and S keys."""
        if mask is None:
            return
        if self.causal:
            raise ValueError("mask must be None where causal is True")
        if mask.dtype not in (torch.bool, torch.float32, x.dtype):
            raise ValueError(f"mask must be boolean, float32 or {x.dtype}, got {mask.dtype}")
        full = (x.shape[0], self.n_head, x.shape[1], S)
        fits = mask.ndim == 4 and all(n in (1, m) for n, m in zip(mask.shape[:3], full, strict=False))
        if mask.shape != full[2:] and not (fits and mask.shape[3] == S):
            raise ValueError(f"mask must have shape {full} or {full[2:]}, got shape {tuple(mask.shape)}")


def project(layer, x):
    """What a linear layer makes of x, in x's dtype whatever its own."""
    return linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


def check(name, x, shape, dtype=None):
    """TypeError for what is no tensor, ValueError unless it has the shape, where None is any size, and the dtype."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if x.ndim != len(shape) or any(m not in (None, n) for n, m in zip(x.shape, shape, strict=False)):
        raise ValueError(f"{name} must have shape {shape}, None being any size, got shape {tuple(x.shape)}")
    if x.dtype not in DTYPES or dtype not in (None, x.dtype):
        raise ValueError(f"{name} must have dtype {dtype or DTYPES}, got {x.dtype}")
