"""Text classifiers: the article's LSTM, and a small Transformer beside it (article section 5).

Each reads int tokens with padding id 0, saves to `.keras`, and loads wherever `companion` is imported.
"""

import keras
from keras import layers, ops

from companion.attention import padding_mask
from companion.base import Dropout, check_at_least, check_shares, takes_plain_numbers
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
    return keras.Model(tokens, class_probabilities(x, num_classes, dropout), name="lstm_classifier")


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
    x = mean_of_real(x, mask)
    return keras.Model(tokens, class_probabilities(x, num_classes, dropout), name="transformer_classifier")


def mean_of_real(x, mask):
    """The mean over the real tokens: (B, S, M) float and the (B, 1, S) of `padding_mask` to (B, M)."""
    dtype = keras.backend.result_type(x.dtype, "float32")  # half precision counts to 2048, or to 256 only
    real = ops.cast(mask, dtype)
    count = ops.maximum(ops.sum(real, axis=-1, keepdims=True), 1)  # a text without tokens must not become NaN
    return ops.squeeze(ops.matmul(ops.cast(real / count, x.dtype), x), axis=1)


def class_probabilities(x, num_classes: int, dropout: float):
    """The last layers of a classifier: (B, M) float to probabilities (B, C) float32."""
    x = Dropout(dropout, name="classifier_dropout")(x)
    return layers.Dense(num_classes, activation="softmax", name="probabilities", dtype="float32")(x)
