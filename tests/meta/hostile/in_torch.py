"""Targets in PyTorch that do to the suite what implementations should not: tests/meta/test_hostile.py runs them."""

import ctypes

import torch


def right(q, k, v, mask=None, is_causal=False):
    scores = q.double() @ k.double().mT / q.shape[-1] ** 0.5
    if is_causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    if mask is not None:
        boolean = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -torch.inf) if boolean else scores + mask.double()
    return (scores.softmax(-1).nan_to_num() @ v.double()).to(q.dtype)


def changes_default_dtype(q, k, v, mask=None, is_causal=False):
    torch.set_default_dtype(torch.float64)
    return right(q, k, v, mask, is_causal)


def changes_threads(q, k, v, mask=None, is_causal=False):
    torch.set_num_threads(1)
    return right(q, k, v, mask, is_causal)


def seeds(q, k, v, mask=None, is_causal=False):
    torch.manual_seed(0)
    return right(q, k, v, mask, is_causal)


held = []


def hoards(q, k, v, mask=None, is_causal=False):
    while mask is not None:
        held.append(torch.ones(2**23))
    return right(q, k, v, mask, is_causal)


class Lazy(torch.Tensor):
    """A promise of a tensor, kept when somebody looks."""

    @staticmethod
    def __new__(cls, compute, shape, dtype):
        promise = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype)
        promise.compute = compute
        return promise

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def kept(x):
            return x.compute() if isinstance(x, Lazy) else x

        return func(*map(kept, args), **{name: kept(x) for name, x in (kwargs or {}).items()})


def promises(q, k, v, mask=None, is_causal=False):
    return Lazy(lambda: right(q, k, v, mask, is_causal), q.shape[:3] + v.shape[3:], q.dtype)


class Empty(torch.nn.Module):
    """The constructor of the interface and nothing else."""

    def __init__(self, n_state, n_head, causal=False):
        super().__init__()

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        return x


class Plain(torch.nn.Module):
    """The interface, right but for its out projection, so that nothing has to be known of caches."""

    def __init__(self, n_state, n_head, causal=False):
        super().__init__()
        self.n_head, self.causal = n_head, causal
        self.query, self.value, self.out = (torch.nn.Linear(n_state, n_state) for _ in range(3))
        self.key = torch.nn.Linear(n_state, n_state, bias=False)

    def forward(self, x, xa=None, mask=None):
        src = x if xa is None else xa
        q, k, v = (
            y.unflatten(2, (self.n_head, -1)).transpose(1, 2)
            for y in (self.query(x), self.key(src), self.value(src))
        )
        return self.out(right(q, k, v, mask, self.causal and xa is None).transpose(1, 2).flatten(2))


class Segfaulting(Plain):
    def forward(self, x, xa=None, mask=None):
        return super().forward(x, xa, mask) if mask is None else ctypes.string_at(0)


class Answering(Plain):
    """Has every attribute: a number."""

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return 7


class ReturningItsInput(Plain):
    def forward(self, x, xa=None, mask=None):
        return x


class ReturningAPair(Plain):
    def forward(self, x, xa=None, mask=None):
        return super().forward(x, xa, mask), None


class SeedingItself(Plain):
    def __init__(self, n_state, n_head, causal=False):
        torch.manual_seed(0)
        super().__init__(n_state, n_head, causal)

    def forward(self, x, xa=None, mask=None):
        torch.manual_seed(0)
        return super().forward(x, xa, mask)
