"""Targets in NumPy that do to the suite what implementations should not: tests/meta/test_hostile.py runs them."""

import ctypes
import functools
import os
import pathlib
import signal
import stat
import sys
import threading
import time
import unittest.mock

import numpy as np


def right(q, k, v, mask=None, is_causal=False):
    q64, k64, v64 = (x.astype(np.float64) for x in (q, k, v))
    scores = q64 @ k64.swapaxes(2, 3) / np.sqrt(q.shape[3])
    if is_causal:
        mask = np.tri(q.shape[2], k.shape[2], k.shape[2] - q.shape[2], dtype=bool)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(np.float64)
    top = scores.max(axis=3, keepdims=True, initial=np.finfo(np.float64).min)
    weights = np.exp(scores - top)
    return (weights @ v64 / np.maximum(weights.sum(axis=3, keepdims=True), 1e-300)).astype(q.dtype)


def where_masked(act):
    """A target that is right where no mask is given, so that it can be loaded, and else acts."""

    @functools.wraps(act)
    def attention(q, k, v, mask=None, is_causal=False):
        return right(q, k, v, mask, is_causal) if mask is None else act(q, k, v, mask)

    del attention.__wrapped__  # its signature is its own
    return attention


# --- those that cannot be loaded

text = "a string is no attention"


def of_two(q, k):
    return q


# --- those that end or hang


def note(name, what=""):
    """Tell the test, which has named the folder."""
    with (pathlib.Path(os.environ["HOSTILE_FOLDER"]) / name).open("a") as file:
        file.write(f"{what}\n")


@where_masked
def sleeps(*_):
    note("asleep", os.getpid())
    while True:
        time.sleep(1)


@where_masked
def sleeps_beside_a_child(*_):
    os.fork()
    note("asleep", os.getpid())
    while True:
        time.sleep(1)


@where_masked
def spins(*_):
    note("asleep", os.getpid())
    while True:
        pass


@where_masked
def stops(*_):
    os.kill(os.getpid(), signal.SIGSTOP)


@where_masked
def exits(*_):
    os._exit(0)


@where_masked
def leaves(*_):
    sys.exit(0)


@where_masked
def segfaults(*_):
    ctypes.string_at(0)


@where_masked
def divides(*_):
    os.kill(os.getpid(), signal.SIGFPE)


@where_masked
def interrupts(*_):
    raise KeyboardInterrupt


@where_masked
def interrupts_by_hand(*_):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise KeyboardInterrupt


class Odd(BaseException):
    pass


@where_masked
def raises_oddly(*_):
    raise Odd("as no exception should")


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("not to be read")


@where_masked
def raises_unreadably(*_):
    raise Unreadable


class Leaving(Exception):
    def __str__(self):
        sys.exit(0)


@where_masked
def raises_and_leaves(*_):
    raise Leaving


@where_masked
def raises_what_no_file_takes(*_):
    raise ValueError("\ud800 \x1b[2J")


@where_masked
def crashes_in_every_second_process(q, k, v, mask):
    note("processes", os.getpid())
    seen = list(dict.fromkeys((pathlib.Path(os.environ["HOSTILE_FOLDER"]) / "processes").read_text().split()))
    return right(q, k, v, mask) if seen.index(str(os.getpid())) % 2 else ctypes.string_at(0)


# --- those that use much


def prints(q, k, v, mask=None, is_causal=False):
    os.write(1, b"x" * 10_000_000)
    print("y" * 1_000_000, file=sys.stderr)  # noqa: T201
    return right(q, k, v, mask, is_causal) * 1.5


@where_masked
def prints_for_ever(*_):
    while True:
        os.write(1, b"x" * 100_000)


held = []


@where_masked
def hoards(*_):
    while True:
        held.append(np.ones(2**25, np.uint8))


def leaks(q, k, v, mask=None, is_causal=False):
    held.append(np.ones(2**25, np.uint8))
    return right(q, k, v, mask, is_causal)


# --- those that change the process


def changes_directory(q, k, v, mask=None, is_causal=False):
    os.chdir("/")
    return right(q, k, v, mask, is_causal)


def seeds(q, k, v, mask=None, is_causal=False):
    np.random.seed(0)  # noqa: NPY002
    return right(q, k, v, mask, is_causal)


def changes_errors(q, k, v, mask=None, is_causal=False):
    np.seterr(all="ignore")
    return right(q, k, v, mask, is_causal)


@where_masked
def closes_descriptors(q, k, v, mask):
    os.closerange(0, 1000)
    return right(q, k, v, mask)


@where_masked
def kills_the_parent(q, k, v, mask):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(5)
    return right(q, k, v, mask)


def scribble(data):
    """Write to every socket: one of them is the suite's."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, data)
        except OSError:  # the folder's own
            continue


@where_masked
def breaks_a_message_off(*_):
    scribble(b"\x00\x00\x10\x00")
    while True:
        time.sleep(1)


@where_masked
def writes_no_json(*_):
    scribble(b"\xff\n")
    return time.sleep(60)


@where_masked
def writes_json_of_its_own(*_):
    scribble(b'{"row": {"MASK-1": 5}}\n')
    return time.sleep(60)


@where_masked
def writes_a_case_of_its_own(*_):
    scribble(b'{"case": 5}\n')
    return time.sleep(60)


@where_masked
def writes_without_end(*_):
    while True:
        scribble(b"x" * 65536)


loaded_in = os.getpid()


@where_masked
def forks_and_returns_twice(q, k, v, mask):
    if os.getpid() == loaded_in:  # forks that forked would be a bomb, were they to go on judging
        os.fork()
    return right(q, k, v, mask)


@where_masked
def leaves_children(q, k, v, mask):
    if (child := os.fork()) == 0:
        while True:
            time.sleep(1)
    note("children", child)
    return right(q, k, v, mask)


def leaves_threads(q, k, v, mask=None, is_causal=False):
    threading.Thread(target=threading.Event().wait).start()
    return right(q, k, v, mask, is_causal)


# --- those that return something else, or something that changes


def returns_a_list(q, k, v, mask=None, is_causal=False):
    return right(q, k, v, mask, is_causal).tolist()


def returns_a_pair(q, k, v, mask=None, is_causal=False):
    return right(q, k, v, mask, is_causal), None


def returns_nothing(q, k, v, mask=None, is_causal=False):
    right(q, k, v, mask, is_causal)


def returns_its_input(q, k, v, mask=None, is_causal=False):
    return q


def returns_nan(q, k, v, mask=None, is_causal=False):
    return right(q, k, v, mask, is_causal) * np.nan


class Placeless(np.ndarray):
    @property
    def device(self):
        raise RuntimeError("nowhere")


def returns_what_is_nowhere(q, k, v, mask=None, is_causal=False):
    return right(q, k, v, mask, is_causal).view(Placeless)


returned = []


def writes_in_the_next_call(q, k, v, mask=None, is_causal=False):
    for earlier in returned:
        earlier[...] = 7
    returned[:] = [right(q, k, v, mask, is_causal)]
    return returned[0]


def writes_later(q, k, v, mask=None, is_causal=False):
    out = right(q, k, v, mask, is_causal)
    threading.Timer(0.02, out.fill, [7]).start()
    return out


def computes_later(q, k, v, mask=None, is_causal=False):
    out = np.zeros(q.shape[:3] + v.shape[3:], q.dtype)
    threading.Timer(0.02, lambda: np.copyto(out, right(q, k, v, mask, is_causal))).start()
    return out


def computes_in_a_thread(q, k, v, mask=None, is_causal=False):
    out = []
    thread = threading.Thread(target=lambda: out.append(right(q, k, v, mask, is_causal)))
    thread.start()
    thread.join()
    return out[0]


memory = {}


def remembers_addresses(q, k, v, mask=None, is_causal=False):
    arrays = (q, k, v) if mask is None else (q, k, v, mask)
    key = (*((x.ctypes.data, x.shape, x.dtype) for x in arrays), is_causal)
    if key not in memory:
        memory[key] = right(q, k, v, mask, is_causal)
    return memory[key].copy()


# --- those that copy


def copies(q, k, v, mask=None, is_causal=False):
    from attn_reference import attention

    return attention(q, k, v, mask, is_causal)


def copies_in_a_thread(q, k, v, mask=None, is_causal=False):
    out = []
    thread = threading.Thread(target=lambda: out.append(copies(q, k, v, mask, is_causal)))
    thread.start()
    thread.join()
    return out[0]


# --- those that lie about what they are


class Agreeable:
    """Has every attribute: itself."""

    def __call__(self, q, k, v, mask=None, is_causal=False):
        return right(q, k, v, mask, is_causal)

    def __getattr__(self, name):
        return self


class Touchy(Agreeable):
    def __getattr__(self, name):
        raise RuntimeError(f"{name} is nobody's business")


class Departing(Agreeable):
    def __getattr__(self, name):
        sys.exit(0)


class Meta(type):
    @property
    def __signature__(cls):
        raise RuntimeError("unsigned")

    def __instancecheck__(cls, instance):
        return True


class Secretive(metaclass=Meta):
    pass


agreeable, touchy, departing, mock = Agreeable(), Touchy(), Departing(), unittest.mock.MagicMock()
