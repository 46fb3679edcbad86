"""Masks and attention: numbers done by hand, NumPy and Keras as second opinions, bad input."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from companion import (
    MultiHeadAttention,
    attention_distribution,
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)

pytestmark = pytest.mark.backend
E = math.e


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, atol=tolerance, rtol=tolerance)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype("float32")


def masks(rng, batch, length, source_length):
    """One mask of each shape that a layer accepts."""
    shapes = (length, source_length), (batch, 1, source_length), (batch, length, source_length)
    return [np.logical_or(rng.random(shape) < 0.6, np.arange(source_length) == 0) for shape in shapes]


# Masks


def test_padding_mask_is_true_on_real_tokens():
    mask = ops.convert_to_numpy(padding_mask(np.array([[7, 5, 0], [4, 0, 0]])))
    assert mask.dtype == bool
    assert mask.tolist() == [[[True, True, False]], [[True, False, False]]]
    assert ops.convert_to_numpy(padding_mask(np.array([[7, 5, 9]]), padding_id=5)).tolist() == [
        [[True, False, True]]
    ]


def test_causal_mask_is_a_lower_triangle():
    assert ops.convert_to_numpy(causal_mask(3)).tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_masks_combine_to_one_square_for_each_sequence():
    tokens = np.array([[7, 5, 0], [4, 6, 8]])
    both = ops.logical_and(padding_mask(tokens), causal_mask(3))
    assert tuple(both.shape) == (2, 3, 3)
    assert ops.convert_to_numpy(both)[0].tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, False],
    ]


# Scaled dot-product attention


def test_two_tokens():
    output, weights = scaled_dot_product_attention(
        query=np.float32([[1]]), key=np.float32([[0], [1]]), value=np.float32([[10], [20]])
    )
    close(weights, [[1 / (1 + E), E / (1 + E)]])
    close(output, [[(10 + 20 * E) / (1 + E)]], 1e-5)


def test_scores_are_divided_by_the_root_of_the_width():
    query, key = np.ones((1, 16), "float32"), np.stack([np.zeros(16, "float32"), np.ones(16, "float32")])
    _, weights = scaled_dot_product_attention(query, key, key)
    close(weights, [[1 / (1 + E**4), E**4 / (1 + E**4)]])  # 16 / sqrt(16) = 4


def test_the_articles_four_words():
    """The worked case: one-hot vectors of width 4, one head, identity projections."""
    words = np.eye(4, dtype="float32")
    output, weights = scaled_dot_product_attention(words, words, words)
    other = 1 / (math.exp(0.5) + 3)
    close(weights, np.where(np.eye(4, dtype=bool), math.exp(0.5) * other, other))
    close(output, ops.convert_to_numpy(weights))  # identity values: the output is the weights
    close(np.diag(ops.convert_to_numpy(weights)), [0.3547] * 4, 1e-3)

    _, causal = scaled_dot_product_attention(words, words, words, causal_mask(4))
    rows = [
        [1, 0, 0, 0],
        [0.3775, 0.6225, 0, 0],
        [0.2741, 0.2741, 0.4519, 0],
        [0.2151, 0.2151, 0.2151, 0.3547],
    ]
    np.testing.assert_allclose(ops.convert_to_numpy(causal), rows, atol=6e-5)


def test_equal_keys_give_the_mean_of_the_values(rng):
    query, value = normal(rng, 3, 4), normal(rng, 5, 2)
    output, _ = scaled_dot_product_attention(query, np.ones((5, 4), "float32"), value)
    close(output, np.tile(value.mean(axis=0), (3, 1)))


def test_agrees_with_numpy(rng, oracle):
    query, key, value = normal(rng, 3, 4), normal(rng, 6, 4), normal(rng, 6, 5)
    for mask in (None, rng.random((3, 6)) < 0.5, np.zeros((3, 6), bool)):
        output, weights = scaled_dot_product_attention(query, key, value, mask)
        expected_output, expected_weights = oracle.attention(query, key, value, mask)
        close(weights, expected_weights)
        close(output, expected_output, 1e-5)


def test_masked_entries_are_exactly_zero_and_rows_sum_to_one(rng):
    mask = np.array([[True, False, True], [False, False, True]])
    weights = attention_distribution(normal(rng, 2, 4), normal(rng, 3, 4), mask)
    weights = ops.convert_to_numpy(weights)
    assert (weights[~mask] == 0).all() and (weights[mask] > 0).all()
    close(weights.sum(axis=-1), [1, 1])


def test_a_fully_masked_row_is_uniform(rng):
    mask = np.array([[False, False, False], [True, True, True]])
    output, weights = scaled_dot_product_attention(
        normal(rng, 2, 4), normal(rng, 3, 4), np.eye(3, dtype="float32"), mask
    )
    close(ops.convert_to_numpy(weights)[0], [1 / 3] * 3)
    close(ops.convert_to_numpy(output)[0], [1 / 3] * 3)


def test_huge_scores_stay_finite():
    query = np.float32([[3e4, -3e4]])
    _, weights = scaled_dot_product_attention(query, np.float32([[1, 0], [0, 1]]), np.eye(2, dtype="float32"))
    close(weights, [[1, 0]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32(dtype):
    """4,096 equal weights of 2^-12 each: a float16 sum of the powers stops growing at 2,048."""
    query, key = ops.zeros((1, 2), dtype), ops.zeros((4096, 2), dtype)
    weights = attention_distribution(query, key, np.ones((1, 4096), bool))
    assert keras.backend.standardize_dtype(weights.dtype) == dtype
    close(ops.cast(weights, "float32"), np.full((1, 4096), 2.0**-12))


def test_wrong_shapes_are_refused(rng):
    with pytest.raises(ValueError, match=r"same width; received query \(2, 4\), key \(3, 5\)\."):
        scaled_dot_product_attention(normal(rng, 2, 4), normal(rng, 3, 5), normal(rng, 3, 4))
    with pytest.raises(ValueError, match=r"same length; received key \(3, 4\), value \(2, 4\)\."):
        scaled_dot_product_attention(normal(rng, 2, 4), normal(rng, 3, 4), normal(rng, 2, 4))


# Multi-head attention


def keras_twin(layer, query, key, value):
    """keras.layers.MultiHeadAttention with the same weights."""
    heads, width = layer.num_heads, layer.model_dim // layer.num_heads
    twin = keras.layers.MultiHeadAttention(heads, width, output_shape=layer.model_dim)
    twin(query, value, key)
    weights = []
    for projection in (layer.query_projection, layer.key_projection, layer.value_projection):
        kernel, bias = (ops.convert_to_numpy(weight) for weight in projection.weights)
        weights += [kernel.reshape(-1, heads, width), bias.reshape(heads, width)]
    kernel, bias = (ops.convert_to_numpy(weight) for weight in layer.output_projection.weights)
    twin.set_weights([*weights, kernel.reshape(heads, width, -1), bias])
    return twin


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_agrees_with_keras_and_with_numpy(rng, oracle, randomized, num_heads):
    query, key, value = normal(rng, 3, 5, 6), normal(rng, 3, 7, 10), normal(rng, 3, 7, 9)
    layer = MultiHeadAttention(8, num_heads)
    layer(query, key, value)
    randomized(layer)
    twin = keras_twin(layer, query, key, value)
    for mask in [None, *masks(rng, 3, 5, 7)]:
        output, weights = layer(query, key, value, attention_mask=mask)
        assert tuple(output.shape) == (3, 5, 8) and tuple(weights.shape) == (3, num_heads, 5, 7)
        theirs = mask if mask is None or mask.ndim == 3 else np.broadcast_to(mask, (3, 5, 7))
        output_there, weights_there = twin(
            query, value, key, attention_mask=theirs, return_attention_scores=True
        )
        close(output, ops.convert_to_numpy(output_there), 1e-5)
        close(weights, ops.convert_to_numpy(weights_there), 1e-5)
        expected_output, expected_weights = oracle.multi_head(layer, query, key, value, mask)
        close(output, expected_output, 1e-5)
        close(weights, expected_weights, 1e-5)


def test_key_and_value_default_to_query(rng, randomized):
    x, memory = normal(rng, 2, 5, 8), normal(rng, 2, 3, 8)
    layer = MultiHeadAttention(8, 2)
    layer(x)
    randomized(layer)
    close(layer(x)[0], ops.convert_to_numpy(layer(x, x, x)[0]))
    close(layer(x, memory)[0], ops.convert_to_numpy(layer(x, memory, memory)[0]))


def test_a_call_is_project_then_attend(rng, randomized):
    x, memory, mask = normal(rng, 2, 5, 8), normal(rng, 2, 3, 8), np.array([[[True, True, False]]] * 2)
    layer = MultiHeadAttention(8, 2)
    layer(x, memory)
    randomized(layer)
    keys, values = layer.project(memory)
    assert tuple(keys.shape) == tuple(values.shape) == (2, 2, 3, 4)
    for ours, whole in zip(
        layer.attend(x, keys, values, mask), layer(x, memory, attention_mask=mask), strict=True
    ):
        close(ours, ops.convert_to_numpy(whole))


def test_a_mask_may_differ_between_heads(rng, oracle, randomized):
    x = normal(rng, 2, 3, 8)
    layer = MultiHeadAttention(8, 2)
    layer(x)
    randomized(layer)
    mask = np.broadcast_to(np.stack([np.tri(3, dtype=bool), np.ones((3, 3), bool)]), (2, 2, 3, 3))
    weights = ops.convert_to_numpy(layer(x, attention_mask=mask)[1])
    close(weights[:, 0], oracle.multi_head(layer, x, mask=np.tri(3, dtype=bool))[1][:, 0], 1e-5)
    close(weights[:, 1], oracle.multi_head(layer, x)[1][:, 1], 1e-5)


def test_dropout_acts_in_training_only_and_leaves_the_weights_returned(rng):
    x = normal(rng, 2, 6, 8)
    layer = MultiHeadAttention(8, 2, dropout=0.5)
    still, still_weights = map(ops.convert_to_numpy, layer(x))
    close(layer(x, training=False)[0], still)
    dropped, weights = layer(x, training=True)
    assert np.abs(ops.convert_to_numpy(dropped) - still).max() > 1e-3
    close(weights, still_weights)


def test_training_moves_every_weight_but_the_key_bias(rng, step_changes):
    """softmax(s + c) = softmax(s): a key bias adds q·b to a whole row, so it changes nothing."""
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, MultiHeadAttention(8, 2, name="attention")(inputs)[0])
    changes = step_changes(model, normal(rng, 4, 5, 8), normal(rng, 4, 5, 8))
    assert len(changes) == 8
    for path, change in changes.items():
        assert change < 1e-6 if "key/bias" in path else change > 1e-6, path


def test_parameters_are_counted():
    layer = MultiHeadAttention(12, 3)
    layer.build((None, None, 12))
    assert layer.count_params() == 4 * (12 * 12 + 12)


@pytest.mark.parametrize("num_heads", [3, 0, -2])
def test_heads_that_do_not_divide_are_refused(num_heads):
    message = rf"num_heads must divide model_dim; received model_dim=10, num_heads={num_heads}\."
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(10, num_heads)
