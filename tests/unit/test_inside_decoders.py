"""attn_flash in place of the attention of ESPnet's and Whisper's decoders, beneath their own code for caches.

Both decoders normalise in float32; here they do it in float64, so that nothing hides behind rounding.
"""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  torch may be absent

from attn_flash import KVCache, MultiHeadAttention  # noqa: E402

B, LENGTH, N_STATE, N_HEAD, N_LAYER = 2, 6, 12, 3, 2


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def close(got, expected, dtype=torch.float64):
    """A few layers deep, each of some ten roundings."""
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), expected.double(), rtol=1000 * unit, atol=1000 * unit)


def randomized(model):
    """The model in float64 with weights that are no special case, without dropout."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


def stepwise(decode, chunks, hooks=()):
    with torch.no_grad():
        outs = [decode(chunk) for chunk in chunks]
    for hook in hooks:
        hook.remove()
    return torch.cat(outs, dim=1)


# ESPnet


@pytest.fixture
def espnet(monkeypatch):
    """ESPnet's decoder, the same with our attention and the same weights, and ESPnet's hooks for either."""
    transformer = pytest.importorskip("espnet2.speechlm.module.transformer")
    utils = pytest.importorskip("espnet2.speechlm.net_utils")
    monkeypatch.setattr(transformer.LayerNorm, "forward", nn.LayerNorm.forward)

    class Block(transformer.ResidualAttentionBlock):
        def __init__(self, n_state, n_head, cross_attention=False, causal=False):
            super().__init__(n_state, n_head, cross_attention, causal)
            self.attn = MultiHeadAttention(n_state, n_head, causal)

    theirs = randomized(transformer.TransformerDecoder(8, N_STATE, N_HEAD, N_LAYER))
    ours = transformer.TransformerDecoder(8, N_STATE, N_HEAD, N_LAYER, layer_class=Block).double()
    ours.load_state_dict(theirs.state_dict())

    def hooked(decoder):
        with monkeypatch.context() as patch:
            if decoder is ours:
                patch.setattr(utils, "MultiHeadAttention", MultiHeadAttention)
            cache, hooks = utils.install_kv_cache_hook(decoder, {})
        assert len(hooks) == 2 * N_LAYER
        return cache, hooks

    return theirs, ours, hooked


def test_espnet_in_one_call(espnet):
    theirs, ours, _ = espnet
    x = torch.randn(B, LENGTH, N_STATE, dtype=torch.float64)
    close(ours(x), theirs(x))


def test_espnet_token_by_token_under_its_hooks(espnet):
    theirs, ours, hooked = espnet
    x = torch.randn(B, LENGTH, N_STATE, dtype=torch.float64)
    outs = []
    for decoder in (theirs, ours):
        cache, hooks = hooked(decoder)
        outs.append(stepwise(lambda t, d=decoder, c=cache: d(t, kv_cache=c), x.split(1, dim=1), hooks))
        assert [entry.shape for entry in cache.values()] == [(B, LENGTH, N_STATE)] * 2 * N_LAYER
    close(outs[1], outs[0])
    close(outs[1], theirs(x))


def test_espnet_in_chunks_under_its_hooks(espnet):
    theirs, ours, hooked = espnet  # their own attention drops causality from the second chunk on
    x = torch.randn(B, LENGTH, N_STATE, dtype=torch.float64)
    cache, hooks = hooked(ours)
    close(stepwise(lambda t: ours(t, kv_cache=cache), x.split((2, 3, 1), dim=1), hooks), theirs(x))


@pytest.mark.parametrize("of_cache", [dict, KVCache])
@pytest.mark.parametrize("chunks", [(1,) * LENGTH, (2, 3, 1)], ids=str)
def test_espnet_with_our_cache_and_no_hooks(espnet, of_cache, chunks):
    theirs, ours, _ = espnet
    x, cache = torch.randn(B, LENGTH, N_STATE, dtype=torch.float64), of_cache()
    close(stepwise(lambda t: ours(t, kv_cache=cache), x.split(chunks, dim=1)), theirs(x))


def test_states_of_espnet_and_ours_are_interchangeable():
    transformer = pytest.importorskip("espnet2.speechlm.module.transformer")
    theirs, ours = (
        cls(N_STATE, N_HEAD, causal=True) for cls in (transformer.MultiHeadAttention, MultiHeadAttention)
    )
    x = torch.randn(B, LENGTH, N_STATE)
    assert not torch.allclose(ours(x), theirs(x))
    ours.load_state_dict(theirs.state_dict())
    close(ours(x), theirs(x), torch.float32)
    nn.init.normal_(ours.key.weight)
    theirs.load_state_dict(ours.state_dict())
    close(ours(x), theirs(x), torch.float32)
    assert list(ours.state_dict()) == list(theirs.state_dict())


# Whisper


class Causal(MultiHeadAttention):
    """Whisper's interface: its mask is one triangle for all calls, (n_ctx, n_ctx), and says no more than causal."""

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        self.causal = mask is not None
        return super().forward(x, xa, kv_cache=kv_cache), None


class Cut(MultiHeadAttention):
    """Whisper's interface: of its triangle the rows of this call's tokens, as wide as the keys are many."""

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        if mask is not None:
            past = kv_cache[self.key].shape[1] if kv_cache and self.key in kv_cache else 0
            stop = past + x.shape[1]
            mask = mask[past:stop, :stop]
        return super().forward(x, xa, mask, kv_cache), None


@pytest.fixture(params=[Causal, Cut])
def whisper(monkeypatch, request):
    """A small Whisper, the same with our attention and the same weights, and Whisper's hooks for either."""
    model = pytest.importorskip("whisper.model")
    monkeypatch.setattr(model.LayerNorm, "forward", nn.LayerNorm.forward)
    dimensions = model.ModelDimensions(
        n_mels=4, n_audio_ctx=5, n_audio_state=N_STATE, n_audio_head=N_HEAD, n_audio_layer=1,
        n_vocab=11, n_text_ctx=8, n_text_state=N_STATE, n_text_head=N_HEAD, n_text_layer=N_LAYER,
    )  # fmt: skip
    theirs = randomized(model.Whisper(dimensions))
    with monkeypatch.context() as patch:
        patch.setattr(model, "MultiHeadAttention", request.param)
        ours = model.Whisper(dimensions).double().eval()
    ours.load_state_dict(theirs.state_dict())

    def hooked(whisper):
        with monkeypatch.context() as patch:
            if whisper is ours:
                patch.setattr(model, "MultiHeadAttention", request.param)
            cache, hooks = whisper.install_kv_cache_hooks()
        assert len(hooks) == 4 * N_LAYER
        return cache, hooks

    return theirs, ours, hooked


def tokens_and_mel():
    return torch.randint(11, (B, LENGTH)), torch.randn(B, 4, 10, dtype=torch.float64)


def test_whisper_in_one_call(whisper):
    theirs, ours, _ = whisper
    tokens, mel = tokens_and_mel()
    close(ours.embed_audio(mel), theirs.embed_audio(mel))
    close(ours(mel, tokens), theirs(mel, tokens), torch.float32)  # Whisper's logits are float32


@pytest.mark.parametrize("chunks", [(1,) * LENGTH, (3, 1, 1, 1)], ids=str)
def test_whisper_token_by_token_under_its_hooks(whisper, chunks):
    theirs, ours, hooked = whisper
    tokens, mel = tokens_and_mel()
    audio, outs = theirs.embed_audio(mel).detach(), []
    for whole in (theirs, ours):
        cache, hooks = hooked(whole)
        decode = whole.decoder
        outs.append(stepwise(lambda t, d=decode, c=cache: d(t, audio, c), tokens.split(chunks, dim=1), hooks))
        lengths = {entry.shape[1] for entry in cache.values()}
        assert lengths == {LENGTH, 5}  # the text so far, and the audio
    close(outs[1], outs[0], torch.float32)
    close(outs[1], theirs(mel, tokens), torch.float32)


@pytest.mark.parametrize("way", ["hooks", dict, KVCache])
@pytest.mark.parametrize("chunks", [(1,) * LENGTH, (2, 3, 1)], ids=str)
def test_whisper_in_chunks_and_with_beams_reordered(whisper, way, chunks):
    theirs, ours, hooked = whisper
    tokens, mel = tokens_and_mel()
    audio = theirs.embed_audio(mel).detach()[:1].expand(B, -1, -1)
    cache, hooks = hooked(ours) if way == "hooks" else (way(), ())
    swapped, outs = tokens.flip(0), []
    for i, (chunk, other) in enumerate(zip(tokens.split(chunks, 1), swapped.split(chunks, 1), strict=True)):
        with torch.no_grad():
            out = ours.decoder(chunk if i % 2 == 0 else other, audio, cache)
        outs.append(out if i % 2 == 0 else out.flip(0))
        for block in ours.decoder.blocks:  # as Whisper's own rearrange_kv_cache does
            for module in (block.attn.key, block.attn.value):
                cache[module] = cache[module][[1, 0]].detach()
    for hook in hooks:
        hook.remove()
    close(torch.cat(outs, dim=1), theirs.decoder(tokens, audio), torch.float32)


def test_a_deepcopied_decoder_starts_afresh_on_the_same_cache(whisper):
    theirs, ours, _ = whisper
    tokens, mel = tokens_and_mel()
    audio, cache = theirs.embed_audio(mel).detach(), {}
    expected = theirs.decoder(tokens, audio)
    attention = ours.decoder.blocks[0].attn
    x = torch.randn(B, 3, N_STATE, dtype=torch.float64)
    close(ours.decoder(tokens, audio, cache), expected, torch.float32)
    twin = copy.deepcopy(attention)
    mask = ours.decoder.mask
    close(twin(x, mask=mask, kv_cache=cache)[0], attention(x, mask=mask)[0])
