"""Token and position vectors: values done by hand, properties of the sinusoids, bad input."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from companion import TokenPositionEmbedding, positional_encoding

pytestmark = pytest.mark.backend
KINDS = ("sinusoidal", "learned", "none")
TOKENS = np.array([[4, 7, 4, 0], [1, 2, 3, 4]])


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, atol=tolerance, rtol=tolerance)


def test_positions_done_by_hand():
    close(positional_encoding(3, 2), [[0, 1], [math.sin(1), math.cos(1)], [math.sin(2), math.cos(2)]])
    row = positional_encoding(8, 4)[5]
    close(row, [math.sin(5), math.cos(5), math.sin(0.05), math.cos(0.05)])  # 10000^(2/4) = 100
    assert positional_encoding(8, 4).dtype == np.float32


def test_rows_have_equal_length_and_differ():
    table = positional_encoding(200, 16)
    close((table**2).sum(axis=-1), np.full(200, 8), 1e-5)  # sin² + cos² = 1 in each of the 8 pairs
    distances = np.linalg.norm(table[:, None] - table[None], axis=-1) + 10 * np.eye(200)
    assert distances.min() > 0.5


def test_products_depend_on_the_distance_only():
    table = positional_encoding(50, 16).astype("float64")
    products = table @ table.T
    for distance in (1, 7, 30):
        diagonal = np.diag(products, distance)
        close(diagonal, np.full(len(diagonal), diagonal[0]), 1e-5)


def test_a_longer_table_begins_with_the_shorter():
    close(positional_encoding(30, 6)[:10], positional_encoding(10, 6))


@pytest.mark.parametrize("positions", KINDS)
def test_vectors_are_scaled_tokens_plus_positions(randomized, positions):
    layer = TokenPositionEmbedding(10, 6, 4, positions)
    layer.build((None, None))
    randomized(layer)
    weights = [ops.convert_to_numpy(weight) for weight in layer.weights]
    table = {"sinusoidal": positional_encoding(6, 4), "learned": weights[-1], "none": np.zeros((6, 4))}[
        positions
    ]
    close(layer(TOKENS), 2 * weights[0][TOKENS] + table[:4], 1e-5)  # sqrt(4) = 2
    assert layer.count_params() == 10 * 4 + 6 * 4 * (positions == "learned")


@pytest.mark.parametrize("positions", KINDS)
def test_start_continues_a_sequence(positions):
    layer = TokenPositionEmbedding(10, 6, 4, positions)
    whole = ops.convert_to_numpy(layer(TOKENS))
    for start in range(4):
        close(layer(TOKENS[:, start:], start=start), whole[:, start:])
        close(
            layer(TOKENS[:, start : start + 1], start=ops.convert_to_tensor(start)),
            whole[:, start : start + 1],
        )


def test_position_is_what_tells_equal_tokens_apart():
    same = np.full((1, 5), 3)
    for positions in KINDS:
        vectors = ops.convert_to_numpy(TokenPositionEmbedding(10, 5, 8, positions)(same))[0]
        gaps = np.abs(vectors[1:] - vectors[:-1]).max(axis=-1)
        assert (gaps == 0).all() if positions == "none" else (gaps > 1e-3).all()


@pytest.mark.parametrize("settings", [{}, {"initial_stddev": 0.1}])
def test_token_vectors_start_with_the_deviation_asked_for_after_scaling(settings):
    layer = TokenPositionEmbedding(2000, 4, 64, "none", **settings)
    vectors = ops.convert_to_numpy(layer(np.arange(2000).reshape(-1, 4)))
    wanted = settings.get("initial_stddev", 1)
    assert abs(vectors.std() / wanted - 1) < 0.01  # 128,000 draws: its standard error is 0.002


@pytest.mark.parametrize("positions", KINDS)
def test_training_moves_the_vectors_used_and_no_others(step_changes, positions):
    inputs = keras.Input((4,), dtype="int32")
    layer = TokenPositionEmbedding(10, 6, 4, positions)
    model = keras.Model(inputs, layer(inputs))
    before = [ops.convert_to_numpy(weight).copy() for weight in layer.weights]
    assert min(step_changes(model, TOKENS, np.ones((2, 4, 4), "float32")).values()) > 1e-4
    moved = [
        np.abs(ops.convert_to_numpy(w) - b).max(axis=-1) > 0
        for w, b in zip(layer.weights, before, strict=True)
    ]
    assert np.flatnonzero(moved[0]).tolist() == [0, 1, 2, 3, 4, 7]
    if positions == "learned":
        assert np.flatnonzero(moved[1]).tolist() == [0, 1, 2, 3]


def test_dropout_acts_in_training_only():
    layer = TokenPositionEmbedding(10, 6, 64, dropout=0.5)
    still = ops.convert_to_numpy(layer(TOKENS))
    dropped = ops.convert_to_numpy(layer(TOKENS, training=True))
    gone = dropped == 0
    assert 0.3 < gone.mean() < 0.7
    close(dropped[~gone], 2 * still[~gone])  # what stays is scaled up
    close(layer(TOKENS, training=False), still)


def test_too_long_a_sequence_is_refused():
    message = r"tokens must have at most max_length=3 positions; received shape \(2, 4\)\."
    with pytest.raises(ValueError, match=message):
        TokenPositionEmbedding(10, 3, 4)(TOKENS)


@pytest.mark.parametrize("start", [1, -1, 3])
def test_a_start_that_leaves_no_room_is_refused(start):
    message = rf"at most max_length=3 positions; received shape \(2, 3\) and start={start}\."
    with pytest.raises(ValueError, match=message):
        TokenPositionEmbedding(10, 3, 4)(TOKENS[:, :3], start=start)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_positions_past_the_table_are_no_numbers(positions):
    layer = TokenPositionEmbedding(10, 3, 4, positions)
    known = ops.convert_to_numpy(layer(TOKENS[:, :3]))
    for start, finite in {1: 2, 3: 0, -1: 2}.items():
        vectors = ops.convert_to_numpy(layer(TOKENS[:, :3], start=ops.convert_to_tensor(start)))
        right = np.isfinite(vectors).all(axis=(0, 2))
        assert right.sum() == finite and right.tolist() == np.isfinite(vectors).any(axis=(0, 2)).tolist()
    assert np.isfinite(known).all()


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_length_known_only_when_it_runs_is_loud_too(positions, jit_compile):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("lengths are known elsewhere")
    import tensorflow as tf

    layer = TokenPositionEmbedding(10, 3, 4, positions)
    signature = [tf.TensorSpec((None, None), tf.int32)]
    embed = tf.function(layer, input_signature=signature, jit_compile=jit_compile)
    vectors = embed(tf.constant(TOKENS, tf.int32)).numpy()
    close(vectors[:, :3], layer(TOKENS[:, :3]))
    assert np.isnan(vectors[:, 3]).all()


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match=r"initial_stddev must be above 0; received initial_stddev=0\."):
        TokenPositionEmbedding(10, 3, 4, initial_stddev=0)
    with pytest.raises(ValueError, match=r"vocabulary_size must be at least 1; received vocabulary_size=0\."):
        TokenPositionEmbedding(0, 3, 4)
    with pytest.raises(ValueError, match=r"max_length must be at least 1; received max_length=0\."):
        TokenPositionEmbedding(10, 0, 4)
    with pytest.raises(ValueError, match=r"positions must be .*'none'; received positions='rotary'\."):
        TokenPositionEmbedding(10, 3, 4, positions="rotary")
    with pytest.raises(ValueError, match=r"model_dim must be even and positive; received model_dim=5\."):
        TokenPositionEmbedding(10, 3, 5)
    assert TokenPositionEmbedding(10, 3, 5, positions="learned")(np.array([[1]])).shape == (1, 1, 5)
    with pytest.raises(ValueError, match=r"length must be at least 1; received length=0\."):
        positional_encoding(0, 4)
    with pytest.raises(ValueError, match=r"received model_dim=0\."):
        positional_encoding(4, 0)


def test_max_length_may_be_left_out_only_without_positions():
    layer = TokenPositionEmbedding(10, None, 4, "none")
    assert layer(np.zeros((1, 1000), "int32")).shape == (1, 1000, 4)
    with pytest.raises(ValueError, match=r"max_length must be given with positions='learned'; received No"):
        TokenPositionEmbedding(10, None, 4, "learned")


def test_halves_hold_the_same_sinusoids_in_another_order():
    table, halves = positional_encoding(6, 8), positional_encoding(6, 8, halves=True)
    np.testing.assert_array_equal(halves, np.concatenate([table[:, 0::2], table[:, 1::2]], axis=1))


def test_vectors_are_scaled_only_if_asked():
    layer = TokenPositionEmbedding(500, None, 16, "none", initial_stddev=0.3, scaled=False)
    vectors = ops.convert_to_numpy(layer(np.arange(500)[None]))[0]
    np.testing.assert_array_equal(vectors, ops.convert_to_numpy(layer.token_table))
    assert vectors.std() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("output_bias", [False, True])
def test_read_backwards_it_scores_every_token(rng, randomized, output_bias):
    layer = TokenPositionEmbedding(7, 5, 4, "learned", output_bias=output_bias)
    layer.build((None, None))
    randomized(layer)
    hidden = rng.standard_normal((2, 3, 4)).astype("float32")
    expected = hidden @ ops.convert_to_numpy(layer.token_table).T
    if output_bias:
        expected = expected + ops.convert_to_numpy(layer.output_bias)
    logits = layer(hidden, reverse=True)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(logits), expected, atol=1e-5)


def test_scores_are_float32_in_half_precision_too(rng):
    layer = TokenPositionEmbedding(7, 5, 4, dtype="mixed_bfloat16")
    logits = layer(rng.standard_normal((2, 3, 4)).astype("float32"), reverse=True)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    symbolic = layer(keras.Input((None, 4)), reverse=True)
    assert symbolic.shape == (None, None, 7) and symbolic.dtype == "float32"
