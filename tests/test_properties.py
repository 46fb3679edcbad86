"""What must hold for any shape and any mask: over a thousand cases, drawn by hypothesis.

The layers run eagerly at small sizes. Off TensorFlow there are fewer cases, and fewer shapes on JAX, which
compiles each operation for each new shape.
"""

from functools import lru_cache

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from companion import (
    DecoderBlock,
    EncoderBlock,
    MultiHeadAttention,
    TokenPositionEmbedding,
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)

pytestmark = [pytest.mark.backend, pytest.mark.filterwarnings("ignore:You are using a softmax over axis")]
BACKEND = keras.backend.backend()
SHARE = 1 if BACKEND == "tensorflow" else 0.15
WIDTH, SOURCE_WIDTH = 8, 6

batches, lengths = st.integers(1, 3), st.integers(1, 6)
heads, seeds = st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)
if BACKEND == "jax":
    batches, lengths, heads = st.just(2), st.sampled_from([1, 2, 5]), st.sampled_from([1, 2])


def cases(count):
    return settings(max_examples=int(SHARE * count))


def numpy(x):
    return ops.convert_to_numpy(x)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def prefixes(lengths, total):
    """(B, 1, total) bool: the first tokens of each sequence are real."""
    return np.arange(total) < np.array(lengths)[:, None, None]


@lru_cache
def built(make, num_heads, source_width=None):
    """A layer with random weights; the inputs change from case to case."""
    layer = make(WIDTH, num_heads, *([] if make is MultiHeadAttention else [16]))
    layer.build(*[(None, None, width) for width in (WIDTH, source_width) if width])
    generator = np.random.default_rng(num_heads)
    layer.set_weights(
        [w + 0.3 * generator.standard_normal(w.shape).astype("float32") for w in layer.get_weights()]
    )
    return layer


@cases(200)
@given(st.data(), lengths, lengths, st.integers(1, 5), st.integers(1, 5), seeds)
def test_attention_is_a_mean_over_the_allowed(data, length, source_length, width, value_width, seed):
    mask = data.draw(arrays(bool, (length, source_length)))
    query, key = 3 * normal(seed, length, width), 3 * normal(seed + 1, source_length, width)
    value = normal(seed + 2, source_length, value_width)
    output, weights = map(numpy, scaled_dot_product_attention(query, key, value, mask))
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    seen = np.where(mask.any(axis=-1, keepdims=True), mask, True)
    assert (weights >= 0).all() and (weights[~seen] == 0).all()
    for row, allowed in zip(output, seen, strict=True):
        assert (row <= value[allowed].max(axis=0) + 1e-5).all()
        assert (row >= value[allowed].min(axis=0) - 1e-5).all()


@cases(120)
@given(st.data(), batches, lengths, lengths, heads, seeds)
def test_multi_head_attention_agrees_with_numpy(oracle, data, batch, length, source_length, num_heads, seed):
    layer = built(MultiHeadAttention, num_heads, SOURCE_WIDTH)
    shape = data.draw(st.sampled_from([(length,), (batch, 1), (batch, length)]))
    mask = data.draw(arrays(bool, (*shape, source_length)))
    query, key = normal(seed, batch, length, WIDTH), normal(seed + 1, batch, source_length, SOURCE_WIDTH)
    output, weights = layer(query, key, attention_mask=mask)
    expected_output, expected_weights = oracle.multi_head(layer, query, key, mask=mask)
    np.testing.assert_allclose(numpy(output), expected_output, atol=2e-5)
    np.testing.assert_allclose(numpy(weights), expected_weights, atol=1e-5)


@cases(90)
@given(st.data(), batches, lengths, heads, seeds)
def test_an_encoder_block_is_finite_under_any_mask(oracle, data, batch, length, num_heads, seed):
    block, source = built(EncoderBlock, num_heads), normal(seed, batch, length, WIDTH)
    mask = data.draw(arrays(bool, (batch, length, length)))
    output = numpy(block(source, attention_mask=mask))
    assert output.shape == source.shape and np.isfinite(output).all()
    np.testing.assert_allclose(output, oracle.encoder_block(block, source, mask), atol=1e-4)


@cases(80)
@given(st.lists(lengths, min_size=1, max_size=3), st.integers(1, 4), heads, seeds)
def test_padding_changes_no_real_output_of_an_encoder_block(real, padding, num_heads, seed):
    block, total = built(EncoderBlock, num_heads), max(real)
    source = normal(seed, len(real), total, WIDTH)
    garbage = 100 * normal(seed + 1, len(real), padding, WIDTH)
    short = numpy(block(source, attention_mask=prefixes(real, total)))
    long = numpy(
        block(np.concatenate([source, garbage], axis=1), attention_mask=prefixes(real, total + padding))
    )
    for row, length in enumerate(real):
        np.testing.assert_allclose(long[row, :length], short[row, :length], atol=1e-5)


@cases(60)
@given(st.data(), lengths, heads, seeds)
def test_an_encoder_block_knows_no_order(data, length, num_heads, seed):
    block, source = built(EncoderBlock, num_heads), normal(seed, 2, length, WIDTH)
    order = data.draw(st.permutations(range(length)))
    np.testing.assert_allclose(numpy(block(source[:, order])), numpy(block(source))[:, order], atol=1e-5)


@cases(80)
@given(st.data(), batches, st.integers(2, 6), lengths, heads, seeds)
def test_a_future_token_changes_no_earlier_output(data, batch, length, source_length, num_heads, seed):
    block, target = built(DecoderBlock, num_heads, SOURCE_WIDTH), normal(seed, batch, length, WIDTH)
    source = normal(seed + 1, batch, source_length, SOURCE_WIDTH)
    first = data.draw(st.integers(1, length - 1))
    mask = data.draw(arrays(bool, (batch, 1, length)))
    changed = target.copy()
    changed[:, first:] = 10 * normal(seed + 2, batch, length - first, WIDTH)
    before, after = (numpy(block(x, source, attention_mask=mask)) for x in (target, changed))
    assert np.abs(after - before)[:, :first].max() <= 1e-6  # also where the past is masked away


@cases(80)
@given(st.data(), batches, lengths, lengths, heads, seeds)
def test_a_decoder_block_is_finite_under_any_masks(
    oracle, data, batch, length, source_length, num_heads, seed
):
    block, target = built(DecoderBlock, num_heads, SOURCE_WIDTH), normal(seed, batch, length, WIDTH)
    source = normal(seed + 1, batch, source_length, SOURCE_WIDTH)
    mask = data.draw(arrays(bool, (batch, 1, length)))
    source_mask = data.draw(arrays(bool, (batch, 1, source_length)))
    output = numpy(block(target, source, attention_mask=mask, source_mask=source_mask))
    assert output.shape == target.shape and np.isfinite(output).all()
    np.testing.assert_allclose(
        output, oracle.decoder_block(block, target, source, mask, source_mask), atol=1e-4
    )


@cases(70)
@given(st.lists(lengths, min_size=1, max_size=3), lengths, st.integers(1, 4), heads, seeds)
def test_source_padding_changes_no_output_of_a_decoder_block(real, length, padding, num_heads, seed):
    block, total = built(DecoderBlock, num_heads, SOURCE_WIDTH), max(real)
    target, source = normal(seed, len(real), length, WIDTH), normal(seed + 1, len(real), total, SOURCE_WIDTH)
    garbage = 100 * normal(seed + 2, len(real), padding, SOURCE_WIDTH)
    short = numpy(block(target, source, source_mask=prefixes(real, total)))
    longer = np.concatenate([source, garbage], axis=1)
    long = numpy(block(target, longer, source_mask=prefixes(real, total + padding)))
    np.testing.assert_allclose(long, short, atol=1e-5)


@cases(50)
@given(st.data(), batches, lengths, lengths, heads, seeds)
def test_steps_with_a_cache_equal_one_call(data, batch, length, source_length, num_heads, seed):
    block, target = built(DecoderBlock, num_heads, SOURCE_WIDTH), normal(seed, batch, length, WIDTH)
    source = normal(seed + 1, batch, source_length, SOURCE_WIDTH)
    source_mask = prefixes(data.draw(st.lists(lengths, min_size=batch, max_size=batch)), source_length)
    whole = numpy(block(target, source, source_mask=source_mask))
    cache, pair = (
        block.start_cache(batch, length + data.draw(st.integers(0, 2))),
        block.project_source(source),
    )
    position, outputs = 0, []
    while position < length:
        size = data.draw(st.integers(1, length - position))
        output, cache = block.step(target[:, position : position + size], cache, position, pair, source_mask)
        outputs.append(numpy(output))
        position += size
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), whole, atol=1e-5)


@cases(200)
@given(st.data(), batches, lengths)
def test_masks_are_what_they_are_defined_to_be(data, batch, length):
    tokens = data.draw(arrays("int32", (batch, length), elements=st.integers(0, 3)))
    padding_id = data.draw(st.integers(0, 3))
    mask = numpy(ops.logical_and(padding_mask(tokens, padding_id), causal_mask(length)))
    for row, t, s in np.ndindex(batch, length, length):
        assert mask[row, t, s] == (s <= t and tokens[row, s] != padding_id)


@cases(100)
@given(st.data(), batches, lengths, st.sampled_from(["sinusoidal", "learned", "none"]))
def test_an_embedding_may_start_anywhere(data, batch, length, positions):
    layer = embedding(positions)
    tokens = data.draw(arrays("int32", (batch, length), elements=st.integers(0, 9)))
    start = data.draw(st.integers(0, length - 1))
    whole = numpy(layer(tokens))
    np.testing.assert_allclose(numpy(layer(tokens[:, start:], start=start)), whole[:, start:], atol=1e-6)


@lru_cache
def embedding(positions):
    return TokenPositionEmbedding(10, 6, 4, positions)
