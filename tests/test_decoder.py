"""The decoder block and its cache, beside the same in NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from companion import DecoderBlock

pytestmark = pytest.mark.backend
TARGET_MASK = np.arange(5) < np.array([5, 3, 4])[:, None, None]  # (3, 1, 5)
SOURCE_MASK = np.arange(7) < np.array([7, 2, 5])[:, None, None]  # (3, 1, 7)


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, atol=tolerance, rtol=tolerance)


@pytest.fixture
def target(rng):
    return rng.standard_normal((3, 5, 8)).astype("float32")


@pytest.fixture
def source(rng):
    return rng.standard_normal((3, 7, 6)).astype("float32")  # neither the target's length nor its width


@pytest.fixture
def block(target, source, randomized):
    block = DecoderBlock(8, 2, 16)
    block(target, source)
    return randomized(block)


@pytest.fixture
def alone(target, randomized):
    block = DecoderBlock(8, 2, 16, cross_attention=False)
    block(target)
    return randomized(block)


def test_agrees_with_numpy(oracle, block, target, source):
    for mask, source_mask in [
        (None, None),
        (TARGET_MASK, None),
        (None, SOURCE_MASK),
        (TARGET_MASK, SOURCE_MASK),
    ]:
        output = block(target, source, attention_mask=mask, source_mask=source_mask)
        expected = oracle.decoder_block(block, target, source, True if mask is None else mask, source_mask)
        close(output, expected)


def test_agrees_with_numpy_without_a_source(oracle, alone, target):
    close(alone(target), oracle.decoder_block(alone, target))
    close(alone(target, attention_mask=TARGET_MASK), oracle.decoder_block(alone, target, mask=TARGET_MASK))


def test_the_future_is_hidden(block, target, source):
    before = ops.convert_to_numpy(block(target, source))
    for t in range(1, 5):
        changed = target.copy()
        changed[:, t:] = 1e3
        after = ops.convert_to_numpy(block(changed, source))
        assert np.abs(after[:, :t] - before[:, :t]).max() <= 1e-6
        assert np.abs(after[:, t] - before[:, t]).max() > 1e-3


def test_a_target_that_begins_with_padding_does_not_see_its_future(block, target, source):
    mask = np.array([0, 0, 1, 1, 1], bool)[None, None]
    before = ops.convert_to_numpy(block(target, source, attention_mask=mask))
    changed = target.copy()
    changed[:, 2:] = 1e3
    after = ops.convert_to_numpy(block(changed, source, attention_mask=mask))
    np.testing.assert_allclose(after[:, :2], before[:, :2], atol=1e-6)
    self_weights, _ = block.attention_weights(target, source, attention_mask=mask)
    expected = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]  # nothing else is allowed to them
    close(self_weights[0, 0, :3], expected, 1e-6)


def test_the_source_is_read_and_its_padding_is_not(block, target, source):
    before = ops.convert_to_numpy(block(target, source, source_mask=SOURCE_MASK))
    assert np.abs(ops.convert_to_numpy(block(target, source[::-1].copy())) - before).max() > 1e-3
    garbage = np.where(SOURCE_MASK[:, 0, :, None], source, 1e3).astype("float32")
    close(block(target, garbage, source_mask=SOURCE_MASK), before, 1e-6)
    close(block(target[1:2], source[1:2, :2]), before[1:2])  # cut to its real length


@pytest.mark.parametrize("sizes", [[1] * 5, [5], [2, 3], [1, 4], [3, 1, 1]])
def test_steps_with_a_cache_equal_one_call(block, target, source, sizes):
    whole = ops.convert_to_numpy(block(target, source, source_mask=SOURCE_MASK))
    cache, pair, position = block.start_cache(3, 9), block.project_source(source), 0  # room for 9, 5 are used
    for size in sizes:
        new = target[:, position : position + size]
        output, cache = block.step(new, cache, ops.convert_to_tensor(position), pair, SOURCE_MASK)
        close(output, whole[:, position : position + size])
        position += size


def test_steps_without_a_source_equal_one_call(alone, target):
    whole, cache = ops.convert_to_numpy(alone(target)), alone.start_cache(3, 5)
    for t in range(5):
        output, cache = alone.step(target[:, t : t + 1], cache, t)
        close(output, whole[:, t : t + 1])


def test_a_cache_is_a_value(block, target, source):
    """A step changes neither the cache it was given nor the block: a beam can be continued in two ways."""
    pair, empty = block.project_source(source), block.start_cache(3, 5)
    assert [tuple(half.shape) for half in empty] == [(3, 2, 5, 4)] * 2
    first, _ = block.step(target[:, :1], empty, 0, pair)
    assert all((ops.convert_to_numpy(half) == 0).all() for half in empty)
    again, _ = block.step(target[:, :1], empty, 0, pair)
    close(again, ops.convert_to_numpy(first), 0)


@pytest.mark.parametrize("position", [4, -1, np.int64(6)])
def test_a_step_past_the_cache_is_refused(alone, target, position):
    cache = alone.start_cache(3, 5)
    alone.step(target[:, :2], cache, 3)
    message = rf"position must leave room for 2 more in a cache of 5; received position={position}\."
    with pytest.raises(ValueError, match=message):
        alone.step(target[:, :2], cache, position)


def test_attention_weights_are_those_of_the_call(block, target, source):
    self_weights, source_weights = block.attention_weights(target, source, TARGET_MASK, SOURCE_MASK)
    self_weights, source_weights = ops.convert_to_numpy(self_weights), ops.convert_to_numpy(source_weights)
    assert self_weights.shape == (3, 2, 5, 5) and source_weights.shape == (3, 2, 5, 7)
    assert (np.triu(self_weights, 1) == 0).all()
    assert (self_weights[1, :, :3, 3:] == 0).all() and (source_weights[1, :, :, 2:] == 0).all()
    assert (self_weights[1, :, 4, 3] == 0).all()  # padding attends to itself, to no other padding
    close(self_weights.sum(-1), np.ones((3, 2, 5)))
    close(source_weights.sum(-1), np.ones((3, 2, 5)))
    # Equal at its first position, where self-attention can only choose itself.
    close(self_weights[..., 0, 0], np.ones((3, 2)))


def test_attention_weights_without_a_source(alone, target):
    self_weights, source_weights = alone.attention_weights(target)
    assert tuple(self_weights.shape) == (3, 2, 5, 5) and source_weights is None


def test_parameters_are_counted(block, alone):
    own = 4 * (8 * 8 + 8) + (8 * 16 + 16) + (16 * 8 + 8) + 2 * 2 * 8
    assert alone.count_params() == own
    assert block.count_params() == own + 2 * (8 * 8 + 8) + 2 * (6 * 8 + 8) + 2 * 8


def test_training_moves_every_weight_but_the_key_biases(target, source, step_changes):
    inputs = keras.Input((None, 8)), keras.Input((None, 6))
    model = keras.Model(inputs, DecoderBlock(8, 2, 16)(*inputs))
    changes = step_changes(model, [target, source], target[::-1].copy())
    assert len(changes) == 26
    for path, change in changes.items():
        assert change < 1e-6 if "key/bias" in path else change > 1e-6, path


def test_dropout_acts_in_training_only(target, source):
    block = DecoderBlock(8, 2, 16, dropout=0.5)
    still = ops.convert_to_numpy(block(target, source))
    close(block(target, source, training=False), still)
    assert np.abs(ops.convert_to_numpy(block(target, source, training=True)) - still).max() > 1e-3


@pytest.mark.parametrize("symbolic", [False, True])
def test_a_source_is_given_if_and_only_if_it_is_read(target, source, symbolic):
    target, source = (keras.Input((5, 8)), keras.Input((7, 6))) if symbolic else (target, source)
    with pytest.raises(ValueError, match=r"source must be given to a block with cross_attention=True\."):
        DecoderBlock(8, 2, 16)(target)
    with pytest.raises(ValueError, match=r"source must be left out of a block with cross_attention=False\."):
        DecoderBlock(8, 2, 16, cross_attention=False)(target, source)


def test_a_source_is_asked_for_once_built(block, alone, target, source):
    with pytest.raises(ValueError, match="source must be given"):
        block.project_source(None)
    with pytest.raises(ValueError, match="source must be left out"):
        alone.project_source(source)


@pytest.mark.parametrize("width", [1, 6])
def test_another_width_is_refused(width):
    message = rf"target must have width model_dim=8; received shape \(2, 5, {width}\)\."
    with pytest.raises(ValueError, match=message):
        DecoderBlock(8, 2, 16, cross_attention=False)(np.ones((2, 5, width), "float32"))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(
        ValueError, match=r"num_heads must divide model_dim; received model_dim=10, num_heads=3\."
    ):
        DecoderBlock(10, 3, 16)
