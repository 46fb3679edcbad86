"""Recurrent models that the Transformers are measured against (article section 3)."""

import keras
from keras import layers, ops

from companion.base import Dropout, check_at_least, check_shares, takes_plain_numbers


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
    source = Dropout(dropout)(source)
    encoder = layers.LSTM(hidden_dim, return_state=True, name="encoder_lstm")
    _, *state = encoder(source, mask=ops.not_equal(source_tokens, 0))
    target = layers.Embedding(target_vocabulary_size, model_dim, name="target_embedding")(target_tokens)
    target = Dropout(dropout)(target)
    target = layers.LSTM(hidden_dim, return_sequences=True, name="decoder_lstm")(target, initial_state=state)
    logits = layers.Dense(target_vocabulary_size, name="logits", dtype="float32")(Dropout(dropout)(target))
    return keras.Model([source_tokens, target_tokens], logits, name="lstm_seq2seq")


@takes_plain_numbers
def lstm_language_model(
    vocabulary_size: int,
    model_dim: int = 128,
    hidden_dim: int = 256,
    num_layers: int = 1,
    dropout: float = 0.1,
) -> keras.Model:
    """The baseline of `gpt`: an LSTM scores each next token after all earlier ones.

    Args:
        vocabulary_size: Number of token ids V.
        model_dim: Width of the embedding.
        hidden_dim: Width of each LSTM.
        num_layers: LSTMs stacked on one another, >= 1.
        dropout: Fraction of the embeddings and of the last LSTM's output dropped in training.
    Returns:
        Model from tokens (B, T) int to logits (B, T, V) float32.
    Raises:
        ValueError: num_layers below 1, or dropout outside [0, 1).
    Source: Zaremba et al. 2014, section 3. Differs: dropout at both ends only.
    """
    check_at_least(1, num_layers=num_layers)
    check_shares(dropout=dropout)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(vocabulary_size, model_dim, name="embedding")(tokens)
    x = Dropout(dropout)(x)
    for i in range(num_layers):
        x = layers.LSTM(hidden_dim, return_sequences=True, name=f"lstm_{i}")(x)
    logits = layers.Dense(vocabulary_size, name="logits", dtype="float32")(Dropout(dropout)(x))
    return keras.Model(tokens, logits, name="lstm_language_model")
