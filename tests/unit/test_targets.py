"""From what a user types to a subject: names, paths, conventions, claims, and errors that say what to do."""

import functools
import importlib.util
import sys

import numpy as np
import pytest

from attn_conformance.conventions import FLASH_ATTN, JAX, KERNEL, TORCH_SDPA, expressible, recognise
from attn_conformance.loading import TargetError, load, registered
from attn_conformance.targets import Narrowing, subject
from attn_reference import attention as reference

KERNEL_FILE = """
import numpy as np
from helper_beside_it import scale

def attention(q, k, v, mask=None, is_causal=False):
    from attn_reference import attention
    return attention(q, k, v, mask, is_causal)

def no_mask(q, k, v):
    return attention(q, k, v)

def strange(a, b):
    return a

def takes_torch(q, k, v, mask=None):
    raise RuntimeError("only on Tuesdays")

class Sized:
    def __init__(self, d_model, n_heads):
        pass

number = 3
"""


@pytest.fixture
def kernel_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "helper_beside_it.py").write_text("scale = 1\n")
    path = tmp_path / "mine.py"
    path.write_text(KERNEL_FILE)
    yield path
    for name in ("mine", "picky", "helper_beside_it"):
        sys.modules.pop(name, None)


def test_registered_names_module_paths_and_files_are_targets(kernel_file):
    assert {"attn-flash", "numpy-reference", "torch-sdpa"} <= set(registered())
    assert load("numpy-reference-kernel") is reference
    assert load("attn_reference:attention") is reference
    assert load(f"{kernel_file}:attention").__name__ == "attention"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nonsense", "not a registered implementation. Others are .*; registered are attn-flash"),
        ("attn_reference:attentoin", "has no 'attentoin' .names that look alike: .*attention"),
        ("attn-flesh", "not a registered implementation; did you mean attn-flash"),
        ("attn_reference", "is a module; name the object in it: "),
        ("attn_reference.kernel", "is a module; .*: attn_reference.kernel:attention"),
        ("attn_reference:kernel", "is a module; .*: attn_reference.kernel:attention"),
        ("attn_reference.attention", "the object comes after a colon: attn_reference:attention"),
        ("{file}", "is a file; name the object in it: .*mine.py:attention, .*mine.py:no_mask"),
        (
            "no_such_package.at_all:f",
            "no module named 'no_such_package'.*; looked in .*, the current folder, and among the installed",
        ),
        ("atn_reference:attention", "no module named 'atn_reference'; did you mean attn_reference"),
        ("attn_reference.kernal:f", "no module named .*; did you mean attn_reference.kernel"),
        ("no/such/file.py:f", "there is no file"),
        ("mutant:nobody", r"there is no mutant 'nobody' among \d+$"),
        (
            "mutant:inverted_mask",
            r"there is no mutant 'inverted_mask' among \d+; did you mean inverted-mask\?$",
        ),
        ("twin:nobody", "there is no twin"),
        ("control:nobody", "there is no control"),
        (
            "{file}:Sized",
            r"its constructor is Sized\(d_model, n_heads\); .* Sized\(n_state, n_head, causal=False\), by these names "
            "and with the sizes in this order.*docs/guides/writing-an-implementation.md",
        ),
        (
            "{file}:number",
            "is of type int; a target is a function on split heads, a class with the interface",
        ),
        ("{file}:strange", "no convention has the parameters .a, b."),
        (
            "{file}:takes_torch",
            "got no answer: .*, with numpy arrays: it raised RuntimeError: only on Tuesdays",
        ),
    ],
)
def test_what_cannot_be_judged_is_said_with_the_reason(kernel_file, target, message):
    with pytest.raises(TargetError, match=message):
        subject(target.format(file=kernel_file))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f():\n    1 / 0\nf()\n", r"importing it raised ZeroDivisionError: .*, at broken.py:2"),
        ("\n\nimport no_such_library\n", r"no module named 'no_such_library', which broken.py:3 imports"),
        ("x = 1\ndef f(:\n", r"importing it raised SyntaxError: .*, at broken.py:2"),
    ],
)
def test_a_module_that_fails_to_import_is_told_with_the_line(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(TargetError, match=message):
        subject("broken.py:attention")


TORCH_FILE = """
from torch import nn


class Extra(nn.Module):
    def __init__(self, n_state, n_head, dropout):
        super().__init__()


instance = nn.Linear(2, 2)
"""


@pytest.mark.parametrize(
    ("name", "narrowing", "message"),
    [
        ("instance", Narrowing(), "is an instance of nn.Module; give its class, Linear, or an adapter"),
        (
            "Extra",
            Narrowing(),
            "argument: 'dropout'. What is built or called otherwise takes an adapter: docs/guides",
        ),
        ("Extra", Narrowing(convention="kernel"), "kernel is a convention of functions, and this is a class"),
        ("Extra", Narrowing(device="cuda"), "there is no CUDA device here"),
    ],
)
def test_classes_of_pytorch_are_tried_with_its_arrays_alone(tmp_path, monkeypatch, name, narrowing, message):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "in_torch.py").write_text(TORCH_FILE)
    with pytest.raises(TargetError, match=message) as raised:
        subject(f"{tmp_path}/in_torch.py:{name}", narrowing)
    assert "numpy arrays" not in str(raised.value)


def test_a_convention_of_classes_is_refused_for_a_function():
    with pytest.raises(TargetError, match="seed is a convention of classes, and this is a function"):
        subject("numpy-reference-kernel", Narrowing(convention="seed"))


def test_a_missing_framework_names_its_extra():
    if importlib.util.find_spec("jax") is not None:
        pytest.skip("jax is installed")
    with pytest.raises(TargetError, match=r"pip install 'attn-conformance\[jax\]'"):
        load("jax-attention")


def test_conventions_are_recognised_by_parameter_names():
    def sdpa(
        query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ): ...
    def flash(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False): ...
    def jax(query, key, value, bias=None, mask=None, *, scale=None, is_causal=False): ...
    def kernel(queries, keys, values, mask=None, is_causal=False): ...
    def bare(q, k, v): ...

    assert recognise(sdpa) is TORCH_SDPA
    assert recognise(flash) is FLASH_ATTN
    assert recognise(jax) is JAX
    assert recognise(kernel) is KERNEL
    assert recognise(functools.partial(kernel)) is KERNEL
    assert recognise(bare) is KERNEL
    assert expressible(KERNEL, bare) & {"bool-mask", "float-mask", "causal"} == set()
    assert expressible(KERNEL, kernel) == KERNEL.features
    assert "scale" in expressible(FLASH_ATTN, flash)


def test_claims_can_be_added_left_out_and_narrowed():
    narrowing = Narrowing(add=("eager",), drop=("gqa",), dtypes=("float32",), head_sizes=(64,))
    found, refused = subject("numpy-reference", narrowing)
    assert refused == {}
    assert found.claims.arithmetic == "eager"
    assert found.claims.dtypes == ("float32",)
    assert found.claims.head_sizes == (64,)
    assert "gqa" not in found.claims.features


@pytest.mark.parametrize(
    ("narrowing", "message"),
    [
        (Narrowing(add=("speed",)), "unknown claim 'speed'; known are bool-mask"),
        (Narrowing(add=("cast_weights",)), "unknown claim 'cast_weights'; did you mean casts-weights"),
        (Narrowing(drop=("speed",)), "unknown claim 'speed'"),
        (Narrowing(dtypes=("float8",)), "unknown dtype 'float8'"),
        (Narrowing(convention="latin"), "unknown convention 'latin'; known are kernel"),
        (Narrowing(device="cuda"), "cuda is not among the claimed devices cpu"),
    ],
)
def test_unknown_narrowings_are_refused(narrowing, message):
    with pytest.raises(TargetError, match=message):
        subject("numpy-reference", narrowing)


def test_a_refused_dtype_is_reported_once_and_left_out(kernel_file):
    path = kernel_file.with_name("picky.py")
    path.write_text(
        KERNEL_FILE + "\ndef picky(q, k, v, mask=None, is_causal=False):\n"
        "    if q.dtype == np.float16:\n        raise ValueError('no half')\n"
        "    return attention(q, k, v, mask, is_causal)\n"
    )
    found, refused = subject(f"{path}:picky")
    assert refused == {"float16": "raised ValueError: no half"}
    assert "float16" not in found.claims.dtypes


def test_results_in_another_order_of_axes_are_brought_back():
    from attn_conformance.cases import KernelCase, build
    from attn_conformance.kernel_subject import KernelSubject

    def bthd(q, k, v, softmax_scale=None, causal=False):
        out = reference(*(np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v)), is_causal=causal)
        return out.swapaxes(1, 2)

    plain, _ = subject("numpy-reference-kernel")
    turned = KernelSubject("bthd", bthd, FLASH_ATTN, plain.border, plain.claims)
    call = build(KernelCase(2, 3, 3, 4, 6, 8, 8))
    np.testing.assert_array_equal(turned.attention(call), plain.attention(call))
