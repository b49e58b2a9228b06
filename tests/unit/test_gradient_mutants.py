"""Wrong gradients are wrong, and their twins right, by PyTorch's own account: gradcheck, and autograd of formulas."""

import inspect

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from attn_conformance.controls import controls
from attn_conformance.mutants import BUG_CLASSES, mutants
from attn_conformance.mutants.differentiable import Differentiable, TwiceDifferentiable, hidden, softmax
from attn_reference.requirements import load_requirements


def with_gradients(kind):
    """Those that gradcheck can tell: what only leans to one side is in test_bias.py."""
    named = {n: m for n, m in mutants(kind).items() if m.requirement != "NUM-5"}
    return {n: m for n, m in named.items() if "gradients" in m.claims.features}


KERNELS, MODULES = with_gradients("kernel"), with_gradients("module")
CONTROLS = {n: c for n, c in controls("kernel").items() if "gradients" in c.claims.features}


def drawn(B=2, H=4, Hkv=4, T=18, S=5, D=4):
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, H, T, D), (B, Hkv, S, D), (B, Hkv, S, D))
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes]


def mask_of(T=18, S=5, empty=False):
    mask = torch.ones(T, S, dtype=torch.bool).tril(1)
    mask[:, 3] = mask[1] = not empty
    return mask


def bias_of(T=18, S=5):
    return torch.linspace(-2, 2, S, dtype=torch.float64).expand(1, 1, T, S).clone()


SCRIPTS = {
    "plain": ({}, None, False),
    "masked": ({}, mask_of(), False),
    "empty rows": ({}, mask_of(empty=True), False),
    "causal": ({"T": 5}, None, True),
    "biased": ({}, bias_of(), False),
    "grouped": ({"Hkv": 2}, None, False),
}


def plain(q, k, v, mask, is_causal):
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    return softmax(hidden(q @ k.mT * q.shape[3] ** -0.5, mask, is_causal)) @ v


def gradients(kernel, script, layout="contiguous", later=False):
    """The result, the gradients of q, k, v and a floating mask, and the output gradient afterwards."""
    sizes, mask, is_causal = SCRIPTS[script]
    leaves = [x.clone().requires_grad_() for x in drawn(**sizes)]
    if mask is not None:
        mask = mask.clone().requires_grad_(mask.is_floating_point())
    out = kernel(*leaves, mask, is_causal)
    if later:
        kernel(-leaves[0], *leaves[1:], mask, is_causal)
    dout = torch.cos(torch.arange(out.numel(), dtype=torch.float64)).reshape(out.shape)
    dout = {
        "contiguous": dout,
        "transposed": dout.transpose(1, 2).contiguous().transpose(1, 2),
        "expanded": dout[:1, :1, :1, :1].expand(out.shape),
    }[layout]
    wanted = [x for x in (*leaves, mask) if x is not None and x.requires_grad]
    before = dout.clone()
    try:
        found = torch.autograd.grad(out, wanted, dout, allow_unused=True)
    except RuntimeError:  # of an expanded output gradient that is written to
        found = [None] * len(wanted)
    return out.detach(), found, torch.equal(before, dout)


def same(first, second):
    mine, others = first[1], second[1]
    alike = all(
        a is not None and torch.allclose(a, b, rtol=1e-9, atol=1e-12)
        for a, b in zip(mine, others, strict=True)
    )
    return alike and first[2]


WAYS = [
    *((script, "contiguous", False) for script in SCRIPTS),
    *(("plain", layout, False) for layout in ("transposed", "expanded")),
    ("plain", "contiguous", True),
]


@pytest.mark.parametrize("name", KERNELS)
def test_the_result_is_right_and_some_gradient_is_not(name):
    kernel = KERNELS[name].target
    wrong = []
    for way in WAYS:
        right = gradients(plain, *way)
        fresh = kernel.fresh() if hasattr(kernel, "fresh") else kernel
        found = gradients(fresh, *way)
        assert torch.allclose(found[0], right[0], rtol=1e-12, atol=1e-14)
        wrong.append(not same(found, right))
    assert any(wrong) == (KERNELS[name].requirement != "GRAD-6")


@pytest.mark.parametrize("name", CONTROLS)
def test_the_gradients_of_controls_are_right(name):
    if "float64" not in CONTROLS[name].claims.dtypes:
        pytest.skip("not in float64")
    assert all(same(gradients(CONTROLS[name].target, *way), gradients(plain, *way)) for way in WAYS)


SMALL = {"B": 1, "H": 2, "Hkv": 1, "T": 3, "S": 3, "D": 2}
TINY_MASK = torch.tensor([[True, False, True], [False, False, False], [True, True, False]])


@pytest.mark.parametrize("mask", [None, TINY_MASK, bias_of(3, 3)[0, 0]], ids=["plain", "masked", "biased"])
@pytest.mark.parametrize("kernel", [Differentiable(), TwiceDifferentiable()], ids=["once", "twice"])
def test_the_twins_pass_gradcheck(kernel, mask):
    leaves = [x.requires_grad_() for x in drawn(**SMALL)]
    mask = mask if mask is None or mask.dtype == torch.bool else mask.clone().requires_grad_()
    assert gradcheck(kernel, (*leaves, mask))
    if kernel.twice:
        assert gradgradcheck(kernel, (*leaves, mask))


@pytest.mark.parametrize("name", [n for n, m in KERNELS.items() if m.requirement == "GRAD-6"])
def test_gradients_of_gradients_are_wrong_without_a_word(name):
    leaves = [x.requires_grad_() for x in drawn(**SMALL)]
    assert gradcheck(KERNELS[name].target, leaves)
    assert not gradgradcheck(KERNELS[name].target, leaves, raise_exception=False)


@pytest.mark.parametrize("mutant", [*KERNELS.values(), *MODULES.values()], ids=lambda m: m.name)
def test_the_mutant_is_documented(mutant):
    assert mutant.lie.endswith(".")
    assert mutant.bug_class in BUG_CLASSES
    assert mutant.seen_in
    assert all(link.startswith("https://github.com/") for link in mutant.seen_in)
    assert isinstance(mutant.target, (Differentiable, type(mutant.twin).__mro__[-2]))
    assert mutant.twin is not mutant.target
    assert len(inspect.getsource(type(mutant.target)).splitlines()) <= 45
    assert type(mutant.target).__name__.lower() == mutant.name.replace("-", "")
    table = load_requirements()
    for requirement in (mutant.requirement, *mutant.also_fails):
        assert mutant.kind in table[requirement].kinds


def test_nothing_here_imports_pytorch_before_a_call():
    import subprocess
    import sys

    code = "import sys; from attn_conformance.mutants import mutants; mutants(); assert 'torch' not in sys.modules"
    paths = ":".join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": paths}, check=False)
    assert done.returncode == 0
