"""The decoder found in a model's graph: its logits with a cache are the model's own."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from companion import (
    DecoderBlock,
    EncoderBlock,
    RelativePositionBias,
    TokenPositionEmbedding,
    causal_mask,
    gpt,
    lstm_seq2seq,
    padding_mask,
    t5,
    transformer,
)
from companion.decoding import Decoder

pytestmark = pytest.mark.backend
V = 12
SOURCE = np.array([[5, 3, 8, 9, 6], [4, 7, 0, 0, 0], [9, 9, 4, 0, 0]], "int32")


def shared_blocks():
    """One block called twice, a second opinion of the source, operations between layers, names of its own."""
    tokens = keras.Input((None,), dtype="int32", name="question")
    target = keras.Input((None,), dtype="int32", name="answer")
    mask = padding_mask(tokens)
    embedding = TokenPositionEmbedding(V, 20, 8, name="words")
    source = EncoderBlock(8, 2, 16, name="reader")(embedding(tokens), attention_mask=mask)
    summary = ops.max(source, axis=1, keepdims=True)
    bias = RelativePositionBias(2, 4, 3, bidirectional=False)(target)
    block = DecoderBlock(8, 2, 16, name="writer")
    x = embedding(target) + summary
    x = block(x, source, source_mask=mask, position_bias=bias)
    x = ops.tanh(x) * 2
    x = block(x, ops.sin(source), None, mask)
    x = DecoderBlock(8, 2, 16, cross_attention=False)(target=x, attention_mask=padding_mask(target))
    return keras.Model([tokens, target], keras.layers.Dense(V)(x))


def sequential():
    layers = [
        TokenPositionEmbedding(V, 20, 8),
        DecoderBlock(8, 2, 16, cross_attention=False),
        keras.layers.Dense(V),
    ]
    return keras.Sequential([keras.Input((None,), dtype="int32"), *layers])


MODELS = {
    "gpt": lambda: gpt(V, 20, 8, 2, 16, 2),
    "gpt_padding": lambda: gpt(V, 20, 8, 2, 16, 2, padding_id=0),
    "t5": lambda: t5(V, 8, 2, 16, 2, num_buckets=8, max_distance=10),
    "t5_untied": lambda: t5(V, 8, 2, 16, 1, head_dim=3, gated=True, tied=False),
    "transformer": lambda: transformer(10, V, 20, 8, 2, 16, 2),
    "shared": lambda: transformer(V, V, 20, 8, 2, 16, 2, norm_first=False, shared=True),
    "shared_blocks": shared_blocks,
    "sequential": sequential,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_with_a_cache_are_those_of_the_whole_model(name, rng, randomized):
    model = randomized(MODELS[name]())
    decoder = Decoder(model)
    tokens = rng.integers(1, V, (3, 11)).astype("int32")
    tokens[0, 2], tokens[1, 4:6], tokens[2, 7] = 0, 0, 0  # which some of the models mask
    sources = [] if decoder.prompt is decoder.target else [SOURCE]
    inputs = [*sources, tokens]
    expected = ops.convert_to_numpy(model(inputs if sources else tokens, training=False))
    whole = decoder.whole(list(map(ops.convert_to_tensor, sources)), ops.convert_to_tensor(tokens))
    np.testing.assert_allclose(ops.convert_to_numpy(whole), expected, atol=1e-6)

    memory = decoder.read([ops.convert_to_tensor(source) for source in sources])
    caches = decoder.start(3, 13)
    padded = np.pad(tokens[:, :4], ((0, 0), (0, 3)))  # what follows is written over
    caches = decoder.fill(ops.convert_to_tensor(padded), memory, caches)
    for start, end in [(3, 4), (4, 5), (5, 9), (9, 10), (10, 11)]:
        new = ops.convert_to_tensor(tokens[:, start:end])
        logits, caches = decoder.step(new, ops.convert_to_tensor(start), memory, caches)
        np.testing.assert_allclose(ops.convert_to_numpy(logits), expected[:, start:end], atol=1e-5)
    assert np.abs(expected).max() > 0.1


def test_a_mask_that_a_cache_cannot_hold_is_refused():
    tokens = keras.Input((None,), dtype="int32")
    window = keras.Input((None, None), dtype="bool")
    x = TokenPositionEmbedding(V, 20, 8)(tokens)
    near = ops.logical_and(padding_mask(tokens), ops.ones((6, 6), "bool"))
    for inputs, mask, shape in (([tokens], near, "None, 6, 6"), ([window, tokens], window, "None, None")):
        block = DecoderBlock(8, 2, 16, cross_attention=False)
        decoder = Decoder(keras.Model(inputs, keras.layers.Dense(V)(block(x, attention_mask=mask))))
        with pytest.raises(
            ValueError, match=f"use_cache must be False unless .* received one of shape .*{shape}"
        ):
            decoder.start(1, 6)


def test_a_constant_mask_needs_no_cache():
    tokens = keras.Input((6,), dtype="int32")
    x = TokenPositionEmbedding(V, 20, 8)(tokens)
    x = DecoderBlock(8, 2, 16, cross_attention=False)(x, attention_mask=causal_mask(6))
    decoder = Decoder(keras.Model(tokens, keras.layers.Dense(V)(x)))
    assert decoder.whole([], ops.ones((1, 6), "int32")).shape == (1, 6, V)
    with pytest.raises(ValueError, match="use_cache must be False unless each attention_mask is made of the"):
        decoder.start(1, 6)


@pytest.mark.parametrize("name", ["gpt", "shared_blocks"])
def test_each_source_may_have_several_targets(name, rng, randomized):
    model = randomized(MODELS[name]())
    decoder = Decoder(model)
    sources = [] if decoder.prompt is decoder.target else [SOURCE]
    tokens = rng.integers(1, V, (6, 4)).astype("int32")
    memory = decoder.repeated(decoder.read([ops.convert_to_tensor(source) for source in sources]), 2)
    logits, _ = decoder.step(ops.convert_to_tensor(tokens), 0, memory, decoder.start(6, 4))
    inputs = [*(np.repeat(source, 2, axis=0) for source in sources), tokens]
    expected = ops.convert_to_numpy(model(inputs if sources else tokens, training=False))
    np.testing.assert_allclose(ops.convert_to_numpy(logits), expected, atol=1e-5)


def test_what_does_not_depend_on_the_target_is_computed_once(monkeypatch):
    model = transformer(V, V, 20, 8, 2, 16, 2)
    decoder = Decoder(model)
    memory, caches = decoder.read([ops.convert_to_tensor(SOURCE)]), decoder.start(3, 4)
    called = []

    def noted(layer):
        call = layer.call

        @functools.wraps(call)
        def noting(*args, **kwargs):
            called.append(layer.name)
            return call(*args, **kwargs)

        return noting

    for layer in model.layers:
        monkeypatch.setattr(layer, "call", noted(layer))
    decoder.step(ops.convert_to_tensor(SOURCE[:, :1]), 0, memory, caches)
    assert called == ["target_embedding", "decoder_norm", "logits"]


def test_a_dropout_is_off_even_where_a_call_asks_for_it():
    tokens = keras.Input((None,), dtype="int32")
    x = TokenPositionEmbedding(V, 20, 8, dropout=0.9)(tokens, training=True)
    x = DecoderBlock(8, 2, 16, cross_attention=False)(x)
    decoder = Decoder(keras.Model(tokens, keras.layers.Dense(V)(x)))
    source = ops.convert_to_tensor(SOURCE)
    step = [decoder.step(source, 0, decoder.read([]), decoder.start(3, 5))[0] for _ in range(2)]
    whole = [decoder.whole([], source) for _ in range(2)]
    for logits in (step[1], *whole):
        np.testing.assert_allclose(ops.convert_to_numpy(logits), ops.convert_to_numpy(step[0]), atol=1e-6)


def test_limits_are_those_of_what_reads_the_input():
    decoder = Decoder(transformer(10, V, 20, 8, 2, 16, 1))
    assert decoder.limits(decoder.prompt) == (10, 20)
    assert decoder.limits(decoder.target) == (V, 20)
    decoder = Decoder(t5(V, 8, 2, 16, 1))
    assert decoder.limits(decoder.target) == (V, np.inf)
    decoder = Decoder(lstm_seq2seq(10, V, 8, 8))
    assert decoder.limits(decoder.prompt) == (10, np.inf) and not decoder.blocks


def test_other_models_are_refused():
    x, y, z = keras.Input((3,)), keras.Input((3,)), keras.Input((3,))
    for model, received in [
        (keras.Model(x, keras.layers.Dense(2)(x)), r"1 inputs and outputs of shapes \[\(None, 2\)\]"),
        (keras.Model([x, y, z], (x + y + z)[:, None]), r"3 inputs and outputs of shapes \[\(None, 1, 3\)\]"),
        (keras.Sequential([keras.layers.Dense(2)]), r"0 inputs and outputs of shapes \[\]"),
    ]:
        with pytest.raises(
            ValueError, match=rf"model must be functional, .* to logits \(B, T, V\); received {received}\."
        ):
            Decoder(model)
