"""One training step of `companion.transformer` beside the same model made of KerasHub's layers.

    python benchmarks/training.py [--xla]

Forward, backward and Adam on random tokens, float32. The two models have the same number of parameters and,
given the same weights, the same outputs; both are checked. KerasHub's blocks hold
keras.layers.MultiHeadAttention, so that this compares with Keras's own attention too. Models are compiled as
by default, which on TensorFlow without a GPU is jit_compile=False (the table says so); --xla sets it to True.

The two take turns with a matrix product, step by step: what else the machine does meets all three alike. Of
a round the fastest step of each counts; its ratio is KerasHub's time to companion's: above 1, companion is
faster. 2 to 3 minutes on two cores, twice that with --xla.
"""

import argparse
import time

import keras
import keras_hub
import numpy as np
from keras import layers

import companion

STEPS = 8  # of each in a round
VOCABULARY, SQUARE = 1000, 2048
CASES = (  # width M, length L, batch B, dropout
    (128, 32, 64, 0.0),
    (128, 32, 64, 0.1),
    (256, 64, 32, 0.0),
    (256, 64, 32, 0.1),
)
# The weights of our blocks, in KerasHub's order: a norm's two come after those of the layer they precede.
ENCODER_ORDER = np.r_[2:10, 0:2, 10:16]
DECODER_ORDER = np.r_[2:10, 0:2, 12:20, 10:12, 22:26, 20:22]


def kerashub_transformer(vocabulary_size, model_dim, num_heads, hidden_dim, num_layers, dropout):
    """What `companion.transformer` builds, with its names, of KerasHub's layers."""
    source_tokens = keras.Input((None,), dtype="int32", name="source_tokens")
    target_tokens = keras.Input((None,), dtype="int32", name="target_tokens")
    source_mask, target_mask = source_tokens != 0, target_tokens != 0
    sizes = {"intermediate_dim": hidden_dim, "num_heads": num_heads, "dropout": dropout}
    sizes |= {"normalize_first": True, "layer_norm_epsilon": 1e-6}

    def embedded(tokens, name):
        x = layers.Embedding(vocabulary_size, model_dim, name=name)(tokens) * model_dim**0.5
        return layers.Dropout(dropout)(x + keras_hub.layers.SinePositionEncoding()(x))

    source = embedded(source_tokens, "source_embedding")
    for i in range(num_layers):
        block = keras_hub.layers.TransformerEncoder(**sizes, name=f"encoder_{i}")
        source = block(source, padding_mask=source_mask)
    source = layers.LayerNormalization(epsilon=1e-6, name="encoder_norm")(source)
    target = embedded(target_tokens, "target_embedding")
    for i in range(num_layers):
        block = keras_hub.layers.TransformerDecoder(**sizes, name=f"decoder_{i}")
        target = block(target, source, decoder_padding_mask=target_mask, encoder_padding_mask=source_mask)
    target = layers.LayerNormalization(epsilon=1e-6, name="decoder_norm")(target)
    logits = layers.Dense(vocabulary_size, name="logits")(target)
    return keras.Model({"source_tokens": source_tokens, "target_tokens": target_tokens}, logits)


def check_same(ours, theirs, inputs):
    """Give KerasHub's model our weights: both must then compute the same, except on padding."""
    for layer in ours.layers:
        weights = layer.get_weights()
        if isinstance(layer, companion.EncoderBlock):
            weights = [weights[i] for i in ENCODER_ORDER]
        elif isinstance(layer, companion.DecoderBlock):
            weights = [weights[i] for i in DECODER_ORDER]
        if weights:
            peer = theirs.get_layer(layer.name)
            peer.set_weights([x.reshape(y.shape) for x, y in zip(weights, peer.weights, strict=True)])
    assert ours.count_params() == theirs.count_params()
    real = inputs["target_tokens"] != 0
    logits = [keras.ops.convert_to_numpy(model(inputs))[real] for model in (ours, theirs)]
    np.testing.assert_allclose(*logits, atol=1e-4)


def random_batch(length, batch_size):
    """Inputs, labels and weights; the second half of each sequence ends in padding of random length."""
    random = np.random.default_rng(0)
    tokens = random.integers(1, VOCABULARY, (3, batch_size, length), dtype="int32")
    real = np.arange(length) < random.integers(length // 2, length + 1, (3, batch_size, 1))
    source, target, labels = tokens * real
    return {"source_tokens": source, "target_tokens": target}, labels, (target != 0).astype("float32")


def step_operations(model_dim, hidden_dim, num_layers, length, batch_size):
    """Floating-point operations of a step's matrix products: three times those of the forward pass.

    For one source and one target position, with M = model_dim, F = hidden_dim, L = length: in each layer
    three attentions of 8 M^2 (projections) + 4 L M (scores and sums) and two feed-forward networks of 4 M F;
    2 M V for the logits, V = VOCABULARY.
    """
    layer = 3 * (8 * model_dim**2 + 4 * length * model_dim) + 2 * 4 * model_dim * hidden_dim
    return 3 * batch_size * length * (num_layers * layer + 2 * model_dim * VOCABULARY)


def seconds_each(actions, rounds):
    """Seconds of each action in each round, its fastest turn: {name: (rounds,) array}. They take turns."""
    seconds = {name: np.zeros((rounds, STEPS)) for name in actions}
    for turn in np.ndindex(rounds, STEPS):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name][turn] = time.perf_counter() - started
    return {name: values.min(axis=1) for name, values in seconds.items()}


def compiled_pair(sizes, length, jit_compile, inputs):
    """The two models, equal and ready to train."""
    keras.utils.set_random_seed(0)
    ours = companion.transformer(VOCABULARY, VOCABULARY, max_length=length, **sizes)
    theirs = kerashub_transformer(VOCABULARY, **sizes)
    check_same(ours, theirs, inputs)
    for model in (ours, theirs):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit_compile)
    return ours, theirs


def measure(model_dim, length, batch_size, dropout, jit_compile, rounds):
    """One line of the table."""
    sizes = {"model_dim": model_dim, "num_heads": 4, "hidden_dim": 4 * model_dim, "num_layers": 2}
    batch = random_batch(length, batch_size)
    ours, theirs = compiled_pair({**sizes, "dropout": dropout}, length, jit_compile, batch[0])
    square = keras.random.normal((SQUARE, SQUARE))
    actions = {
        "companion": lambda: ours.train_on_batch(*batch),
        "KerasHub": lambda: theirs.train_on_batch(*batch),
        "product": lambda: keras.ops.convert_to_numpy(square @ square),
    }
    seconds_each(actions, 1)  # compiles
    seconds = seconds_each(actions, rounds)
    line = f"{model_dim:5} {length:6} {batch_size:5} {dropout:7} {ours.jit_compile!s:>5}"
    line += f" {ours.count_params():10,}"
    products = step_operations(model_dim, 4 * model_dim, 2, length, batch_size) / (2 * SQUARE**3)
    for name in ("companion", "KerasHub"):
        share = np.median(products * seconds["product"] / seconds[name])
        line += f" {1e3 * np.median(seconds[name]):6.0f} ms {share:5.0%}"
    ratios = seconds["KerasHub"] / seconds["companion"]
    return f"{line} {np.median(ratios):7.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--xla", action="store_true", help="compile with XLA")
    arguments = parser.parse_args()
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, KerasHub {keras_hub.__version__}")
    print("One training step; share: of the float32 operations a second that a large matrix product reaches;")
    print(f"ratio: KerasHub / companion, median of {arguments.rounds} rounds (min to max)")
    print("width length batch dropout   XLA parameters companion share  KerasHub share   ratio")
    for case in CASES:
        print(measure(*case, True if arguments.xla else "auto", arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
