"""Attention on PyTorch's flash kernels, under the rules of the specification."""

from attn_flash.attention import attention
from attn_flash.cache import KVCache
from attn_flash.module import MultiHeadAttention

__all__ = ["KVCache", "MultiHeadAttention", "attention"]
