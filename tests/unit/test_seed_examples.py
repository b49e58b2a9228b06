"""The examples of the seed's page: those that agree with its own rules, and the one that breaks them."""

import pytest

torch = pytest.importorskip("torch")

from attn_flash import MultiHeadAttention  # noqa: E402  torch may be absent


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_self_attention():
    module = MultiHeadAttention(n_state=64, n_head=8)
    assert module(torch.rand(10, 20, 64)).shape == (10, 20, 64)


def test_cross_attention():
    module = MultiHeadAttention(n_state=64, n_head=8)
    assert module(torch.rand(10, 20, 64), torch.rand(10, 30, 64)).shape == (10, 20, 64)


@pytest.mark.parametrize("S", [20, 30])
def test_cross_attention_with_a_mask_of_the_right_width(S):
    module = MultiHeadAttention(n_state=64, n_head=8)
    x, xa, mask = torch.rand(10, 20, 64), torch.rand(10, S, 64), torch.ones(10, 8, 20, S)
    torch.testing.assert_close(module(x, xa, mask), module(x, xa))  # added to the scores, ones do nothing


def test_a_causal_module_refuses_the_mask_of_the_page_and_any_other():
    module = MultiHeadAttention(n_state=64, n_head=8, causal=True)
    x, xa, cache = torch.rand(10, 20, 64), torch.rand(10, 30, 64), {}
    for mask in (torch.ones(10, 8, 20, 20), torch.ones(10, 8, 20, 30)):
        with pytest.raises(ValueError, match="mask must be None where causal is True"):
            module(x, xa=xa, mask=mask, kv_cache=cache)
    assert cache == {}


def test_a_mask_as_wide_as_the_queries_does_not_fit_thirty_keys():
    module = MultiHeadAttention(n_state=64, n_head=8)
    with pytest.raises(ValueError, match=r"\(10, 8, 20, 30\).*got shape \(10, 8, 20, 20\)"):
        module(torch.rand(10, 20, 64), torch.rand(10, 30, 64), torch.ones(10, 8, 20, 20))


@pytest.mark.parametrize("crosses", [False, True])
def test_an_empty_cache(crosses):
    module = MultiHeadAttention(n_state=64, n_head=8, causal=True)
    x, xa, cache = torch.rand(10, 20, 64), torch.rand(10, 30, 64) if crosses else None, {}
    torch.testing.assert_close(module(x, xa=xa, kv_cache=cache), module(x, xa))
    assert {e.shape for e in cache.values()} == {(10, 30 if crosses else 20, 64)}


def test_heads_that_do_not_divide_the_state():
    with pytest.raises(ValueError, match="n_head must divide n_state"):
        MultiHeadAttention(n_state=10, n_head=3)


def test_qkv_attention():
    module = MultiHeadAttention(n_state=64, n_head=8)
    q, k, v, mask = *(torch.rand(10, 20, 64) for _ in range(3)), torch.ones(10, 8, 20, 20)
    out = module.qkv_attention(q, k, v, mask)
    assert out.shape == (10, 20, 64)
    torch.testing.assert_close(out, module.qkv_attention(q, k, v))
    module.causal = True
    with pytest.raises(ValueError, match="mask must be None where causal is True"):
        module.qkv_attention(q, k, v, mask)
