"""Whole models, as functions that return a functional `keras.Model` (article sections 3 and 5).

Every model reads int tokens with padding id 0, saves to `.keras`, and loads wherever `companion` is imported.
"""

import keras
from keras import layers, ops

from companion.attention import padding_mask
from companion.base import check_at_least, check_shares, takes_plain_numbers
from companion.decoder import DecoderBlock
from companion.embedding import TokenPositionEmbedding
from companion.encoder import EncoderBlock


@takes_plain_numbers
def lstm_classifier(
    vocabulary_size: int,
    num_classes: int,
    model_dim: int = 64,
    hidden_dim: int = 128,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
) -> keras.Model:
    """The article's classifier: embedding, LSTM layers, one probability per class.

    Args:
        vocabulary_size: Number of token ids V.
        num_classes: Number of classes C, >= 2.
        model_dim: Width of the embedding.
        hidden_dim: Width of each LSTM (in each direction).
        num_layers: LSTMs stacked on one another, >= 1; the article stacks two.
        bidirectional: Also read from the end.
        dropout: Fraction dropped before the last layer in training.
    Returns:
        Model from tokens (B, S) int to probabilities (B, C) float32. Padding (id 0, on the right) changes
        nothing.
    Raises:
        ValueError: num_classes below 2, num_layers below 1, or dropout outside [0, 1).
    Source: Hochreiter and Schmidhuber 1997. Differs from the article's listing: masks padding, and one
    probability per class instead of one sigmoid.
    """
    check_at_least(2, num_classes=num_classes)
    check_at_least(1, num_layers=num_layers)
    check_shares(dropout=dropout)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, 0)
    x = layers.Embedding(vocabulary_size, model_dim, name="embedding")(tokens)
    for i in range(num_layers):
        lstm = layers.LSTM(hidden_dim, return_sequences=i + 1 < num_layers, name=f"lstm_{i}")
        lstm = layers.Bidirectional(lstm, name=f"bidirectional_{i}") if bidirectional else lstm
        x = lstm(x, mask=mask)
    return keras.Model(tokens, _class_probabilities(x, num_classes, dropout), name="lstm_classifier")


@takes_plain_numbers
def transformer_classifier(
    vocabulary_size: int,
    num_classes: int,
    max_length: int,
    model_dim: int = 64,
    num_heads: int = 4,
    hidden_dim: int = 128,
    num_layers: int = 2,
    dropout: float = 0.1,
) -> keras.Model:
    """Encoder blocks, the mean of their outputs over the real tokens, one probability per class.

    Args:
        vocabulary_size: Number of token ids V.
        num_classes: Number of classes C, >= 2.
        max_length: Longest input S.
        model_dim, num_heads, hidden_dim, dropout: see `EncoderBlock`.
        num_layers: Encoder blocks; 0 leaves a bag of embeddings.
    Returns:
        Model from tokens (B, S) int to probabilities (B, C) float32. Padding (id 0) changes nothing, and a
        text of padding alone gets finite ones.
    Raises:
        ValueError: num_classes below 2, num_layers below 0, or as `EncoderBlock`.
    Source: Vaswani et al. 2017, section 3 (encoder); the mean as in Reimers and Gurevych 2019, section 3.
    Differs: made for few labels. Vectors start small and are not normalized before the mean, so that a word
    which training hardly touched says little.
    """
    check_at_least(2, num_classes=num_classes)
    check_at_least(0, num_layers=num_layers)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = padding_mask(tokens)
    sizes = vocabulary_size, max_length, model_dim
    x = TokenPositionEmbedding(*sizes, "learned", dropout, initial_stddev=0.1, name="embedding")(tokens)
    for i in range(num_layers):
        block = EncoderBlock(model_dim, num_heads, hidden_dim, dropout, name=f"encoder_{i}")
        x = block(x, attention_mask=mask)
    x = _mean_of_real(x, mask)
    return keras.Model(tokens, _class_probabilities(x, num_classes, dropout), name="transformer_classifier")


@takes_plain_numbers
def transformer(
    source_vocabulary_size: int,
    target_vocabulary_size: int,
    max_length: int,
    model_dim: int = 128,
    num_heads: int = 4,
    hidden_dim: int = 512,
    num_layers: int = 2,
    dropout: float = 0.1,
) -> keras.Model:
    """The encoder-decoder: reads a source, and at each target position scores the next token.

    Args:
        source_vocabulary_size, target_vocabulary_size: Numbers of token ids.
        max_length: Longest source and longest target.
        model_dim, num_heads, hidden_dim, dropout: see `EncoderBlock` and `DecoderBlock`.
        num_layers: Encoder blocks, and as many decoder blocks, >= 1.
    Returns:
        Model from {"source_tokens": (B, S) int, "target_tokens": (B, T) int}, or a list of the two in this
        order, to logits (B, T, V) float32 over the target vocabulary. Padding id is 0 on both sides.
    Raises:
        ValueError: num_layers below 1, or as `EncoderBlock`.
    Source: Vaswani et al. 2017, section 3 and figure 1. Differs: normalizes first; separate embeddings.
    """
    check_at_least(1, num_layers=num_layers)
    source_tokens = keras.Input((None,), dtype="int32", name="source_tokens")
    target_tokens = keras.Input((None,), dtype="int32", name="target_tokens")
    source_mask, target_mask = padding_mask(source_tokens), padding_mask(target_tokens)

    source = TokenPositionEmbedding(
        source_vocabulary_size, max_length, model_dim, dropout=dropout, name="source_embedding"
    )(source_tokens)
    for i in range(num_layers):
        block = EncoderBlock(model_dim, num_heads, hidden_dim, dropout, name=f"encoder_{i}")
        source = block(source, attention_mask=source_mask)
    source = layers.LayerNormalization(epsilon=1e-6, name="encoder_norm")(source)

    target = TokenPositionEmbedding(
        target_vocabulary_size, max_length, model_dim, dropout=dropout, name="target_embedding"
    )(target_tokens)
    for i in range(num_layers):
        block = DecoderBlock(model_dim, num_heads, hidden_dim, dropout, name=f"decoder_{i}")
        target = block(target, source, attention_mask=target_mask, source_mask=source_mask)
    target = layers.LayerNormalization(epsilon=1e-6, name="decoder_norm")(target)
    logits = layers.Dense(target_vocabulary_size, name="logits", dtype="float32")(target)
    inputs = {"source_tokens": source_tokens, "target_tokens": target_tokens}
    return keras.Model(inputs, logits, name="transformer")


@takes_plain_numbers
def lstm_seq2seq(
    source_vocabulary_size: int,
    target_vocabulary_size: int,
    model_dim: int = 128,
    hidden_dim: int = 256,
    dropout: float = 0.1,
) -> keras.Model:
    """The baseline before attention: the source reaches the decoder through one vector of fixed length.

    Args:
        source_vocabulary_size, target_vocabulary_size: Numbers of token ids.
        model_dim: Width of the embeddings.
        hidden_dim: Width of the encoder's and the decoder's LSTM.
        dropout: Fraction of the embeddings and of the decoder's output dropped in training.
    Returns:
        Model with the inputs and outputs of `transformer`, for sources of any length.
    Raises:
        ValueError: dropout outside [0, 1).
    Source: Sutskever et al. 2014, section 2. Differs: one LSTM each, the source not reversed.
    """
    check_shares(dropout=dropout)
    source_tokens = keras.Input((None,), dtype="int32", name="source_tokens")
    target_tokens = keras.Input((None,), dtype="int32", name="target_tokens")
    source = layers.Embedding(source_vocabulary_size, model_dim, name="source_embedding")(source_tokens)
    source = layers.Dropout(dropout)(source)
    encoder = layers.LSTM(hidden_dim, return_state=True, name="encoder_lstm")
    _, *state = encoder(source, mask=ops.not_equal(source_tokens, 0))
    target = layers.Embedding(target_vocabulary_size, model_dim, name="target_embedding")(target_tokens)
    target = layers.Dropout(dropout)(target)
    target = layers.LSTM(hidden_dim, return_sequences=True, name="decoder_lstm")(target, initial_state=state)
    logits = layers.Dense(target_vocabulary_size, name="logits", dtype="float32")(
        layers.Dropout(dropout)(target)
    )
    inputs = {"source_tokens": source_tokens, "target_tokens": target_tokens}
    return keras.Model(inputs, logits, name="lstm_seq2seq")


def attention_weights(model: keras.Model, inputs) -> dict:
    """The attention weights that the model uses on these inputs, block by block; the model stays as it is.

    Args:
        model: A functional model holding `EncoderBlock` or `DecoderBlock` layers. Of a block that it calls
            several times the first call counts.
        inputs: What the model takes.
    Returns:
        {layer name: weights}, in the model's order: (B, H, S, S) float32 array for an encoder block; for a
        decoder block the pair of its self-attention (B, H, T, T) and source attention (B, H, T, S) or None.
    Raises:
        ValueError: the model has no such layer.
    """
    blocks = [layer for layer in model.layers if isinstance(layer, (EncoderBlock, DecoderBlock))]
    if not blocks:
        raise ValueError(
            f"model must hold EncoderBlock or DecoderBlock layers; received {model.name!r} without any."
        )
    calls = {block.name: _call_in(model, block) for block in blocks}
    arguments = {name: {"args": call.args, "kwargs": call.kwargs} for name, call in calls.items()}
    leaves = keras.tree.flatten(arguments)
    tensors = [x for x in leaves if isinstance(x, keras.KerasTensor)]
    values = keras.Model(model.inputs, tensors)(_as_list(model, inputs))
    values = iter(keras.tree.flatten(values))  # of one tensor a model returns no list
    leaves = [next(values) if isinstance(x, keras.KerasTensor) else x for x in leaves]
    arguments = keras.tree.pack_sequence_as(arguments, leaves)
    weights = {}
    for block in blocks:
        call = {name: x for name, x in arguments[block.name]["kwargs"].items() if name != "training"}
        weights[block.name] = block.attention_weights(*arguments[block.name]["args"], **call)
    return keras.tree.map_structure(lambda x: None if x is None else ops.convert_to_numpy(x), weights)


def _call_in(model, block):
    """The arguments of a block's call in this model: it may be called in others too."""
    graph = keras.Model(model.inputs, model.outputs)  # a Sequential keeps no nodes
    nodes = [node for some in graph._nodes_by_depth.values() for node in some]
    return next(node.arguments for node in block._inbound_nodes if node in nodes)


def _as_list(model, inputs):
    return [inputs[x.name] for x in model.inputs] if isinstance(inputs, dict) else keras.tree.flatten(inputs)


def _mean_of_real(x, mask):  # (B, S, M), (B, 1, S) -> (B, M)
    dtype = keras.backend.result_type(x.dtype, "float32")  # half precision counts to 2048, or to 256 only
    real = ops.cast(mask, dtype)
    count = ops.maximum(ops.sum(real, axis=-1, keepdims=True), 1)  # a text without tokens must not become NaN
    return ops.squeeze(ops.matmul(ops.cast(real / count, x.dtype), x), axis=1)


def _class_probabilities(x, num_classes, dropout):
    x = layers.Dropout(dropout, name="classifier_dropout")(x)
    return layers.Dense(num_classes, activation="softmax", name="probabilities", dtype="float32")(x)
