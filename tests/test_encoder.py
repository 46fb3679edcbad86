"""The feed-forward network and the encoder block, beside the same in NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from companion import EncoderBlock, FeedForward, TokenPositionEmbedding

pytestmark = pytest.mark.backend
MASK = np.array([[[True, True, True, False, False]], [[True] * 5]])  # (2, 1, 5)


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, atol=tolerance, rtol=tolerance)


@pytest.fixture
def source(rng):
    return rng.standard_normal((2, 5, 8)).astype("float32")


@pytest.fixture
def block(source, randomized):
    block = EncoderBlock(8, 2, 16)
    block(source)
    return randomized(block)


def test_feed_forward_done_by_hand():
    layer = FeedForward(1, 2)
    layer.build((None, None, 1))
    layer.set_weights([np.float32([[1, -1]]), np.float32([0, 1]), np.float32([[2], [3]]), np.float32([10])])
    # hidden: relu(x), relu(1 - x); output: 2 relu(x) + 3 relu(1 - x) + 10
    close(layer(np.float32([[[0.5], [4], [-1]]])), [[[12.5], [18], [16]]])


def test_feed_forward_sees_each_position_alone(source):
    layer = FeedForward(8, 16, activation="gelu")
    close(layer(source[:, 2:3]), ops.convert_to_numpy(layer(source))[:, 2:3])


def test_agrees_with_numpy(oracle, block, source):
    square = np.array([np.tri(5, dtype=bool), ~np.eye(5, dtype=bool)])
    for mask in (None, MASK, square, np.tri(5, dtype=bool)):
        close(block(source, attention_mask=mask), oracle.encoder_block(block, source, mask))


def test_an_untrained_block_adds_to_its_input():
    """With both output projections 0 nothing is added: the block is the identity."""
    block, x = EncoderBlock(8, 2, 16), np.ones((1, 3, 8), "float32") * np.arange(8, dtype="float32")
    block(x)
    for layer in (block.attention.output_projection, block.feed_forward.output_projection):
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    close(block(x), x)


def test_padding_changes_no_real_output(block, source):
    longer = np.concatenate([source, 1e3 * np.ones((2, 3, 8), "float32")], axis=1)
    mask = np.arange(8)[None, None] < np.array([3, 5])[:, None, None]
    long, short = block(longer, attention_mask=mask), block(source, attention_mask=MASK)
    close(ops.convert_to_numpy(long)[0, :3], ops.convert_to_numpy(short)[0, :3])
    close(ops.convert_to_numpy(long)[1, :5], ops.convert_to_numpy(short)[1])


def test_without_positions_order_does_not_matter_and_with_them_it_does(block, rng):
    order, tokens = rng.permutation(5), np.array([[3, 1, 4, 1, 5]])
    for positions, equivariant in (("none", True), ("sinusoidal", False)):
        embedding = TokenPositionEmbedding(10, 5, 8, positions)
        straight = ops.convert_to_numpy(block(embedding(tokens)))
        permuted = ops.convert_to_numpy(block(embedding(tokens[:, order])))
        assert (np.abs(permuted - straight[:, order]).max() < 1e-5) == equivariant


def test_attention_weights_are_those_of_the_call(oracle, block, source):
    weights = ops.convert_to_numpy(block.attention_weights(source, MASK))
    assert weights.shape == (2, 2, 5, 5)
    centered = source - source.mean(-1, keepdims=True)
    gamma, beta = block.attention_norm.get_weights()
    normalized = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6) * gamma + beta
    close(weights, oracle.multi_head(block.attention, normalized, mask=MASK)[1])
    assert (weights[0, :, :, 3:] == 0).all()


def test_parameters_are_counted(block):
    attention, feed_forward, norms = 4 * (8 * 8 + 8), (8 * 16 + 16) + (16 * 8 + 8), 2 * 2 * 8
    assert block.count_params() == attention + feed_forward + norms


def test_training_moves_every_weight_but_the_key_bias(source, step_changes):
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, EncoderBlock(8, 2, 16)(inputs))
    changes = step_changes(model, source, source[::-1].copy())
    assert len(changes) == 16
    for path, change in changes.items():
        assert change < 1e-6 if "key/bias" in path else change > 1e-6, path


def test_dropout_acts_in_training_only(source):
    block = EncoderBlock(8, 2, 16, dropout=0.5)
    still = ops.convert_to_numpy(block(source))
    close(block(source, training=False), still)
    first, second = (ops.convert_to_numpy(block(source, training=True)) for _ in range(2))
    assert np.abs(first - still).max() > 1e-3 and np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("width", [1, 6])
def test_another_width_is_refused(width):
    message = rf"source must have width model_dim=8; received shape \(2, 5, {width}\)\."
    with pytest.raises(ValueError, match=message):
        EncoderBlock(8, 2, 16)(np.ones((2, 5, width), "float32"))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(
        ValueError, match=r"num_heads must divide model_dim; received model_dim=10, num_heads=3\."
    ):
        EncoderBlock(10, 3, 16)
