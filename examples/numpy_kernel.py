"""Attention in ten lines of NumPy. It conforms: attn-conformance run examples/numpy_kernel.py:attention."""

import numpy as np


def attention(q, k, v, mask=None, is_causal=False):
    """softmax(q k^T / sqrt(D) + mask) v: q is (B, H, T, D), k and v are (B, H, S, D)."""
    q64, k64, v64 = (x.astype(np.float64) for x in (q, k, v))
    scores = q64 @ k64.swapaxes(2, 3) / np.sqrt(q.shape[3])
    if is_causal:  # the last query sees every key
        mask = np.tri(q.shape[2], k.shape[2], k.shape[2] - q.shape[2], dtype=bool)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(np.float64)
    top = scores.max(axis=3, keepdims=True, initial=np.finfo(np.float64).min)
    weights = np.exp(scores - top)  # all of them 0 where no key is visible
    return (weights @ v64 / np.maximum(weights.sum(axis=3, keepdims=True), 1e-300)).astype(q.dtype)
