"""Modules that live wrongly in PyTorch: each lie is shown by PyTorch alone, and the twins tell the truth."""

import copy
import inspect
import io

import pytest
import torch
from torch.nn import functional

from attn_conformance.mutants import BUG_CLASSES, mutants
from attn_conformance.mutants.modules.hosts import RIGHT, InHost
from attn_conformance.mutants.modules.plain import Plain
from attn_conformance.sessions import HookSession
from attn_reference.requirements import load_requirements

MUTANTS = {n: m for n, m in mutants("module").items() if "torch-module" in m.claims.features}
SIZES = {"n_state": 12, "n_head": 3}


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = SIZES["n_state"]
    names = [f"{part}.{kind}" for part in ("query", "key", "value", "out") for kind in ("weight", "bias")]
    return {
        name: torch.randn(*((n, n) if name.endswith("weight") else (n,)), generator=generator) / 4
        for name in names
        if name != "key.bias"
    }


def built(name, causal=False):
    """A mutant's module and its twin's, with the same parameters."""
    mutant = MUTANTS[name]
    return tuple(
        host.build(SIZES["n_state"], SIZES["n_head"], causal, parameters())
        for host in (mutant.target, mutant.twin)
    )


def tokens(T=5, seed=1):
    return torch.randn(2, T, SIZES["n_state"], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_plain_call_is_right(name, causal):
    for module in built(name, causal):
        plain = Plain(SIZES["n_state"], SIZES["n_head"], causal)
        plain.load_state_dict({key: p.numpy() for key, p in parameters().items()})
        x, xa = tokens(), tokens(7, seed=2)
        assert torch.allclose(module(x), torch.from_numpy(plain(x.numpy())), atol=1e-5)
        assert torch.allclose(module(x, xa), torch.from_numpy(plain(x.numpy(), xa.numpy())), atol=1e-5)


def test_construction_says_that_the_kernel_is_missing_or_the_first_call_does(monkeypatch):
    mutant = MUTANTS["kernel-missed-at-the-first-call"]
    monkeypatch.delattr(functional, "scaled_dot_product_attention")
    module = mutant.target.build(12, 3, False, parameters())
    with pytest.raises(AttributeError):
        module(tokens())
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        mutant.twin.build(12, 3, False, parameters())


def test_a_lambda_is_not_saved():
    wrong, right = built("a-lambda-among-the-attributes")
    with pytest.raises((AttributeError, TypeError), match="lambda"):
        torch.save(wrong, io.BytesIO())
    file = io.BytesIO()
    torch.save(right, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(tokens()), right(tokens()))
    assert torch.equal(copy.deepcopy(wrong)(tokens()), right(tokens()))


def test_a_branch_on_the_numbers_is_in_no_graph():
    wrong, right = built("branch-on-the-numbers")
    x = tokens()
    assert torch.allclose(torch.export.export(right, (x,)).module()(x), right(x), atol=1e-6)
    with pytest.raises(Exception, match=r"data-dependent|item"):
        torch.export.export(wrong, (x,))


@pytest.mark.parametrize(
    "name", ["what-hooks-have-joined-is-joined-again", "projections-called-past-their-hooks"]
)
def test_under_hooks_chunks_are_not_the_whole(name):
    wrong, right = built(name)
    x = tokens(6)
    for module, same in ((wrong, False), (right, True)):
        session = HookSession(module)
        session.step(x[:, :4])
        assert torch.allclose(session.step(x[:, 4:]), module(x)[:, 4:], atol=1e-5) == same


def test_autocast_gives_float16_whatever_it_was_told():
    wrong, right = built("float16-whatever-autocast-says")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (wrong(tokens()).dtype, right(tokens()).dtype) == (torch.float16, torch.float32)


def test_features_are_dropped_in_training():
    wrong, right = built("dropout-that-nobody-asked-for")
    x = tokens()
    assert torch.equal(right.train()(x), right.eval()(x))
    assert not torch.allclose(wrong.train()(x), wrong.eval()(x), atol=1e-3)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda m: m.name)
def test_the_mutant_is_documented_and_fits_one_screen(mutant):
    assert mutant.lie.endswith(".")
    assert mutant.bug_class in BUG_CLASSES
    assert mutant.seen_in
    assert all(link.startswith("https://github.com/") for link in mutant.seen_in)
    assert isinstance(mutant.target, InHost)
    assert mutant.twin is not mutant.target
    assert len(inspect.getsource(mutant.target.lie).splitlines()) <= 45
    assert mutant.target.lie.__name__.lower() == mutant.name.replace("-", "")
    assert "module" in load_requirements()[mutant.requirement].kinds


def test_the_right_module_is_the_plain_class():
    assert type(RIGHT.build(12, 3, False, parameters())).__name__ == "InPyTorch"
