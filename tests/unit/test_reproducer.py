"""Reproducers: scripts are exact, short and proved, or they are not shown."""

import os
import subprocess
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from attn_conformance.cases import KernelCase, ScriptCase, Step, layouts
from attn_conformance.exploration import explore
from attn_conformance.judge import Failed
from attn_conformance.loading import load
from attn_conformance.process_state import process_state
from attn_conformance.registry import checks
from attn_conformance.reproducer import execute_in_subprocess, reproducer
from attn_conformance.reproducer.literals import expression
from attn_conformance.reproducer.proof import MISHAP, proved
from attn_conformance.reproducer.recording import recording
from attn_conformance.reproducer.settings import SETTINGS
from attn_conformance.reproducer.simpler import VARIANTS, simpler
from attn_conformance.reproducer.views import ENLARGED, arranged, layout_of, viewed
from attn_conformance.runner import run
from attn_conformance.targets import Narrowing, subject

# --- literals and views

RNG = np.random.default_rng(0)
ARRAYS = [
    RNG.standard_normal((2, 3)),
    RNG.standard_normal((2, 3, 4)).astype(np.float32),
    RNG.standard_normal((2, 2)).astype(np.float16),
    RNG.standard_normal((2, 3)).astype(ml_dtypes.bfloat16),
    RNG.standard_normal((40, 30)).astype(np.float32),
    np.array([[0.0, -0.0], [np.nan, -np.inf]], np.float32),
    np.zeros((0, 3)),
    np.full((2, 2), 1 / 3),
    np.eye(5, dtype=np.float32)[[3, 1, 0, 2, 4]],
    np.roll(np.eye(5, dtype=np.float16), 2, axis=1),
    np.eye(4, 3)[[0, 3, 1]],
    np.tri(3, 5, 2, dtype=bool),
    np.broadcast_to(np.arange(40) < 7, (2, 1, 3, 40)),
    RNG.random((2, 1, 3, 5)) < 0.5,
    np.ones((2, 3), np.int32),
    *(simpler([("q", RNG.standard_normal((2, 50)))], variant)[0] for variant in VARIANTS),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.name}{list(a.shape)}")
def test_an_expression_gives_the_array_bit_for_bit(array):
    import base64
    import zlib

    names = {"np": np, "ml_dtypes": ml_dtypes, "base64": base64, "zlib": zlib}
    made = eval(expression(np.ascontiguousarray(array)), names)
    assert (made.dtype, made.shape, made.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert made.flags.writeable


def test_expressions_are_as_short_as_a_person_would_write_them():
    assert expression(np.array([[0.1, -2]], np.float32)) == "np.array([[0.1, -2]], np.float32)"
    assert expression(np.ones((2, 2), bool)) == "np.ones((2, 2), bool)"
    mask = np.broadcast_to(np.arange(40) < 7, (2, 40))
    assert expression(np.ascontiguousarray(mask)) == "(np.arange(40) < 7).reshape(1, 40).repeat(2, axis=0)"


@pytest.mark.parametrize("layout", [*layouts.LAYOUTS, ENLARGED])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)])
def test_a_view_is_recognised_and_spelled(layout, shape):
    x = RNG.standard_normal(shape).astype(np.float32)
    if layout == "expanded":
        x[:] = x[:1]
    native = arranged(x, layout)
    assert layout_of(native, x) == layout
    spelled = eval(viewed("x", layout, x), {"np": np, "x": x})
    assert layout_of(spelled, x) == layout
    assert np.array_equal(spelled, x)


def test_simpler_arrays_stay_equal_where_they_were():
    x = RNG.standard_normal((2, 8)).astype(np.float32)
    for variant in VARIANTS:
        first, second, other = simpler([("x", x), ("xa", x.copy()), ("q", x + 1)], variant)
        assert np.array_equal(first, second)
        assert not np.array_equal(first, other)
        assert first.dtype == x.dtype


# --- proof


def executing(*statuses):
    """An execute that gives these exit statuses in turn, and what it was asked."""
    asked = []
    left = list(statuses)

    def execute(text, argv, seconds):
        asked.append((text, tuple(argv)))
        return left.pop(0)

    return execute, asked


@pytest.mark.parametrize(
    ("statuses", "deadly", "verdict"),
    [
        ((1, 1, 0), None, True),
        ((0,), None, False),  # passes on the target
        ((1, 0), None, False),  # not twice
        ((1, 1, 1), None, False),  # fails on the reference too
        ((MISHAP,), None, False),  # an exception is no verdict
        ((-8,), None, False),
        ((-8, -8, 0), "crash", True),
        ((-8, -8, -8), "crash", False),
        ((-9,), "crash", False),  # ran out of time
        ((1, 0), "hang", True),
    ],
)
def test_a_script_is_proved_by_the_target_twice_and_the_reference(statuses, deadly, verdict):
    execute, asked = executing(*statuses)
    assert proved("x = 1\n", execute, deadly=deadly) is verdict
    assert len(asked) == len(statuses)
    assert all("x = 1" in text for text, _ in asked)
    if verdict:
        assert [argv for _, argv in asked].count(("reference",)) == 1


def test_an_exception_is_told_from_a_verdict():
    statuses = []

    def execute(text, argv, seconds):
        statuses.append(execute_in_subprocess(text, argv, seconds))
        return statuses[-1]

    verdict = "import sys\ndef f():\n    if not sys.argv[1:]:\n        sys.exit('wrong')\nf()\n"
    assert proved(verdict, execute)
    assert not proved("1 / 0\n", execute)
    assert statuses == [1, 1, 0, MISHAP]
    assert execute_in_subprocess("import sys; sys.exit(len(sys.argv))", ["reference"]) == 2
    assert execute_in_subprocess("import os; os.abort()", []) == -6
    assert execute_in_subprocess("import time; time.sleep(9)", [], 0.2) == -9


# --- whole scripts


def failing(found, requirement):
    """The first check of a requirement that fails on a subject, with its smallest case and its failure."""
    for check in checks()[requirement]:
        if found.kind in check.kinds and not check.lacks(found.scope):
            tally = explore(check, found, examples=40, seed_value=0)
            if tally.last is not None:
                return check, found, *tally.last
    raise AssertionError(f"{requirement} does not fail")


def shown(target, requirement, execute=execute_in_subprocess):
    """The proved script of a failure, which is fit to be shown."""
    found, _ = subject(target)
    made = reproducer(*failing(found, requirement), execute)
    assert made.reason is None, made.reason
    assert made.script.startswith(f'"""{requirement}: ')
    assert made.script.count("\n") < 40
    assert max(map(len, made.script.splitlines())) <= 120
    return made.script


@pytest.mark.parametrize(
    ("mutant", "requirement", "says"),
    [
        ("nan-when-first-tile-is-hidden", "MASK-1", "if not abs(got "),
        ("nan-becomes-zero", "NUM-4", "np.isnan("),
        ("causal-drops-the-mask", "CAUSAL-5", "the call was accepted; expected ValueError"),
        ("strides-ignored", "PURE-5", ".copy().swapaxes("),
        ("keys-scaled-and-scaled-back", "PURE-1", "k was changed in place"),
        ("error-that-names-nothing", "ERR-2", "the message does not name"),
        ("chunk-placed-at-the-start", "CACHE-2", "kv_cache=cache)\n"),
        ("cache-grown-before-the-mask-is-checked", "ERR-3", "the rejected call changed the cache"),
        ("packed-projections-in-another-order", "EQ-1", "module.load_state_dict(weights)"),
    ],
)
def test_mutants_of_every_kind_are_shown(mutant, requirement, says):
    assert says in shown(f"mutant:{mutant}", requirement)


@pytest.mark.parametrize(
    ("mutant", "requirement", "reason"),
    [
        ("two-copies-of-the-scores-in-float64", "MEM-1", "memory"),
        ("xa-projected-and-thrown-away", "CACHE-8", "no call by itself"),
    ],
)
def test_what_no_script_can_show_has_a_reason(mutant, requirement, reason):
    found, _ = subject(f"mutant:{mutant}")
    check = checks()[requirement][0]
    case = ScriptCase(batch=2, head_size=4, keys=2, steps=(Step("cross"), Step("cross")))
    made = reproducer(check, found, case, Failed("a failure"), executing()[0])
    assert made.script is None
    assert reason in made.reason


def test_nothing_unproved_is_shown():
    found, _ = subject("mutant:nan-becomes-zero")
    execute, asked = executing(*[0] * 50)
    made = reproducer(*failing(found, "NUM-4"), execute)
    assert made.script is None
    assert "no script that was tried" in made.reason
    assert asked


def test_a_twin_does_not_fail_again():
    found, _ = subject("twin:nan-becomes-zero")
    case = KernelCase(2, 2, 2, 2, 2, 4, 4, fault="nan-q")
    made = reproducer(checks()["NUM-4"][0], found, case, Failed("once"), executing()[0])
    assert made.reason == "played again, the case did not fail"


def test_recording_hands_on_what_it_is_given():
    taken = []

    def attention(q, k, v, mask=None, is_causal=False):
        taken.append((q, k, v))
        return q

    found, _ = subject("mutant:nan-becomes-zero")
    noted, log = recording(replace(found, function=attention))
    q = np.zeros((1, 1, 2, 3))
    assert noted.function(q, q, q, is_causal=True) is q
    assert taken[0][0] is q
    assert [event.act for event in log.events] == ["call"]
    assert not hasattr(noted.function, "fresh")


WRONG = """
import os
import time

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def rounded(q, k, v, mask=None, is_causal=False):
    q = q.to(torch.float16).to(q.dtype) if q.dtype == torch.bfloat16 else q
    if is_causal or mask is not None:
        raise ValueError
    return scaled_dot_product_attention(q, k, v) + (0.25 if q.dtype == torch.bfloat16 else 0)


def ends(q, k, v, mask=None, is_causal=False):
    os.abort()


def never_ends(q, k, v, mask=None, is_causal=False):
    time.sleep(1000)


class Hooked(nn.Module):
    def __init__(self, n_state, n_head):
        super().__init__()
        self.n_head = n_head
        self.query, self.value, self.out = (nn.Linear(n_state, n_state) for _ in range(3))
        self.key = nn.Linear(n_state, n_state, bias=False)

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        q, k, v = self.query(x), self.key(x), self.value(x)  # of the newest token, the oldest key is lost
        k, v = (a[:, 1:] if a.shape[1] > x.shape[1] else a for a in (k, v))
        B, T, n_state = q.shape
        q, k, v = (a.view(B, -1, self.n_head, n_state // self.n_head).transpose(1, 2) for a in (q, k, v))
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, n_state))
"""


@pytest.fixture
def wrong(tmp_path, monkeypatch):
    """The folder of a file with wrong implementations, which is the working directory."""
    (tmp_path / "my_attention.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_attention", raising=False)
    return "my_attention.py"


def test_a_function_in_a_file_needs_nothing_of_the_suite(wrong):
    narrowing = Narrowing(dtypes=("bfloat16",), drop=("bool-mask", "float-mask", "float32-mask", "causal"))
    found, _ = subject(f"{wrong}:rounded", narrowing)
    made = reproducer(*failing(found, "EQ-3"), execute_in_subprocess)
    assert "from my_attention import rounded as attention" in made.script
    assert "attn_conformance" not in made.script
    assert "torch.bfloat16" in made.script


def test_a_script_runs_in_any_folder_and_an_import_that_fails_is_no_verdict(wrong, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / wrong).rename(tmp_path / "src" / wrong)
    sys.path.insert(0, str(tmp_path / "src"))
    for target in ("my_attention:rounded", f"src/{wrong}:rounded"):
        sys.modules.pop("my_attention", None)
        script = tmp_path / "elsewhere" / "script.py"
        script.parent.mkdir(exist_ok=True)
        script.write_text(shown(target, "EQ-3"))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

        def status(script=script, environment=environment):
            command = [sys.executable, script]
            return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)

        done = status()
        assert (done.returncode, done.stderr[:6]) == (1, "EQ-3: ")
        script.write_text(script.read_text().replace(str(tmp_path), "/nowhere"))
        done = status()
        assert (done.returncode, done.stdout) == (2, "no verdict\n")
        assert done.stderr.endswith("ModuleNotFoundError: No module named 'my_attention'\n")


def test_a_class_whose_cache_hooks_fill(wrong):
    script = shown(f"{wrong}:Hooked", "CACHE-3")
    assert "register_forward_hook" in script
    assert "import attn_conformance" not in script
    assert "from attn_conformance" not in script


FLASH = """
import numpy as np


def flash(q, k, v, causal=False, softmax_scale=None):
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    q64, k64, v64 = (x.astype(np.float64).swapaxes(1, 2) for x in (q, k, v))
    k64, v64 = (x.repeat(q64.shape[1] // x.shape[1], axis=1) for x in (k64, v64))
    s = scale * q64 @ k64.swapaxes(2, 3)
    if causal:  # from the top left
        s = np.where(np.tri(*s.shape[2:], dtype=bool), s, -np.inf)
    w = np.exp(s - s.max(-1, keepdims=True))
    return (w / w.sum(-1, keepdims=True) @ v64).swapaxes(1, 2).astype(q.dtype)
"""


def test_the_reference_takes_the_place_of_other_conventions(tmp_path, monkeypatch):
    (tmp_path / "flash_like.py").write_text(FLASH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    script = shown("flash_like.py:flash", "CAUSAL-3")
    assert "def attention(q, k, v, causal=False):" in script  # the reference, behind other names and axes
    assert "attention(q, k, v, causal=True)" in script


@pytest.mark.parametrize(
    ("name", "deadly", "statuses"),
    [("ends", "crash", (-6, -6, 0)), ("never_ends", "hang", (1, 0))],
)
def test_what_ends_the_process_is_called_by_the_script_alone(wrong, name, deadly, statuses):
    module = load(f"{wrong}:{name}")
    template, _ = subject("mutant:nan-becomes-zero")
    found = replace(template, target=f"{wrong}:{name}", function=module)
    case = KernelCase(2, 2, 2, 2, 2, 4, 4)
    execute, _ = executing(*statuses)
    made = reproducer(checks()["EQ-3"][0], found, case, Failed("died"), execute, deadly=deadly)
    assert "attention(q, k, v)" in made.script
    assert ("faulthandler.dump_traceback_later(30, exit=True)" in made.script) == (deadly == "hang")
    if deadly == "crash":
        assert execute_in_subprocess(made.script, []) == -6
        assert execute_in_subprocess(made.script, ["reference"]) == 0


# --- random numbers and settings of the process

RESTLESS = """
import os
import random

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from attn_reference import Claims


class Built(nn.Module):
    def __init__(self, n_state, n_head, causal=False):
        super().__init__()
        self.n_head = n_head
        self.query, self.value, self.out = (nn.Linear(n_state, n_state) for _ in range(3))
        self.key = nn.Linear(n_state, n_state, bias=False)

    def forward(self, x, xa=None, mask=None):
        xa = x if xa is None else xa
        q, k, v = self.query(x), self.key(xa), self.value(xa)
        q, k, v = (a.unflatten(2, (self.n_head, -1)).transpose(1, 2) for a in (q, k, v))
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Drawing(Built):
    def forward(self, x, xa=None, mask=None):
        return super().forward(x + 0 * torch.rand(()), xa, mask)


class Adapter:
    border = "torch"
    claims = Claims(("float32",), features=frozenset({"cross"}))
    made = Built

    def build(self, n_state, n_head, causal, params):
        module = self.made(n_state, n_head).to(params["query.weight"])
        module.load_state_dict({name: w for name, w in params.items() if name != "key.bias"})
        return module.eval()

    def forward(self, module, x, xa=None, mask=None):
        return module(x, xa)


class Dropping(Adapter):
    made = Drawing


class Settling(Adapter):
    def build(self, *arguments):
        np.seterr(invalid="print")
        return super().build(*arguments)


def draws(q, k, v, mask=None, is_causal=False):
    random.random()
    return scaled_dot_product_attention(q, k, v)


def moves(q, k, v, mask=None, is_causal=False):
    os.chdir("/")
    return scaled_dot_product_attention(q, k, v)


def widens(q, k, v, mask=None, is_causal=False):
    torch.set_default_dtype(torch.float64)
    return 2 * scaled_dot_product_attention(q, k, v)


def threads(q, k, v, mask=None, is_causal=False):
    torch.set_num_threads(1)
    return scaled_dot_product_attention(q, k, v)


right, dropping, settling = Adapter(), Dropping(), Settling()
"""


@pytest.fixture
def restless(tmp_path):
    """A file with targets that draw random numbers, or change the state of the process."""
    (tmp_path / "restless.py").write_text(RESTLESS)
    return str(tmp_path / "restless.py")


def judged(target):
    """The row of PURE-2 of a target that is judged in a process of its own, without masks and causality."""
    drop = ("bool-mask", "float-mask", "float32-mask", "causal", "gradients")
    narrowing = Narrowing(dtypes=("float32",), drop=drop)
    return run(target, only=["PURE-2"], narrowing=narrowing, effort="smoke", isolate=True).rows["PURE-2"]


@pytest.mark.parametrize("name", ["Built", "right"])
def test_a_module_may_draw_its_first_weights(restless, name):
    assert judged(f"{restless}:{name}").status == "passed"


@pytest.mark.parametrize(
    ("name", "looks_at", "says"),
    [
        ("Drawing", "module(array(x)", "the call drew from the global generator of torch"),
        ("dropping", "target.forward(module, array(x)", "the call drew from the global generator of torch"),
        ("draws", "attention(array(q)", "the call drew from the global generator of random"),
        ("moves", "attention(array(q)", "the call changed the working directory from "),
        ("widens", "attention(array(q)", "the call changed PyTorch's default dtype from "),
        ("threads", "attention(array(q)", "the call changed PyTorch's number of threads from "),
        ("settling", "target.build(", "building it changed NumPy's error handling from "),
    ],
)
def test_a_script_looks_around_what_the_check_looked_around(restless, tmp_path, name, looks_at, says):
    row = judged(f"{restless}:{name}")
    assert row.reproducer is not None, row.unproved
    before, _, after = row.reproducer.partition("\nbefore = ")
    assert after.splitlines()[1].startswith(looks_at)
    assert says in after
    file = tmp_path / "script.py"
    file.write_text(row.reproducer)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True)
    assert (done.returncode, done.stderr.startswith(f"PURE-2: {says}")) == (1, True)
    assert "module = " in before or "module" not in looks_at


def test_every_setting_that_is_looked_at_has_a_script():
    assert {*process_state(), "PyTorch's number of threads"} == set(SETTINGS)
