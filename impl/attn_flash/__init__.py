"""Attention on PyTorch's flash kernels, under the rules of the specification."""

from attn_flash.attention import attention

__all__ = ["attention"]
