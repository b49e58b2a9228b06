"""attn_flash under its growing cache: attn-conformance run examples/kv_cache.py:WithKVCache."""

from attn_flash import KVCache, MultiHeadAttention


class WithKVCache(MultiHeadAttention):
    """A module says with `new_cache` which mapping its sessions begin with, where that is not a dict."""

    new_cache = KVCache
