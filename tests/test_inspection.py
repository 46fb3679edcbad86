"""What is collected on the way: the model's own attention weights, what each block would answer."""

import itertools
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from companion import attention
from companion.captioning import captioner
from companion.classifiers import lstm_classifier, transformer_classifier
from companion.decoder import DecoderBlock
from companion.embedding import RelativePositionBias
from companion.encoder import EncoderBlock
from companion.heads import classifier, tagger
from companion.inspection import attention_weights, logit_lens, stacked_weights
from companion.lora import add_lora, merge_lora
from companion.models import bert, gpt, t5, transformer
from companion.pretraining import Pretrainer

backend = pytest.mark.backend
SOURCE = np.array([[5, 3, 8, 1, 0, 0], [2, 9, 4, 7, 6, 1]], "int32")
TARGET = np.array([[2, 5, 7, 3], [2, 6, 0, 0]], "int32")
TEXT = {"tokens": SOURCE}
TWO = {"tokens": SOURCE, "segments": (SOURCE > 4).astype("int32")}
PAIR = {"source_tokens": SOURCE, "target_tokens": TARGET}
PICTURE = {"pixels": np.arange(2 * 16 * 8 * 3).reshape(2, -1) % 256, "tokens": TARGET}
SIZES = 8, 2, 12, 2  # model_dim, num_heads, hidden_dim, num_layers


def inside(make):
    """A model that calls another one."""
    inner = make()
    inputs = [keras.Input((None,), dtype="int32", name=x.name) for x in inner.inputs]
    outputs = inner(inputs if len(inputs) > 1 else inputs[0])
    return keras.Model(inputs, outputs)


def baskets():
    pytest.importorskip("scipy", reason="PyTorch's environment lacks what companion.recommendation needs")
    from companion.recommendation import basket_model

    return basket_model(10, 8, 2, 2)


def from_a_file(make):
    """The model as it comes back from a .keras file."""
    with tempfile.TemporaryDirectory() as folder:
        make().save(Path(folder, "model.keras"))
        return keras.models.load_model(Path(folder, "model.keras"))


def in_half_precision(make):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return make()
    finally:
        keras.config.set_dtype_policy("float32")


def in_a_sequence():
    inputs = [keras.Input((None,), dtype="int32", name="tokens"), layers.Embedding(10, 8)]
    block = keras.Sequential([keras.Input((None, 8)), EncoderBlock(8, 2, 12, name="block")], name="part")
    return keras.Sequential([*inputs, block, EncoderBlock(8, 2, 12, norm_first=False, name="last")])


def of_variants():
    """Blocks as no builder makes them: RMS after the sum, narrow heads, a position bias from outside."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(10, 8)(tokens)
    bias = RelativePositionBias(2, 8, 16)(tokens)
    variant = {"norm_first": False, "norm": "rms", "head_dim": 3, "gated": True, "use_bias": False}
    x = EncoderBlock(8, 2, 12, **variant, name="first")(x, position_bias=bias)
    x = DecoderBlock(8, 2, 12, scaled=False, name="second")(target=x, source=x * 2, position_bias=bias)
    return keras.Model(tokens, x)


MODELS = {
    "transformer": (lambda: transformer(10, 11, 8, *SIZES), PAIR),
    "marian": (
        lambda: transformer(10, 10, 8, *SIZES, norm_first=False, activation="silu", shared=True),
        PAIR,
    ),
    "gpt": (lambda: gpt(10, 8, *SIZES), TEXT),
    "gpt with padding": (lambda: gpt(10, 8, *SIZES, padding_id=0), TEXT),
    "bert": (lambda: bert(10, 8, *SIZES), TWO),
    "t5": (lambda: t5(10, *SIZES, num_buckets=4, max_distance=8), PAIR),
    "t5 v1.1": (lambda: t5(10, *SIZES, 1, head_dim=3, gated=True, tied=False), PAIR),
    "transformer_classifier": (lambda: transformer_classifier(10, 3, 8, *SIZES), TEXT),
    "basket_model": (baskets, {"items": SOURCE}),
    "captioner": (lambda: captioner(10, 8, 16, 8, *SIZES), PICTURE),
    "classifier of bert": (lambda: classifier(bert(10, 8, *SIZES), 3), TWO),
    "classifier of gpt": (lambda: classifier(gpt(10, 8, *SIZES), 3, padding_id=0), TEXT),
    "tagger": (lambda: tagger(bert(10, 8, *SIZES), 3), TWO),
    "lora of t5": (lambda: add_lora(t5(10, *SIZES), 2), PAIR),
    "lora merged": (lambda: merge_lora(add_lora(gpt(10, 8, *SIZES), 2)), TEXT),
    "from a file": (lambda: from_a_file(lambda: transformer(10, 11, 8, *SIZES)), PAIR),
    "lora from a file": (lambda: from_a_file(lambda: add_lora(gpt(10, 8, *SIZES), 2)), TEXT),
    "half precision": (lambda: in_half_precision(lambda: transformer(10, 11, 8, *SIZES)), PAIR),
    "a model inside": (lambda: inside(lambda: inside(lambda: bert(10, 8, *SIZES))), TWO),
    "a sequence": (in_a_sequence, {"tokens": SOURCE}),
    "variants": (of_variants, TEXT),
}
LANGUAGE = {
    name: MODELS[name] for name in ("gpt", "bert", "transformer", "marian", "t5", "t5 v1.1", "captioner")
}


def parametrized(models):
    return pytest.mark.parametrize(("make", "inputs"), models.values(), ids=models)


def outputs(model, inputs):
    inputs = list(inputs.values())
    found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return np.concatenate(
        [ops.convert_to_numpy(ops.cast(x, "float32")).ravel() for x in keras.tree.flatten(found)]
    )


@pytest.fixture
def outputs_from(monkeypatch):
    """What the model's own layers make of attention weights that are given, in the place of the softmax."""

    def run(model, inputs, weights):
        rest = list(weights)

        def given(query, key, *_):
            assert rest[0].shape == (*query.shape[:-1], key.shape[-2])
            return ops.cast(rest.pop(0), query.dtype)

        with monkeypatch.context() as patch:
            patch.setattr(attention, "attention_distribution", given)
            found = outputs(model, inputs)
        assert not rest, "some weights were not used"
        return found

    return run


def each_array(weights):
    parts = [one if isinstance(one, tuple) else (one,) for one in weights.values()]
    return [x for x in itertools.chain(*parts) if x is not None]


@backend
@parametrized(MODELS)
def test_the_collected_weights_make_the_output_and_others_do_not(make, inputs, randomized, outputs_from):
    model = randomized(make())
    expected, weights = outputs(model, inputs), each_array(attention_weights(model, inputs))
    assert all(type(x) is np.ndarray and x.dtype == np.float32 for x in weights)
    np.testing.assert_allclose(outputs_from(model, inputs, weights), expected, atol=1e-5)
    for i in range(len(weights)):  # each array counts
        other = [np.roll(x, 1, axis=-1) if i == j else x for j, x in enumerate(weights)]
        assert np.abs(outputs_from(model, inputs, other) - expected).max() > 1e-3


@backend
def test_blocks_are_named_and_a_model_inside_names_its_own():
    def names(kind):
        make, inputs = MODELS[kind]
        return list(attention_weights(make(), inputs))

    assert names("t5") == ["encoder_0", "encoder_1", "decoder_0", "decoder_1"]
    assert [name.partition("/")[2] for name in names("a model inside")] == [
        "bert/encoder_0",
        "bert/encoder_1",
    ]
    assert names("a sequence") == ["part/block", "last"] and names("variants") == ["first", "second"]


@backend
def test_training_changes_the_weights_that_are_collected():
    """The trainer's model is the model: what a Pretrainer trains is seen without a copy."""
    model = gpt(10, 8, *SIZES)
    before = attention_weights(model, SOURCE)["decoder_0"][0]
    trainer = Pretrainer(model)
    trainer.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    trainer.fit(SOURCE[:, :-1], SOURCE[:, 1:], verbose=0)
    after = attention_weights(model, SOURCE)["decoder_0"][0]
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(attention_weights(trainer.body, SOURCE)["decoder_0"][0], after)


@backend
def test_weights_of_one_text_in_one_array():
    weights = attention_weights(MODELS["transformer"][0](), PAIR)
    shapes = {"encoder": (2, 2, 6, 6), "decoder": (2, 2, 4, 4), "source": (2, 2, 4, 6)}
    for kind, example in itertools.product(shapes, (0, 1)):
        stacked = stacked_weights(weights, kind, example)
        assert stacked.shape == shapes[kind]
        for layer in (0, 1):
            block = weights[f"{'encoder' if kind == 'encoder' else 'decoder'}_{layer}"]
            block = block if kind == "encoder" else block[kind == "source"]
            np.testing.assert_array_equal(stacked[layer], block[example])


@backend
def test_a_kind_that_is_absent_is_named():
    weights = attention_weights(gpt(10, 8, *SIZES), SOURCE)
    for kind in ("source", "encoder", "self"):
        with pytest.raises(
            ValueError, match=f"kind must be 'decoder' with these weights; received kind='{kind}'"
        ):
            stacked_weights(weights, kind)
    with pytest.raises(ValueError, match="kind must be 'encoder' or 'decoder' or 'source' with"):
        stacked_weights(attention_weights(MODELS["t5"][0](), PAIR), "cross")


# Logit lens


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@backend
@parametrized(LANGUAGE)
def test_the_lens_ends_with_the_answer_of_the_model(make, inputs, randomized):
    model = randomized(make())
    lens = logit_lens(model, inputs)
    scores = model(list(inputs.values()) if len(inputs) > 1 else inputs["tokens"])
    scores = ops.convert_to_numpy(scores[-1] if isinstance(scores, tuple | list) else scores)
    decoders = sum(isinstance(layer, DecoderBlock) for layer in model.layers)
    assert lens.shape == (2, decoders or 2, *scores.shape[1:]) and lens.dtype == np.float32
    np.testing.assert_allclose(lens[:, -1], softmax(scores), atol=1e-5)
    np.testing.assert_allclose(lens.sum(axis=-1), 1, atol=1e-5)


@backend
@pytest.mark.parametrize(("build", "inputs"), [(gpt, TEXT), (bert, TWO)])
def test_the_lens_is_the_answer_of_the_model_cut_after_a_block(build, inputs, randomized):
    model = randomized(build(10, 8, 8, 2, 12, 3))
    lens = logit_lens(model, inputs)
    for blocks in (1, 2):
        short = build(10, 8, 8, 2, 12, blocks)
        for layer in short.layers:
            layer.set_weights(model.get_layer(layer.name).get_weights() if layer.weights else [])
        np.testing.assert_allclose(logit_lens(short, inputs)[:, -1], lens[:, blocks - 1], atol=1e-5)
    assert np.abs(np.diff(lens, axis=1)).max(axis=(0, 2, 3)).min() > 0.01


# Bad input


@backend
def test_refuses_models_that_do_not_fit():
    trainer = Pretrainer(gpt(10, 8, *SIZES))
    for view in (attention_weights, logit_lens):
        for model, name in ((trainer, "Pretrainer"), (keras.Sequential(), "Sequential")):
            with pytest.raises(
                ValueError, match=f"model must be functional, .*; received {name} '{model.name}'"
            ):
                view(model, SOURCE)
        with pytest.raises(
            ValueError, match="must hold EncoderBlock or DecoderBlock layers.*'lstm_classifier'"
        ):
            view(lstm_classifier(10, 3, 8, 8), SOURCE)
        with pytest.raises(ValueError, match="inputs must hold segments; received tokens"):
            view(bert(10, 8, *SIZES), TEXT)
    for model in (
        bert(10, 8, *SIZES, masked_lm=False),
        tagger(bert(10, 8, *SIZES), 3),
        classifier(gpt(10, 8, *SIZES), 3, padding_id=0),
    ):
        with pytest.raises(ValueError, match=rf"end in scores \(B, T, V\); received '{model.name}'"):
            logit_lens(model, SOURCE)
