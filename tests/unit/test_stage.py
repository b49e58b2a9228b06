"""Scripts played on right and wrong modules: what each act demands, and what is told of the step that fails."""

import numpy as np
import pytest

from attn_conformance.borders import NumpyBorder
from attn_conformance.cases import ScriptCase, Step
from attn_conformance.conventions import SEED
from attn_conformance.drop_in import DropIn
from attn_conformance.judge import Failed, NotAsked
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.mutants.modules.plain import Plain
from attn_conformance.stage import Stage, picture
from attn_reference import Claims
from attn_reference.claims import MODULE_FEATURES


def subject_of(cls, **claims):
    record = Claims(features=frozenset(MODULE_FEATURES - {"gradients", "linear-memory"}), **claims)
    return ModuleSubject("a class", DropIn(cls, NumpyBorder(), record), SEED, NumpyBorder(), record)


def play(cls, *steps, **fields):
    case = ScriptCase(**({"batch": 2, "heads": 2, "head_size": 4, "keys": 3} | fields), steps=steps)
    return Stage(subject_of(cls), case).play()


def me(length=2, **fields):
    return Step("self", length=length, **fields)


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_right_module_plays_every_script(carried, dtype):
    fields = {"carried": carried, "dtype": dtype}
    assert play(Plain, me(3), me(1), me(2, masked=True), **fields)
    assert play(Plain, me(), me(3), causal=True, **fields)
    assert play(Plain, Step("cross"), Step("disturb"), Step("cross", length=4), Step("misfit"), **fields)
    assert play(Plain, Step("cross"), Step("cross", length=2, masked=True), **fields)
    assert play(Plain, me(), me(module=1), me(cache=1), me(module=1), me(cache=1), copied=True, **fields)
    assert play(Plain, me(), Step("reorder", order=(1, 1)), Step("truncate", length=1), me(), **fields)
    assert play(Plain, me(), Step("fork"), me(), me(cache=1), me(cache=0), **fields)
    assert play(Plain, me(), Step("self", length=0), me(), **fields)
    assert play(Plain, Step("plain", length=3), me(), **fields)


def test_what_was_cached_has_to_matter():
    assert not play(Plain, me())
    assert play(Plain, me(), me())


def test_head_sizes_that_are_served_are_kept():
    subject = subject_of(Plain, head_sizes=(16, 32))
    assert subject.carrying(2, 4, 3).width == 16
    assert subject.carrying(2, 8, 3).width == 32
    assert subject.carrying(2, 20, 3).width == 60


class Shifted(Plain):
    """One number too large, once something is cached."""

    def join(self, old, new):
        k, v = super().join(old, new)
        return k, v + 1


class ForgetsTime(Plain):
    """A step on a warm cache gives one row."""

    def __call__(self, x, xa=None, mask=None, kv_cache=None):
        warm = bool(kv_cache)
        y = super().__call__(x, xa, mask, kv_cache)
        return y[:, :1] if warm else y


class Broadcasts(Plain):
    """A batch that does not fit the entry is cut to it."""

    def check_forward(self, x, xa, mask, kv_cache):
        return

    def keys_and_values(self, x, xa, kv_cache):
        entry = self.stored(kv_cache)
        if entry is None:
            return super().keys_and_values(x, xa, kv_cache)
        return tuple(np.concatenate([part, part[:1]]) for part in entry)


class StoresFirst(Plain):
    """Keys are stored before the call is checked."""

    def __call__(self, x, xa=None, mask=None, kv_cache=None):
        if kv_cache is not None and x.ndim == 3 and x.shape[2] == self.n_state:
            kv_cache["seen"] = (*kv_cache.get("seen", ()), x.copy())
        return super().__call__(x, xa, mask, kv_cache)


class RaisesOnEmpty(Plain):
    """Refuses empty chunks."""

    def check_forward(self, x, xa, mask, kv_cache):
        if x.shape[1] == 0:
            raise ValueError("nothing to attend with")
        super().check_forward(x, xa, mask, kv_cache)


class Accepts(Plain):
    """Takes a wide x, and looks at what fits."""

    def __call__(self, x, xa=None, mask=None, kv_cache=None):
        y = super().__call__(np.ascontiguousarray(x[..., : self.n_state]), xa, None, kv_cache)
        return np.concatenate([y, y[..., : x.shape[2] - y.shape[2]]], axis=2)


class Narrows(Accepts):
    """Takes a wide x, and gives a result that is not wide."""

    def __call__(self, x, xa=None, mask=None, kv_cache=None):
        return super().__call__(x, xa, mask, kv_cache)[..., : self.n_state]


def test_an_empty_chunk_may_be_refused():
    assert play(RaisesOnEmpty, me(), Step("self", length=0), me())


@pytest.mark.parametrize(
    ("cls", "steps", "message"),
    [
        (Shifted, (me(), me()), r"step 2 \(self 2\): differs from the reference: \d+ of"),
        (
            ForgetsTime,
            (me(), me()),
            r"step 2 \(self 2\): returned shape \(2, 1, 24\), expected .* \(2, 2, 24\)",
        ),
        (RaisesOnEmpty, (me(), Step("cross", length=0)), "raised ValueError: nothing to attend with"),
        (Broadcasts, (Step("cross"), Step("misfit")), r"a batch of 3 on an entry of 2 gave numbers of shape"),
        (
            StoresFirst,
            (me(), Step("rejected", fault="mask with a key too many")),
            r"step 2 \(rejected \(mask with a key too many\)\): the rejected call changed the cache",
        ),
    ],
)
def test_the_failing_step_is_named_with_what_was_wrong(cls, steps, message):
    with pytest.raises(Failed, match=message):
        play(cls, *steps)


@pytest.mark.parametrize("cls", [Accepts, Narrows])
def test_a_call_that_is_accepted_is_nobodys_rejection(cls):
    with pytest.raises(NotAsked, match="not rejected"):
        play(cls, me(), Step("rejected", fault="x too wide"), me())


def test_rejected_calls_of_every_kind_leave_a_right_module_as_it_was():
    for fault in ("mask with a key too many", "mask of rank 1", "x too wide", "x of rank 2"):
        assert play(Plain, me(), Step("rejected", fault=fault, length=2), me())
    for fault in ("mask", "mask of rank 2", "float mask"):
        assert play(Plain, me(), Step("rejected", fault=fault, length=2), me(1), causal=True)
    assert play(Plain, Step("cross"), Step("rejected", fault="xa too wide"), Step("cross"))


def test_pictures_show_arrays_wherever_they_are_and_the_kind_of_everything_else():
    subject = subject_of(Plain)
    one = {"a": np.ones(2), "b": [np.zeros(1), None], "c": object()}
    assert picture(subject, one) == picture(subject, one | {"a": np.ones(2)})
    assert picture(subject, one) != picture(subject, one | {"a": np.zeros(2)})
    assert picture(subject, one)[2][1] == "object"
    assert picture(subject, None) is None


def test_acts_tell_themselves():
    steps = (
        *(me(masked=True), Step("cross", length=3, module=1), Step("plain"), Step("misfit"), Step("disturb")),
        *(Step("reorder", order=(1, 0)), Step("truncate", length=4, cache=1), Step("fork")),
        Step("rejected", fault="mask"),
    )
    told = ScriptCase(batch=2, heads=1, head_size=4, causal=True, keys=5, copied=True, steps=steps).describe()
    assert told == (
        "B=2 H=1 D=4 float32 xa of 5, causal, module 1 a deepcopy, steps: self 2 masked | cross 3 by module 1 | "
        "without cache 1 | another batch size | overwrite the last input | reorder [1, 0] | keep 4 on cache 1 | "
        "fork | rejected (mask), seed 0"
    )
