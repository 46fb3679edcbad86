"""Keras's own harness for layers: shapes, dtypes, serialization, mixed precision, training; then compilation.

`run_layer_test` is what Keras's own layers must pass, on every backend.
"""

from unittest import mock

import keras
import numpy as np
import pytest
from keras.src import testing

from companion import DecoderBlock, EncoderBlock, FeedForward, MultiHeadAttention, TokenPositionEmbedding

pytestmark = pytest.mark.backend
BACKEND = keras.backend.backend()
# The harness asks for jit_compile="auto", which TensorFlow takes for False on a CPU: there it runs both ways.
# JAX takes it for True; PyTorch for False, as True would need a C++ compiler, which a reader may not have.
COMPILED = {"tensorflow": (False, True), "jax": (True,), "torch": (False,)}[BACKEND]

SOURCE, TARGET = (2, 5, 8), (2, 3, 8)  # (B, S, M), (B, T, M)
BLOCK = {"model_dim": 8, "num_heads": 2, "hidden_dim": 16, "dropout": 0.1}
ATTENTION = {"model_dim": 8, "num_heads": 2, "dropout": 0.1}


class LayersTest(testing.TestCase):
    """One run for each way a layer is called, trained compiled and not.

    The harness gives its model several inputs as one dict, which no layer of ours takes: those train below.
    """

    def run_layer(self, layer, settings, shape, output_shape, weights, seeds, **more):
        for compiled in COMPILED:
            with mock.patch.object(keras.Model, "_resolve_auto_jit_compile", return_value=compiled):
                self.run_layer_test(
                    layer,
                    init_kwargs=settings,
                    input_shape=shape,
                    expected_output_shape=output_shape,
                    expected_num_trainable_weights=weights,
                    expected_num_non_trainable_weights=0,
                    expected_num_seed_generators=seeds,
                    expected_num_losses=0,
                    run_training_check=not isinstance(shape, dict),
                    **more,
                )

    def test_multi_head_attention(self):
        outputs = TARGET, (2, 2, 3, 3)
        self.run_layer(MultiHeadAttention, ATTENTION, TARGET, outputs, weights=8, seeds=1)

    def test_multi_head_attention_to_another_sequence(self):
        shapes = {"query_shape": TARGET, "key_shape": (2, 5, 6), "value_shape": (2, 5, 4)}
        self.run_layer(MultiHeadAttention, ATTENTION, shapes, (TARGET, (2, 2, 3, 5)), weights=8, seeds=1)

    def test_feed_forward(self):
        for activation in ("relu", "gelu"):
            settings = {"model_dim": 8, "hidden_dim": 16, "activation": activation, "dropout": 0.1}
            self.run_layer(FeedForward, settings, SOURCE, SOURCE, weights=4, seeds=1)

    def test_encoder_block(self):
        self.run_layer(EncoderBlock, BLOCK, SOURCE, SOURCE, weights=16, seeds=2)
        mask = {"attention_mask": np.arange(5) < np.array([3, 5])[:, None, None]}
        self.run_layer(EncoderBlock, BLOCK, SOURCE, SOURCE, weights=16, seeds=2, call_kwargs=mask)

    def test_decoder_block(self):
        shapes = {"target_shape": TARGET, "source_shape": SOURCE}
        self.run_layer(DecoderBlock, BLOCK, shapes, TARGET, weights=26, seeds=3)

    def test_decoder_block_without_a_source(self):
        settings = BLOCK | {"cross_attention": False}
        self.run_layer(DecoderBlock, settings, TARGET, TARGET, weights=16, seeds=2)

    def test_token_position_embedding(self):
        for positions, weights in {"sinusoidal": 1, "learned": 2, "none": 1}.items():
            settings = {
                "vocabulary_size": 9,
                "max_length": 6,
                "model_dim": 8,
                "positions": positions,
                "dropout": 0.1,
            }
            self.run_layer(
                TokenPositionEmbedding, settings, (2, 5), (2, 5, 8), weights, seeds=1, input_dtype="int32"
            )


def attention_model():
    query, key = keras.Input((None, 8)), keras.Input((None, 8))
    output, weights = MultiHeadAttention(8, 2)(query, key)
    return keras.Model([query, key], output)


def decoder_model():
    target, source = keras.Input((None, 8)), keras.Input((None, 8))
    return keras.Model([target, source], DecoderBlock(8, 2, 16)(target, source))


def one_input_model(layer, *shape, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs))


MODELS = {
    "attention": attention_model,
    "feed_forward": lambda: one_input_model(FeedForward(8, 16), None, 8),
    "encoder": lambda: one_input_model(EncoderBlock(8, 2, 16), None, 8),
    "decoder": decoder_model,
    "decoder_only": lambda: one_input_model(DecoderBlock(8, 2, 16, cross_attention=False), None, 8),
    "embedding": lambda: one_input_model(TokenPositionEmbedding(9, 6, 8, "learned"), None, dtype="int32"),
}


def example(model, rng):
    if model.inputs[0].dtype == "int32":
        return rng.integers(0, 9, (2, 3)).astype("int32")
    arrays = [rng.standard_normal((2, length, 8)).astype("float32") for length in (3, 5)]
    return arrays if len(model.inputs) == 2 else arrays[0]


def trained(model, inputs, labels, **compilation):
    model.compile(keras.optimizers.SGD(0.1), "mse", **compilation)
    losses = [float(model.train_on_batch(inputs, labels)) for _ in range(2)]
    return losses, model.get_weights()


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_training_is_the_same_compiled_and_not(make, rng):
    if BACKEND == "torch":
        pytest.skip("jit_compile=True asks torch.compile for a C++ compiler, which a reader may not have")
    one, other = make(), make()
    other.set_weights(one.get_weights())
    inputs = example(one, rng)
    labels = rng.standard_normal((2, 3, 8)).astype("float32")
    losses, weights = trained(one, inputs, labels, jit_compile=True)
    losses_there, weights_there = trained(other, inputs, labels, jit_compile=False)
    assert losses[1] < losses[0]
    np.testing.assert_allclose(losses, losses_there, rtol=1e-5)
    for ours, theirs in zip(weights, weights_there, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_dtype_policies(make, policy, rng, under_policy):
    """A layer passes its policy on: computed in one dtype, kept in another, close to float32."""
    if BACKEND == "jax" and policy == "float64":
        pytest.skip("JAX has no float64 unless the whole process asks for it")
    expected = make()
    with under_policy(policy):
        model = make()
    model.set_weights(expected.get_weights())
    inputs = example(model, rng)
    output, reference = (keras.ops.cast(model(inputs), "float32") for model in (model, expected))
    kind = keras.DTypePolicy(policy)
    assert model.output.dtype == kind.compute_dtype
    assert {weight.dtype for weight in model.trainable_weights} == {kind.variable_dtype}
    tolerance = {"mixed_float16": 0.01, "mixed_bfloat16": 0.08, "float64": 1e-5}[policy]
    difference = keras.ops.convert_to_numpy(output) - keras.ops.convert_to_numpy(reference)
    assert np.abs(difference).max() < tolerance
    layers = [layer for layer in model._flatten_layers() if layer.count_params()]
    assert {layer.dtype_policy.name for layer in layers[1:]} == {policy}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_layers_keep_their_names_and_settings(make):
    layer = make().layers[-1]
    renamed = type(layer).from_config(layer.get_config() | {"name": "renamed"})
    assert renamed.name == "renamed"
    assert {**renamed.get_config(), "name": layer.name} == layer.get_config()
    with pytest.raises((TypeError, ValueError), match="num_head"):
        type(layer).from_config(layer.get_config() | {"num_head": 3})
