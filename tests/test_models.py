"""The model builders: parameters, masks, saving, export, learning, bad input."""

import keras
import numpy as np
import pytest
from keras import ops

from companion import (
    DecoderBlock,
    EncoderBlock,
    TokenPositionEmbedding,
    add_lora,
    attention_weights,
    bert,
    gpt,
    lstm_classifier,
    lstm_seq2seq,
    padding_mask,
    t5,
    transformer,
    transformer_classifier,
)
from companion.classifiers import mean_of_real

backend = pytest.mark.backend
TOKENS = np.array([[5, 3, 8, 1, 0, 0], [2, 9, 4, 7, 6, 1], [4, 0, 0, 0, 0, 0]], "int32")
EAGERLY = keras.backend.backend() != "jax"  # eager JAX compiles an LSTM again at every call
TARGET = np.array([[2, 5, 7, 3], [2, 6, 0, 0], [2, 4, 8, 0]], "int32")
PAIR = {"source_tokens": TOKENS, "target_tokens": TARGET}

CLASSIFIERS = {
    "lstm": lambda: lstm_classifier(10, 3, 8, 6),
    "lstm stacked both ways": lambda: lstm_classifier(
        10, 3, 8, 6, num_layers=2, bidirectional=True, dropout=0.1
    ),
    "transformer": lambda: transformer_classifier(10, 3, 12, 8, 2, 16),
    "bag": lambda: transformer_classifier(10, 3, 12, 8, 2, 16, num_layers=0),
}
SEQUENCE_MODELS = {
    "transformer": lambda: transformer(10, 11, 12, 8, 2, 16, dropout=0.0),
    "lstm": lambda: lstm_seq2seq(10, 11, 8, 6, dropout=0.0),
}
ALL = [(make, TOKENS) for make in CLASSIFIERS.values()] + [(make, PAIR) for make in SEQUENCE_MODELS.values()]
each_classifier = pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
each_sequence_model = pytest.mark.parametrize("make", SEQUENCE_MODELS.values(), ids=SEQUENCE_MODELS)
each_model = pytest.mark.parametrize(
    ("make", "inputs"),
    ALL,
    ids=[f"{name} classifier" for name in CLASSIFIERS] + [f"{name} seq2seq" for name in SEQUENCE_MODELS],
)


def outputs(model, inputs):
    return ops.convert_to_numpy(model(inputs, training=False))


def lstm_parameters(width, hidden_dim):
    return 4 * hidden_dim * (width + hidden_dim + 1)


def block_parameters(m, f, attentions):
    """So many attentions and a feed-forward network, each with its normalization."""
    return attentions * (4 * (m * m + m) + 2 * m) + (m * f + f) + (f * m + m) + 2 * m


# Parameters


@backend
def test_the_articles_network_has_231361_parameters():
    """Embedding(13, 64), LSTM 128, LSTM 128, Dense 1; ours ends in one more unit, 129 weights."""
    printed = keras.Sequential([
        keras.Input((6,)),
        keras.layers.Embedding(13, 64),
        keras.layers.LSTM(128, return_sequences=True),
        keras.layers.LSTM(128),
        keras.layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip
    formula = 13 * 64 + lstm_parameters(64, 128) + lstm_parameters(128, 128) + (128 + 1)
    assert printed.count_params() == formula == 231_361
    assert lstm_classifier(13, 2, num_layers=2).count_params() == formula + 128 + 1


@backend
def test_parameters_follow_a_formula():
    forward, both_ways = CLASSIFIERS["lstm"](), CLASSIFIERS["lstm stacked both ways"]()
    assert forward.count_params() == 10 * 8 + lstm_parameters(8, 6) + (6 * 3 + 3)
    assert both_ways.count_params() == 10 * 8 + 2 * (lstm_parameters(8, 6) + lstm_parameters(12, 6)) + (
        12 * 3 + 3
    )
    encoder = 10 * 8 + 2 * block_parameters(8, 16, attentions=1)
    assert CLASSIFIERS["transformer"]().count_params() == encoder + 12 * 8 + (8 * 3 + 3)  # 12 positions
    decoder = 11 * 8 + 2 * block_parameters(8, 16, attentions=2)
    norms = 2 * (2 * 8)
    assert SEQUENCE_MODELS["transformer"]().count_params() == encoder + decoder + norms + (8 * 11 + 11)
    seq2seq = (10 + 11) * 8 + 2 * lstm_parameters(8, 6) + (6 * 11 + 11)
    assert SEQUENCE_MODELS["lstm"]().count_params() == seq2seq


# What they compute


@backend
@each_classifier
def test_a_classifier_gives_probabilities_that_padding_does_not_change(make, randomized):
    model = randomized(make())
    probabilities = outputs(model, TOKENS)
    assert probabilities.shape == (3, 3) and probabilities.dtype == np.float32 and (probabilities > 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(outputs(model, np.pad(TOKENS, ((0, 0), (0, 6)))), probabilities, atol=1e-6)
    np.testing.assert_allclose(outputs(model, TOKENS[:1, :4]), probabilities[:1], atol=1e-6)
    assert np.abs(probabilities[0] - probabilities[1]).max() > 1e-3
    assert np.isfinite(outputs(model, np.zeros((2, 4), "int32"))).all()  # an empty text


@backend
@each_sequence_model
def test_a_sequence_model_scores_each_next_token(make, randomized):
    model = randomized(make())
    logits = outputs(model, PAIR)
    assert logits.shape == (3, 4, 11) and logits.dtype == np.float32
    np.testing.assert_allclose(outputs(model, [TOKENS, TARGET]), logits)
    longer = {
        "source_tokens": np.pad(TOKENS, ((0, 0), (0, 3))),
        "target_tokens": np.pad(TARGET, ((0, 0), (0, 2))),
    }
    real = TARGET != 0
    np.testing.assert_allclose(outputs(model, longer)[:, :4][real], logits[real], atol=1e-5)
    alone = {"source_tokens": TOKENS[:1, :4], "target_tokens": TARGET[:1]}
    np.testing.assert_allclose(outputs(model, alone), logits[:1], atol=1e-5)


@backend
@each_sequence_model
def test_a_sequence_model_sees_the_source_and_no_future_token(make, randomized):
    model = randomized(make())
    before = outputs(model, PAIR)
    changed = TARGET.copy()
    changed[:, 2:] = 9
    after = outputs(model, PAIR | {"target_tokens": changed})
    assert np.abs(after - before)[:, :2].max() <= 1e-6 < 1e-3 < np.abs(after - before)[:, 2].max()
    other = outputs(model, PAIR | {"source_tokens": TOKENS[::-1].copy()})
    assert (np.abs(other - before)[0].max(axis=-1) > 1e-3).all()


@backend
@each_model
def test_training_moves_every_weight_but_the_key_biases(make, inputs, randomized, step_changes):
    model = randomized(make())
    labels = np.array([0, 1, 2]) if inputs is TOKENS else TARGET
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=inputs is PAIR)
    changes = step_changes(model, inputs, labels, loss)
    assert len(changes) == len(model.weights) - sum("seed" in weight.path for weight in model.weights)
    still = [path for path, change in changes.items() if change < 1e-6]
    assert all("key/bias" in path for path in still), still


# Learning


@backend
@each_classifier
def test_a_classifier_learns(make, rng):
    """The class is the remainder of its tokens by 3, all alike."""
    tokens = np.repeat(rng.integers(1, 10, (96, 1)), 3, axis=1).astype("int32")
    model = make()
    model.compile(keras.optimizers.Adam(0.03), "sparse_categorical_crossentropy", run_eagerly=EAGERLY)
    losses = model.fit(tokens, tokens[:, 0] % 3, batch_size=32, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]


@backend
@each_sequence_model
def test_a_sequence_model_learns(make, rng):
    """To repeat the source."""
    source = rng.integers(4, 10, (96, 4)).astype("int32")
    target = np.concatenate([np.full((96, 1), 2), source], axis=1).astype("int32")
    model = make()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss, jit_compile=False)
    inputs = {"source_tokens": source, "target_tokens": target[:, :-1]}
    losses = model.fit(inputs, target[:, 1:], batch_size=32, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.75 * losses[0]


@backend
@each_model
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_close_to_float32(make, inputs, policy, under_policy):
    expected, weights = (model := make()) and outputs(model, inputs), model.get_weights()
    with under_policy(policy):
        mixed = make()
    mixed.set_weights(weights)
    actual = outputs(mixed, inputs)
    assert actual.dtype == np.float32 and all(weight.dtype == "float32" for weight in mixed.trainable_weights)
    error = np.abs(actual - expected).mean() / np.abs(expected).mean()
    assert 0 < error < (0.01 if policy == "mixed_float16" else 0.05)


@backend
def test_the_mean_of_many_tokens_is_counted_in_full():
    mask = np.arange(70_000)[None, None] < 69_999  # float16 ends at 65,504
    vectors = np.where(mask[0, 0, :, None], 1, 100)[None].astype("float16")  # padding is 100
    mean = mean_of_real(ops.convert_to_tensor(vectors), ops.convert_to_tensor(mask))
    np.testing.assert_allclose(ops.convert_to_numpy(mean), [[1]], rtol=0.01)


# Saving


@backend
def test_models_load_in_a_fresh_process_with_identical_predictions(fresh_python, tmp_path, randomized):
    models = [randomized(make()) for make, _ in ALL]
    for i, (model, (_, inputs)) in enumerate(zip(models, ALL, strict=True)):
        model.save(tmp_path / f"{i}.keras")
        np.save(tmp_path / f"{i}.npy", model.predict(inputs, verbose=0))
    np.savez(tmp_path / "inputs.npz", **PAIR)
    fresh_python(
        "import keras, numpy as np\n"
        "import companion\n"
        "pair = dict(np.load('inputs.npz'))\n"
        f"for i in range({len(ALL)}):\n"
        "    model = keras.models.load_model(f'{i}.keras')\n"
        "    inputs = pair if len(model.inputs) == 2 else pair['source_tokens']\n"
        "    np.testing.assert_array_equal(model.predict(inputs, verbose=0), np.load(f'{i}.npy'))\n"
    )


def test_models_are_exported_and_served_without_companion(fresh_python, tmp_path, randomized):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a SavedModel is TensorFlow's format")
    for i, (make, inputs) in enumerate(ALL):
        model = randomized(make())
        model.export(tmp_path / str(i), verbose=False)
        np.save(tmp_path / f"{i}.npy", outputs(model, inputs))
    np.savez(tmp_path / "inputs.npz", **PAIR)
    fresh_python(
        "import sys\n"
        "import numpy as np\n"
        "import tensorflow as tf\n"
        "pair = list(np.load('inputs.npz').values())\n"
        f"for i in range({len(ALL)}):\n"
        "    loaded = tf.saved_model.load(str(i))\n"
        f"    inputs = pair if i >= {len(CLASSIFIERS)} else pair[0]\n"
        "    np.testing.assert_allclose(loaded.serve(inputs), np.load(f'{i}.npy'), atol=1e-5)\n"
        "assert 'companion' not in sys.modules\n"
    )


@backend
def test_weights_alone_are_saved_and_loaded(tmp_path, randomized):
    for make, inputs in ALL:
        model, other = randomized(make()), make()
        model.save_weights(tmp_path / "model.weights.h5")
        other.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_array_equal(outputs(other, inputs), outputs(model, inputs))


@backend
def test_companion_needs_no_tensorflow(fresh_python):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow is the backend")
    fresh_python(
        "import sys\n"
        "sys.modules['tensorflow'] = None\n"  # an import of it now fails
        "import numpy as np\n"
        "import companion\n"
        "model = companion.transformer(10, 11, 12, 8, 2, 16, 1)\n"
        "assert companion.generate(model, np.array([[4, 5]]), max_length=3).shape[0] == 1\n"
    )


# Attention weights


@backend
def test_attention_weights_of_a_classifier(randomized):
    model = randomized(CLASSIFIERS["transformer"]())
    weights = attention_weights(model, TOKENS)
    assert list(weights) == ["encoder_0", "encoder_1"]
    for each in weights.values():
        assert each.shape == (3, 2, 6, 6) and isinstance(each, np.ndarray)
        np.testing.assert_allclose(each.sum(axis=-1), 1, atol=1e-5)
        assert (each[0, :, :, 4:] == 0).all()


@backend
def test_attention_weights_are_those_that_make_the_output(oracle, randomized):
    """Computed again in NumPy from the second blocks' inputs, which the model gives."""
    model = randomized(SEQUENCE_MODELS["transformer"]())
    weights = attention_weights(model, PAIR)
    assert list(weights) == ["encoder_0", "encoder_1", "decoder_0", "decoder_1"]
    inner = keras.Model(
        model.inputs, [model.get_layer(name).output for name in ("encoder_0", "encoder_norm", "decoder_0")]
    )
    source, encoded, target = map(ops.convert_to_numpy, inner([TOKENS, TARGET]))
    source_mask, target_mask = (TOKENS != 0)[:, None], np.tri(4, dtype=bool)
    encoder, decoder = model.get_layer("encoder_1"), model.get_layer("decoder_1")

    normalized = ops.convert_to_numpy(encoder.attention_norm(source))
    expected = oracle.multi_head(encoder.attention, normalized, mask=source_mask)[1]
    np.testing.assert_allclose(weights["encoder_1"], expected, atol=1e-5)

    normalized = ops.convert_to_numpy(decoder.self_attention_norm(target))
    attended, expected = oracle.multi_head(decoder.self_attention, normalized, mask=target_mask)
    np.testing.assert_allclose(weights["decoder_1"][0], expected, atol=1e-5)

    normalized = ops.convert_to_numpy(decoder.source_attention_norm(target + attended))
    expected = oracle.multi_head(decoder.source_attention, normalized, encoded, mask=source_mask)[1]
    np.testing.assert_allclose(weights["decoder_1"][1], expected, atol=1e-5)


@backend
def test_attention_weights_take_a_list_and_survive_loading(tmp_path):
    model = SEQUENCE_MODELS["transformer"]()
    model.save(tmp_path / "model.keras")
    expected = attention_weights(model, PAIR)
    for one in (model, keras.models.load_model(tmp_path / "model.keras")):
        actual = attention_weights(one, [TOKENS, TARGET])
        for name in expected:
            np.testing.assert_allclose(actual[name][0], expected[name][0], atol=1e-6)


def one_block(block, masked):
    tokens = keras.Input((None,), dtype="int32")
    embedded = TokenPositionEmbedding(10, 8, 8)(tokens)
    return keras.Model(tokens, block(embedded, attention_mask=padding_mask(tokens) if masked else None))


@backend
def test_attention_weights_of_one_block_without_a_mask():
    encoder, decoder = EncoderBlock(8, 2, 16, name="one"), DecoderBlock(8, 2, 16, 0.0, False, name="one")
    weights = attention_weights(one_block(encoder, masked=False), TOKENS)["one"]
    assert weights.shape == (3, 2, 6, 6) and (weights > 0).all()
    self_weights, source_weights = attention_weights(one_block(decoder, masked=False), TOKENS)["one"]
    assert self_weights.shape == (3, 2, 6, 6) and source_weights is None
    assert (np.triu(self_weights, 1) == 0).all()


@backend
def test_attention_weights_are_those_of_this_model_where_two_share_a_block(randomized):
    block = EncoderBlock(8, 2, 16, name="one")
    without, masked = (randomized(one_block(block, mask), seed) for seed, mask in enumerate((False, True)))
    for model, mask in ((without, None), (masked, (TOKENS != 0)[:, None])):
        embedded = model.layers[1](TOKENS)
        expected = ops.convert_to_numpy(block.attention_weights(embedded, attention_mask=mask))
        np.testing.assert_allclose(attention_weights(model, TOKENS)["one"], expected, atol=1e-6)


@backend
def test_attention_weights_of_a_sequential_model():
    model = keras.Sequential([keras.Input((None, 8)), EncoderBlock(8, 2, 16, name="one")])
    assert attention_weights(model, np.ones((2, 3, 8), "float32"))["one"].shape == (2, 2, 3, 3)


@backend
def test_attention_weights_need_attention():
    with pytest.raises(
        ValueError, match=r"must hold EncoderBlock or DecoderBlock layers; received 'lstm_classifier'"
    ):
        attention_weights(CLASSIFIERS["lstm"](), TOKENS)


# Bad input


@backend
def test_bad_sizes_are_refused():
    for make in (lambda n: lstm_classifier(10, n), lambda n: transformer_classifier(10, n, 12)):
        with pytest.raises(ValueError, match=r"num_classes must be at least 2; received num_classes=1\."):
            make(1)
    with pytest.raises(ValueError, match=r"num_layers must be at least 1; received num_layers=0\."):
        lstm_classifier(10, 2, num_layers=0)
    with pytest.raises(ValueError, match=r"num_layers must be at least 1; received num_layers=0\."):
        transformer(10, 10, 12, 8, 2, 16, num_layers=0)
    with pytest.raises(ValueError, match=r"num_layers must be at least 0; received num_layers=-1\."):
        transformer_classifier(10, 2, 12, num_layers=-1)
    for make in (lambda: transformer(10, 10, 12, 8, 3), lambda: transformer_classifier(10, 2, 12, 8, 3)):
        with pytest.raises(
            ValueError, match=r"num_heads must divide model_dim; received model_dim=8, num_heads=3\."
        ):
            make()


@backend
def test_too_long_a_sequence_is_refused():
    model = transformer(10, 11, 4, 8, 2, 16, 1)
    with pytest.raises(
        ValueError, match=r"tokens must have at most max_length=4 positions; received shape \(3, 6\)\."
    ):
        model(PAIR)


# Quantization

QUANTIZED = {
    "gpt": (lambda: gpt(10, 12, 8, 2, 16, 2), TOKENS),
    "bert": (lambda: bert(10, 12, 8, 2, 16, 1), {"tokens": TOKENS, "segments": np.zeros_like(TOKENS)}),
    "t5": (lambda: t5(11, 8, 2, 16, 1, gated=True), PAIR),
    "transformer": (lambda: transformer(10, 11, 12, 8, 2, 16, 1), PAIR),
    "lora": (lambda: add_lora(gpt(10, 12, 8, 2, 16, 1), 2), TOKENS),
}


@backend
@pytest.mark.parametrize(("name", "mode"), [*((name, "int8") for name in QUANTIZED), ("gpt", "int4")])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_model_is_saved_and_loaded(name, mode, tmp_path, randomized):
    make, inputs = QUANTIZED[name]
    model = randomized(make())
    exact = keras.tree.flatten(model(inputs, training=False))
    model.quantize(mode)
    model.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras").save(tmp_path / "again.keras")
    loaded = keras.models.load_model(tmp_path / "again.keras")
    parts = [part for part in loaded._flatten_layers() if part.quantization_mode == mode]
    assert any("query" in part.path for part in parts) and any("hidden" in part.path for part in parts)
    found = [keras.tree.flatten(one(inputs, training=False)) for one in (model, loaded)]
    for one, other, whole in zip(*found, exact, strict=True):
        one, other, whole = map(ops.convert_to_numpy, (one, other, whole))
        np.testing.assert_array_equal(one, other)
        assert (one != whole).any() and np.abs(one - whole).mean() < np.abs(whole).mean()
