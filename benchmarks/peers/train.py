"""A contestant of benchmarks/training.py: `python train.py NAME CASE STEPS` waits for its turns, see race.py.

Each trains the same architecture on the same batches, by Adam with the mean cross-entropy: seq2seq, an
encoder-decoder as `companion.transformer` builds it, or gpt, a decoder as `companion.gpt` does. NAME is one
of CONTESTANTS; or "check", where KerasHub's model is given companion's weights and must compute the same.
"""

import itertools
import json
import math
import os
import resource
import sys
import time

import numpy as np

VOCABULARY, WIDTH, HEADS, HIDDEN, DROPOUT, RATE = 8000, 256, 8, 1024, 0.1, 1e-3
CASES = {"seq2seq": (4, 64, 32), "gpt": (6, 256, 16)}  # layers (of each side), length, batch


def batch(case, number):
    """Inputs and labels, (B, T) int32 each, distributed by Zipf's law: its entropy is there to be learned."""
    _, length, rows = CASES[case]
    shares = 1 / np.arange(1, VOCABULARY)
    shape = (3 if case == "seq2seq" else 2, rows, length)
    tokens = 1 + np.random.default_rng(number).choice(VOCABULARY - 1, shape, p=shares / shares.sum())
    return [*tokens.astype("int32")]


def products(case):
    """The matrix products of a forward pass: (count, batch, rows, inner, columns); thrice for a step."""
    layers, length, rows = CASES[case]
    attentions, networks = (3 * layers, 2 * layers) if case == "seq2seq" else (layers, layers)
    tokens, heads, size = rows * length, rows * HEADS, WIDTH // HEADS
    return [
        (4 * attentions, 1, tokens, WIDTH, WIDTH),
        (attentions, heads, length, size, length),
        (attentions, heads, length, length, size),
        (networks, 1, tokens, WIDTH, HIDDEN),
        (networks, 1, tokens, HIDDEN, WIDTH),
        (1, 1, tokens, WIDTH, VOCABULARY),
    ]


def operations(sizes):
    """Floating-point operations of these products."""
    return 2 * math.prod(sizes)


# Keras


def ours(case):
    """The model of companion."""
    import companion

    layers, length, _ = CASES[case]
    sizes = WIDTH, HEADS, HIDDEN, layers, DROPOUT
    if case == "gpt":
        return companion.gpt(VOCABULARY, length, *sizes)
    return companion.transformer(VOCABULARY, VOCABULARY, length, *sizes)


def kerashub(case):
    """The model made of KerasHub's blocks."""
    from keras_hub.layers import TransformerDecoder, TransformerEncoder

    sizes = {"intermediate_dim": HIDDEN, "num_heads": HEADS, "dropout": DROPOUT, "normalize_first": True}
    if case == "gpt":
        return keras_gpt(lambda x: TransformerDecoder(activation=gelu, **sizes)(x))
    sizes |= {"layer_norm_epsilon": 1e-6}
    return keras_seq2seq(
        lambda x, mask: TransformerEncoder(**sizes)(x, padding_mask=mask),
        lambda x, source, mask: TransformerDecoder(**sizes)(x, source, encoder_padding_mask=mask),
    )


def keras_layers(case):
    """The model made of keras.layers.MultiHeadAttention and what goes around it."""
    from keras import layers

    activation, epsilon = (gelu, 1e-5) if case == "gpt" else ("relu", 1e-6)

    def added(x, transform):
        return x + layers.Dropout(DROPOUT)(transform(layers.LayerNormalization(epsilon=epsilon)(x)))

    def attention(x, source, **options):
        return layers.MultiHeadAttention(HEADS, WIDTH // HEADS, dropout=DROPOUT)(x, source, **options)

    def network(x):
        return layers.Dense(WIDTH)(layers.Dense(HIDDEN, activation)(x))

    def encoder(x, mask):
        x = added(x, lambda x: attention(x, x, attention_mask=mask[:, None, :]))
        return added(x, network)

    def decoder(x, source=None, mask=None):
        x = added(x, lambda x: attention(x, x, use_causal_mask=True))
        if source is not None:
            x = added(x, lambda x: attention(x, source, attention_mask=mask[:, None, :]))
        return added(x, network)

    return keras_gpt(decoder) if case == "gpt" else keras_seq2seq(encoder, decoder)


def keras_seq2seq(encoder, decoder):
    """An encoder-decoder of these blocks: `encoder(x, mask)`, `decoder(x, source, mask)`."""
    import keras
    from keras import layers
    from keras_hub.layers import SinePositionEncoding

    def embedded(tokens):
        x = layers.Embedding(VOCABULARY, WIDTH)(tokens) * WIDTH**0.5
        return layers.Dropout(DROPOUT)(x + SinePositionEncoding()(x))

    source_tokens, target_tokens = (keras.Input((None,), dtype="int32") for _ in range(2))
    mask = keras.ops.not_equal(source_tokens, 0)
    source, target = embedded(source_tokens), embedded(target_tokens)
    for _ in range(CASES["seq2seq"][0]):
        source = encoder(source, mask)
    source = layers.LayerNormalization(epsilon=1e-6)(source)
    for _ in range(CASES["seq2seq"][0]):
        target = decoder(target, source, mask)
    target = layers.LayerNormalization(epsilon=1e-6)(target)
    logits = layers.Dense(VOCABULARY, dtype="float32")(target)
    return keras.Model([source_tokens, target_tokens], logits)


def keras_gpt(block):
    """A decoder of these blocks: `block(x)`."""
    import keras
    from keras import layers
    from keras_hub.layers import TokenAndPositionEmbedding

    tokens = keras.Input((None,), dtype="int32")
    embedding = TokenAndPositionEmbedding(VOCABULARY, CASES["gpt"][1], WIDTH)
    x = layers.Dropout(DROPOUT)(embedding(tokens))
    for _ in range(CASES["gpt"][0]):
        x = block(x)
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    return keras.Model(tokens, embedding.token_embedding(x, reverse=True))


def gelu(x):
    """GPT-2's."""
    import keras

    return keras.activations.gelu(x, approximate=True)


def keras_step(build, case, policy="float32", pretrainer=False):
    """Number of parameters, and a function that makes a step and returns the loss before it."""
    import keras

    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    trainer = model = build(case)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if pretrainer:
        from companion.pretraining import Pretrainer

        trainer, loss = Pretrainer(model), None
    trainer.compile(keras.optimizers.Adam(RATE), loss)

    def step(*inputs, labels):
        trainer.reset_metrics()  # or the loss would be that of all steps
        return float(trainer.train_on_batch(inputs if len(inputs) > 1 else inputs[0], labels))

    return model.count_params(), step


def check(case):
    """Give KerasHub's model our weights: both must then compute the same."""
    import keras_hub
    from keras import tree

    import companion

    model, peer = ours(case), kerashub(case)
    encoder = "attention", "attention_norm", "feed_forward_norm", "feed_forward"
    decoder = "self_attention", "self_attention_norm", "source_attention", "source_attention_norm"
    parts = {
        companion.EncoderBlock: encoder,
        companion.DecoderBlock: (*decoder, "feed_forward", "feed_forward_norm"),
    }
    theirs = keras_hub.layers.TransformerEncoder, keras_hub.layers.TransformerDecoder

    def blocks(model, kinds):
        return [layer for layer in model.layers if isinstance(layer, kinds)]

    for block, copy in zip(blocks(model, tuple(parts)), blocks(peer, theirs), strict=True):
        weights = [getattr(block, name).get_weights() for name in parts[type(block)] if hasattr(block, name)]
        pairs = zip(tree.flatten(weights), copy.weights, strict=True)
        copy.set_weights([x.reshape(y.shape) for x, y in pairs])

    def others(model, kinds):
        weights = [x for layer in model.layers if not isinstance(layer, kinds) for x in layer.weights]
        return {id(x): x for x in weights}.values()  # a tied table belongs to two layers

    for x, y in zip(others(model, tuple(parts)), others(peer, theirs), strict=True):
        y.assign(x)
    *inputs, _ = batch(case, 0)
    logits = [np.asarray(network(inputs if len(inputs) > 1 else inputs[0])) for network in (model, peer)]
    np.testing.assert_allclose(*logits, atol=1e-3)


# PyTorch


def torch_step(build, case, policy="float32", compiled=False):
    """The same for PyTorch."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    model = build(case)
    parameters = sum(x.numel() for x in model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)
    model = torch.compile(model) if compiled else model

    def step(*inputs, labels):
        *inputs, labels = (torch.from_numpy(x).long() for x in (*inputs, labels))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=policy == "bfloat16"):
            loss = functional.cross_entropy(model(*inputs).flatten(0, 1), labels.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return parameters, step


def torch_model(case):
    """nn.Transformer between embeddings and logits, or blocks around scaled_dot_product_attention."""
    return torch_gpt() if case == "gpt" else torch_seq2seq()


def torch_seq2seq():
    """nn.Transformer, normalizing first, and what goes around it."""
    import torch
    from torch import nn

    num_layers, length, _ = CASES["seq2seq"]

    class Seq2Seq(nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings = nn.ModuleList(nn.Embedding(VOCABULARY, WIDTH) for _ in range(2))
            angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
            self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
            self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(length))
            sizes = WIDTH, HEADS, num_layers, num_layers, HIDDEN, DROPOUT
            self.transformer = nn.Transformer(*sizes, batch_first=True, norm_first=True)
            self.dropout, self.logits = nn.Dropout(DROPOUT), nn.Linear(WIDTH, VOCABULARY)
            for embedding in self.embeddings:
                nn.init.normal_(embedding.weight, std=WIDTH**-0.5)

        def forward(self, *tokens):
            pairs = zip(self.embeddings, tokens, strict=True)
            vectors = [self.dropout(table(x) * WIDTH**0.5 + self.positions) for table, x in pairs]
            padding = torch.zeros(tokens[0].shape).masked_fill(tokens[0] == 0, -torch.inf)
            masks = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding}
            return self.logits(self.transformer(*vectors, tgt_mask=self.causal, tgt_is_causal=True, **masks))

    return Seq2Seq()


def torch_gpt():
    """GPT-2 with scaled_dot_product_attention, in the manner of the small implementations."""
    from torch import nn
    from torch.nn import functional

    num_layers, length, _ = CASES["gpt"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
            self.projections, self.output = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.hidden, self.narrow = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
            self.dropout = nn.Dropout(DROPOUT)

        def forward(self, x):
            shape = *x.shape[:2], 3, HEADS, WIDTH // HEADS
            heads = self.projections(self.norms[0](x)).view(shape).permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(*heads, is_causal=True, dropout_p=DROPOUT)
            x = x + self.dropout(self.output(attended.transpose(1, 2).flatten(2)))
            hidden = functional.gelu(self.hidden(self.norms[1](x)), approximate="tanh")
            return x + self.dropout(self.narrow(hidden))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(length, WIDTH)
            self.blocks = nn.Sequential(nn.Dropout(DROPOUT), *(Block() for _ in range(num_layers)))
            self.norm = nn.LayerNorm(WIDTH)
            for embedding in (self.tokens, self.positions):
                nn.init.normal_(embedding.weight, std=0.02)

        def forward(self, tokens):
            x = self.blocks(self.tokens(tokens) + self.positions.weight)
            return self.norm(x) @ self.tokens.weight.T

    return Gpt()


# Turns


def trained(make_step, build, case, steps, **options):
    """What to say when ready, and a function that trains for a round."""
    parameters, step = make_step(build, case, **options)
    numbers, losses = itertools.count(), []

    def seconds():
        *inputs, labels = batch(case, next(numbers))
        started = time.perf_counter()
        losses.append(step(*inputs, labels=labels))
        return time.perf_counter() - started

    def turn():
        fastest = min(seconds() for _ in range(steps))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"seconds": fastest, "memory": memory, "loss": sum(losses[-steps:]) / steps}

    ready = {"parameters": parameters, "first": seconds()}
    seconds()  # memory finds its places
    return ready, turn


def multiplied(random, product, case):
    """The same for matrix products: the rates of two, and the seconds of all those of a step."""

    def seconds(batch, rows, inner, columns, swap_left=False, swap_right=False):
        left = (inner, rows) if swap_left else (rows, inner)
        right = (columns, inner) if swap_right else (inner, columns)
        arrays = [random((batch, *shape) if batch > 1 else shape) for shape in (left, right)]
        times = []
        while len(times) < 3 or sum(times) < 0.03:
            started = time.perf_counter()
            product(*arrays, swap_left, swap_right)
            times.append(time.perf_counter() - started)
        return min(times)

    def step():
        for count, batch, rows, inner, columns in products(case):
            yield count * seconds(batch, rows, inner, columns)
            yield count * seconds(batch, rows, columns, inner, swap_right=True)  # the gradient of the left
            yield count * seconds(batch, inner, rows, columns, swap_left=True)  # of the right

    def turn():
        square, narrow = (1, 2048, 2048, 2048), (1, CASES[case][1] * CASES[case][2], WIDTH, HIDDEN)
        return {
            "square": operations(square) / seconds(*square),
            "narrow": operations(narrow) / seconds(*narrow),
            "seconds": sum(step()),
            "operations": 3 * sum(map(operations, products(case))),
        }

    return {}, turn


def tensorflow_products(case):
    """TensorFlow's."""
    import tensorflow as tf

    return multiplied(tf.random.normal, tf.matmul, case)


def torch_products(case):
    """PyTorch's."""
    import torch

    def product(x, y, swap_x, swap_y):
        return (x.mT if swap_x else x) @ (y.mT if swap_y else y)

    return multiplied(torch.randn, product, case)


CONTESTANTS = {
    "companion": (keras_step, ours, {"pretrainer": True}),
    "companion, plain loss": (keras_step, ours, {}),
    "companion, bfloat16": (keras_step, ours, {"pretrainer": True, "policy": "mixed_bfloat16"}),
    "KerasHub": (keras_step, kerashub, {}),
    "Keras": (keras_step, keras_layers, {}),
    "PyTorch": (torch_step, torch_model, {}),
    "PyTorch, compiled": (torch_step, torch_model, {"compiled": True}),
    "PyTorch, bfloat16": (torch_step, torch_model, {"policy": "bfloat16"}),
}
PRODUCTS = {"products, TensorFlow": tensorflow_products, "products, PyTorch": torch_products}


def main():
    name, case, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    if name == "check":
        return check(case)
    if name in PRODUCTS:
        ready, turn = PRODUCTS[name](case)
    else:
        make_step, build, options = CONTESTANTS[name]
        ready, turn = trained(make_step, build, case, steps, **options)
    print(json.dumps(ready), file=channel)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=channel)


if __name__ == "__main__":
    main()
