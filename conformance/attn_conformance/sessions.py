"""Sessions of classes with the interface of the seed: the cache is a plain dict, or forward hooks manage it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any


class DictSession:
    """The module itself appends to the mapping, under its own projections or however it likes.

    The mapping is a dict, unless the module has a `new_cache()` that makes another.
    """

    def __init__(self, module: Any, cache: Any = None) -> None:
        self.module = module
        self.cache: Any = getattr(module, "new_cache", dict)() if cache is None else cache

    def step(self, x: Any, xa: Any = None, mask: Any = None) -> Any:
        """One call of the module."""
        given = {"xa": xa, "mask": mask}
        return self.module(x, kv_cache=self.cache, **{k: v for k, v in given.items() if v is not None})

    @property
    def entries(self) -> list[Any]:
        """Those of the module's two projections that the mapping has an entry for."""
        return [p for p in (self.module.key, self.module.value) if p in self.cache]

    @property
    def length(self) -> int | None:
        """Keys held, None where the mapping does not tell."""
        return int(self.cache[self.entries[0]].shape[1]) if self.entries else None

    def reorder(self, order: Sequence[int]) -> None:
        """Put batch elements in another order, repetitions allowed, as a beam search does."""
        for projection in self.entries:
            self.cache[projection] = self.cache[projection][list(order)]

    def truncate(self, length: int) -> None:
        """Keep the first keys."""
        for projection in self.entries:
            self.cache[projection] = self.cache[projection][:, :length]

    def fork(self) -> DictSession:
        """A session on a shallow copy of the mapping."""
        return type(self)(self.module, copy.copy(self.cache))


class HookSession(DictSession):
    """Whisper's way: forward hooks on key and value append what these return, and return the whole.

    The hooks are there during a step only, so that sessions on one module do not meet.
    """

    def step(self, x: Any, xa: Any = None, mask: Any = None) -> Any:
        """One call of the module under hooks."""
        import torch

        def append(projection: Any, _inputs: Any, output: Any) -> Any:
            if projection in self.cache:
                output = torch.cat([self.cache[projection], output], dim=1).detach()
            self.cache[projection] = output
            return output

        hooks = [p.register_forward_hook(append) for p in (self.module.key, self.module.value)]
        try:
            return super().step(x, xa, mask)
        finally:
            for hook in hooks:
                hook.remove()
