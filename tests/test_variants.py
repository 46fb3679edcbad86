"""What BERT, GPT and T5 change in the blocks, beside the same in NumPy; then the three models."""

import keras
import numpy as np
import pytest
from keras import ops

from companion import (
    DecoderBlock,
    EncoderBlock,
    FeedForward,
    MultiHeadAttention,
    RelativePositionBias,
    bert,
    gpt,
    lstm_language_model,
    t5,
    transformer,
)

pytestmark = pytest.mark.backend
VARIANTS = {
    "bert": {"norm_first": False, "activation": "gelu", "epsilon": 1e-3},
    "gpt": {"activation": "gelu_tanh", "epsilon": 1e-2},
    "marian": {"norm_first": False, "activation": "silu"},
    "t5": {"norm": "rms", "use_bias": False, "head_dim": 3, "scaled": False, "epsilon": 1e-3},
    "t5 v1.1": {"norm": "rms", "use_bias": False, "scaled": False, "activation": "gelu_tanh", "gated": True},
    "gated with biases, afterwards": {"norm": "rms", "norm_first": False, "gated": True, "head_dim": 5},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
TOKENS = np.array([[5, 3, 8, 1, 0, 0], [2, 9, 4, 7, 6, 1], [4, 0, 0, 0, 0, 0]], "int32")
TARGET = np.array([[2, 5, 7, 3], [2, 6, 0, 0], [2, 4, 8, 0]], "int32")
SEGMENTS = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]], "int32")
MODELS = {
    "gpt": (lambda: gpt(11, 8, 8, 2, 12), [TOKENS]),
    "bert": (lambda: bert(11, 8, 8, 2, 12, activation="gelu_tanh"), [TOKENS, SEGMENTS]),
    "t5": (lambda: t5(11, 8, 2, 12, 2, 1, head_dim=3), [TOKENS, TARGET]),
    "t5 v1.1": (
        lambda: t5(11, 8, 2, 12, activation="gelu_tanh", gated=True, tied=False),
        [TOKENS, TARGET],
    ),
    "marian": (
        lambda: transformer(
            *(11, 11, 8, 8, 2, 12),
            norm_first=False,
            activation="silu",
            positions="sinusoidal_halves",
            shared=True,
            num_decoder_layers=1,
            decoder_num_heads=4,
            decoder_hidden_dim=10,
        ),
        [TOKENS, TARGET],
    ),
    "lstm": (lambda: lstm_language_model(11, 8, 12, 2), [TOKENS]),
}
each_model = pytest.mark.parametrize(("make", "inputs"), MODELS.values(), ids=MODELS)


def close(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, atol=tolerance, rtol=tolerance)


def outputs(model, inputs):
    inputs = inputs[0] if len(inputs) == 1 else inputs
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(model(inputs, training=False))]


@pytest.fixture
def bias(rng):
    return rng.standard_normal((1, 2, 5, 5)).astype("float32")


# Blocks


@each_variant
def test_an_encoder_block_agrees_with_numpy(oracle, randomized, rng, bias, variant):
    source = rng.standard_normal((3, 5, 8)).astype("float32")
    mask = np.arange(5) < np.array([5, 3, 4])[:, None, None]
    block = EncoderBlock(8, 2, 12, **variant)
    block(source)
    randomized(block)
    expected = oracle.encoder_block(block, source, mask, bias)
    close(block(source, attention_mask=mask, position_bias=bias), expected)
    normalized = block.normalized(source, block.attention_norm)
    weights = oracle.multi_head(block.attention, ops.convert_to_numpy(normalized), mask=mask, bias=bias)[1]
    close(block.attention_weights(source, mask, bias), weights)


@each_variant
@pytest.mark.parametrize("cross_attention", [True, False])
def test_a_decoder_block_agrees_with_numpy_at_once_and_step_by_step(
    oracle, randomized, rng, bias, variant, cross_attention
):
    target = rng.standard_normal((3, 5, 8)).astype("float32")
    source = rng.standard_normal((3, 7, 6)).astype("float32") if cross_attention else None
    source_mask = np.arange(7) < np.array([7, 2, 5])[:, None, None] if cross_attention else None
    block = DecoderBlock(8, 2, 12, cross_attention=cross_attention, **variant)
    block(target, source)
    randomized(block)
    expected = oracle.decoder_block(block, target, source, source_mask=source_mask, bias=bias)
    close(block(target, source, source_mask=source_mask, position_bias=bias), expected)

    cache, pair, found = block.start_cache(3, 5), block.project_source(source), []
    for start, end in ((0, 2), (2, 3), (3, 5)):
        rows = bias[:, :, start:end]
        new, cache = block.step(target[:, start:end], cache, start, pair, source_mask, rows)
        found.append(ops.convert_to_numpy(new))
    close(np.concatenate(found, axis=1), expected)


@each_variant
def test_the_parameters_of_a_variant_are_counted(variant):
    block = EncoderBlock(8, 2, 12, **variant)
    block.build((None, None, 8))
    width = 2 * variant.get("head_dim", 4)
    biased, inner = variant.get("use_bias", True), 2 if variant.get("gated") else 1
    attention = 4 * 8 * width + (3 * width + 8) * biased
    feed_forward = (inner + 1) * 8 * 12 + (inner * 12 + 8) * biased
    norms = 2 * (8 if variant.get("norm") == "rms" else 16)
    assert block.count_params() == attention + feed_forward + norms


def test_activations_done_by_hand(oracle, rng):
    x = rng.standard_normal((1, 3, 4)).astype("float32")
    weights, values = [0.5 * rng.standard_normal(shape) for shape in ((4, 6), 6, (6, 4), 4)], {}
    for name in ("relu", "gelu", "gelu_tanh", "silu"):
        layer = FeedForward(4, 6, name)
        layer.build(x.shape)
        layer.set_weights(weights)
        values[name] = ops.convert_to_numpy(layer(x))
        close(values[name], oracle.feed_forward(layer, x))
    # the approximation is close, and not the same
    assert 1e-6 < np.abs(values["gelu"] - values["gelu_tanh"]).max() < 3e-3


def test_unscaled_queries_start_smaller():
    deviations = []
    for scaled in (True, False):
        layer = MultiHeadAttention(256, 4, scaled=scaled)
        layer.build((None, None, 256))
        deviations.append(ops.convert_to_numpy(layer.query_projection.kernel).std())
    assert deviations[0] / deviations[1] == pytest.approx(8, rel=0.05)  # the root of a head's width, 64


def test_unknown_variants_are_refused():
    with pytest.raises(ValueError, match=r"norm must be 'layer' or 'rms'; received norm='batch'\."):
        EncoderBlock(8, 2, 12, norm="batch")
    with pytest.raises(ValueError, match="gelu_fast"):
        DecoderBlock(8, 2, 12, activation="gelu_fast")
    with pytest.raises(ValueError, match=r"head_dim must be at least 1; received head_dim=0\."):
        EncoderBlock(8, 3, 12, head_dim=0)


# Relative positions


def test_buckets_done_by_hand():
    both = RelativePositionBias(1, num_buckets=8, max_distance=16)
    # of 4 on each side 2 are exact: 0, 1, then 2 to 5 (2 * 8**0.5 = 5.7), then all farther ones
    offsets = np.array([[0, -1, -2, -5, -6, -16, -99, 1, 2, 5, 6, 99]], "int32")
    expected = [[0, 1, 2, 2, 3, 3, 3, 5, 6, 6, 7, 7]]
    np.testing.assert_array_equal(ops.convert_to_numpy(both._buckets(offsets)), expected)
    one = RelativePositionBias(1, num_buckets=4, max_distance=16, bidirectional=False)
    expected = [[0, 1, 2, 2, 3, 3, 3, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(ops.convert_to_numpy(one._buckets(offsets)), expected)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_bias_depends_on_the_distance_and_its_rows_are_those_of_the_whole(rng, bidirectional):
    layer = RelativePositionBias(3, 8, 20, bidirectional)
    layer.build((None, None))
    layer.bias_table.assign(rng.standard_normal((8, 3)).astype("float32"))
    whole = ops.convert_to_numpy(layer(np.zeros((2, 30))))
    assert whole.shape == (1, 3, 30, 30)
    np.testing.assert_array_equal(whole[:, :, 1:, 1:], whole[:, :, :-1, :-1])
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.rows(7, 4, 30)), whole[:, :, 7:11])
    after = whole[0, 0][np.triu_indices(30)]
    assert len(set(after.tolist())) == (4 if bidirectional else 1)  # distance 0, and three for keys after it


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 0}, r"num_heads must be at least 1; received num_heads=0\."),
        ({"num_buckets": 7}, r"num_buckets must be at least 4 and even; received num_buckets=7\."),
        ({"num_buckets": 1, "bidirectional": False}, r"num_buckets must be at least 2; received num_b"),
        ({"max_distance": 8}, r"max_distance must be above 8; received max_distance=8\."),
    ],
)
def test_bad_buckets_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RelativePositionBias(**{"num_heads": 2, **settings})


# Models


@each_model
def test_dictionaries_and_lists_give_the_same_and_so_does_a_loaded_model(tmp_path, randomized, make, inputs):
    model = randomized(make())
    expected = outputs(model, inputs)
    names = [x.name for x in model.inputs]
    assert names in (["tokens"], ["tokens", "segments"], ["source_tokens", "target_tokens"])
    given = model(dict(zip(names, inputs, strict=True)), training=False)
    for actual, other in zip(keras.tree.flatten(given), expected, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(actual), other)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for actual, other in zip(outputs(loaded, inputs), expected, strict=True):
        np.testing.assert_array_equal(actual, other)


@each_model
def test_padding_on_the_right_changes_no_real_output(randomized, make, inputs):
    model = randomized(make())
    longer = [np.pad(x, ((0, 0), (0, 2))) for x in inputs]
    for short, long in zip(outputs(model, inputs), outputs(model, longer), strict=True):
        real = inputs[-1] != 0 if model.name != "bert" else TOKENS != 0
        if short.ndim == 3:
            short, long = short[real], long[:, : short.shape[1]][real]
        np.testing.assert_allclose(short, long, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["gpt", "t5", "t5 v1.1", "marian", "lstm"])
def test_no_language_model_sees_its_future(randomized, name):
    make, inputs = MODELS[name]
    model = randomized(make())
    changed = [*inputs[:-1], inputs[-1].copy()]
    changed[-1][:, 3] = 9
    before, after = outputs(model, inputs)[0], outputs(model, changed)[0]
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 1e-3


def test_bert_sees_both_sides_and_the_segments(randomized):
    make, (tokens, segments) = MODELS["bert"]
    model = randomized(make())
    hidden, pooled, logits = outputs(model, [tokens, segments])
    assert hidden.shape == (3, 6, 8) and pooled.shape == (3, 8) and logits.shape == (3, 6, 11)
    changed = tokens.copy()
    changed[1, 5] = 3
    assert (np.abs(outputs(model, [changed, segments])[0] - hidden)[1].max(axis=-1) > 1e-4).all()
    assert np.abs(outputs(model, [tokens, segments * 0])[0] - hidden)[0].max() > 1e-3
    dense = model.get_layer("pooler")
    expected = np.tanh(hidden[:, 0] @ ops.convert_to_numpy(dense.kernel) + ops.convert_to_numpy(dense.bias))
    np.testing.assert_allclose(pooled, expected, atol=1e-5)


def test_bert_without_its_heads():
    sizes = 11, 8, 8, 2, 12
    assert outputs(bert(*sizes, pooler=False, masked_lm=False), [TOKENS, SEGMENTS])[0].shape == (3, 6, 8)
    assert [x.shape for x in bert(*sizes, masked_lm=False).outputs] == [(None, None, 8), (None, 8)]
    assert [x.shape for x in bert(*sizes, pooler=False).outputs] == [(None, None, 8), (None, None, 11)]


def test_the_output_layer_is_the_embedding(randomized):
    for name in ("gpt", "t5", "marian"):
        make, inputs = MODELS[name]
        model = randomized(make())
        last = [layer for layer in model.layers if layer.name.startswith("decoder_")][-1]
        hidden = outputs(keras.Model(model.inputs, last.output), inputs)[0]
        embedding = model.get_layer("embedding")
        scale = 8**-0.5 if name == "t5" else 1
        expected = scale * hidden @ ops.convert_to_numpy(embedding.token_table).T
        if name == "marian":
            expected = expected + ops.convert_to_numpy(embedding.output_bias)
        np.testing.assert_allclose(outputs(model, inputs)[0], expected, atol=2e-5, rtol=2e-5)


def test_parameters_of_the_models_are_counted():
    vocabulary, width, inner = 11, 8, 12
    attention, feed_forward, norm = 4 * (width**2 + width), 2 * width * inner + inner + width, 2 * width
    block = attention + feed_forward + 2 * norm
    assert gpt(11, 8, 8, 2, 12).count_params() == (vocabulary + 8) * width + 2 * block + norm
    base = (vocabulary + 8 + 2) * width + norm + 2 * block
    dense = width**2 + width
    assert bert(11, 8, 8, 2, 12).count_params() == base + dense + dense + norm + vocabulary
    attention, feed_forward = 4 * width**2, 2 * width * inner
    encoder = 2 * (attention + feed_forward + 2 * width) + width + 32 * 2
    decoder = 2 * (2 * attention + feed_forward + 3 * width) + width + 32 * 2
    assert t5(11, 8, 2, 12).count_params() == vocabulary * width + encoder + decoder
    lstm = 4 * 12 * (8 + 12 + 1) + 4 * 12 * (12 + 12 + 1)
    assert lstm_language_model(11, 8, 12, 2).count_params() == 11 * 8 + lstm + 13 * 11


def test_gpt_attends_to_no_padding_if_told_which(randomized):
    tokens = np.array([[0, 0, 5, 3]], "int32")
    model, other = (randomized(gpt(11, 8, 8, 2, 12, padding_id=x)) for x in (0, None))
    changed = outputs(model, [np.array([[0, 7, 5, 3]], "int32")])[0]
    kept = outputs(model, [tokens])[0]
    assert np.abs(changed - kept)[:, 2:].max() > 1e-3  # 7 is no padding
    embedding = model.get_layer("embedding")
    embedding.token_table.assign(
        np.vstack([np.full((1, 8), 5.0), ops.convert_to_numpy(embedding.token_table)[1:]])
    )
    real = outputs(model, [tokens])[0][:, 2:, 1:]
    np.testing.assert_allclose(real, kept[:, 2:, 1:], atol=1e-5)  # what padding holds is not seen
    assert np.abs(outputs(other, [tokens])[0][:, 2:, 1:] - kept[:, 2:, 1:]).max() > 1e-3


def test_bad_sizes_of_models_are_refused():
    for make in (
        lambda: gpt(11, 8, num_layers=0),
        lambda: bert(11, 8, num_layers=0),
        lambda: t5(11, num_layers=0),
        lambda: lstm_language_model(11, num_layers=0),
    ):
        with pytest.raises(ValueError, match=r"num_layers must be at least 1; received num_layers=0\."):
            make()
    for make in (lambda: transformer(9, 9, 8, num_decoder_layers=0), lambda: t5(9, num_decoder_layers=0)):
        with pytest.raises(ValueError, match="num_decoder_layers must be at least 1; received num_decoder_l"):
            make()
    with pytest.raises(ValueError, match="num_heads must divide model_dim; .*num_heads=0"):
        transformer(9, 9, 8, decoder_num_heads=0)
    with pytest.raises(ValueError, match=r"one size; received source_vocabulary_size=9, target_vocabulary"):
        transformer(9, 8, 8, shared=True)
