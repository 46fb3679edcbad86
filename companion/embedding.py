"""Token and position vectors: what the Transformer reads (article section 2.1)."""

import keras
import numpy as np
from keras import ops


def positional_encoding(length: int, model_dim: int) -> np.ndarray:
    """Sinusoidal position vectors, one row per position.

    Args:
        length: Number of positions T, >= 1.
        model_dim: Width M, even.
    Returns:
        (T, M) float32; column 2i holds sin(t / 10000^(2i/M)), column 2i+1 the cosine of the same angle.
    Raises:
        ValueError: length below 1, or model_dim odd or below 2.
    Source: Vaswani et al. 2017, section 3.5.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1; received length={length}.")
    if model_dim < 2 or model_dim % 2:
        raise ValueError(f"model_dim must be even and positive; received model_dim={model_dim}.")
    frequencies = 10000.0 ** (-np.arange(0, model_dim, 2) / model_dim)
    angles = np.arange(length)[:, None] * frequencies
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, model_dim).astype("float32")


@keras.saving.register_keras_serializable("companion")
class TokenPositionEmbedding(keras.layers.Layer):
    """A vector for each token, scaled, plus a vector for its position.

    Args:
        vocabulary_size: Number of token ids V; ids run from 0 to V - 1.
        max_length: Longest sequence that can be embedded.
        model_dim: Width M; even for sinusoidal positions.
        positions: "sinusoidal" (fixed), "learned" (a trained table), or "none".
        dropout: Fraction of the sum dropped in training, 0 <= dropout < 1.
    Call arguments:
        tokens: (B, T) int, T <= max_length.
        start: Position of the first token, int or scalar int tensor: a decoder with a cache embeds one token
            at a time.
    Returns:
        (B, T, M) float.
    Raises:
        ValueError: positions unknown, sizes below 1, or T > max_length.
    Source: Vaswani et al. 2017, sections 3.4 and 3.5; learned positions: Gehring et al. 2017, section 3.1.
    Differs: token vectors start with standard deviation M^-0.5, so that after the scaling by M^0.5 they
    have the variance of the position vectors' order.
    """

    def __init__(self, vocabulary_size, max_length, model_dim, positions="sinusoidal", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        for name, size in {
            "vocabulary_size": vocabulary_size,
            "max_length": max_length,
            "model_dim": model_dim,
        }.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1; received {name}={size}.")
        if positions not in ("sinusoidal", "learned", "none"):
            raise ValueError(
                f"positions must be 'sinusoidal', 'learned' or 'none'; received positions={positions!r}."
            )
        self.vocabulary_size, self.max_length, self.model_dim = vocabulary_size, max_length, model_dim
        self.positions = positions
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        if positions == "sinusoidal":
            self.sinusoids = positional_encoding(max_length, model_dim)

    def build(self, tokens_shape):
        self.token_table = self.add_weight(
            name="token_table",
            shape=(self.vocabulary_size, self.model_dim),
            initializer=keras.initializers.RandomNormal(stddev=self.model_dim**-0.5),
        )
        if self.positions == "learned":
            self.position_table = self.add_weight(
                name="position_table",
                shape=(self.max_length, self.model_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
            )

    def call(self, tokens, start=0, training=None):
        if tokens.shape[1] is not None and tokens.shape[1] > self.max_length:
            raise ValueError(
                f"tokens must have at most max_length={self.max_length} positions; "
                f"received shape {tuple(tokens.shape)}."
            )
        tokens = ops.cast(tokens, "int32")
        vectors = (
            ops.take(ops.cast(self.token_table, self.compute_dtype), tokens, axis=0) * self.model_dim**0.5
        )
        if self.positions != "none":
            vectors = vectors + self._position_vectors(start, ops.shape(tokens)[1])
        return self.dropout(vectors, training=training)

    def _position_vectors(self, start, length):
        table = self.sinusoids if self.positions == "sinusoidal" else self.position_table
        return ops.take(ops.cast(table, self.compute_dtype), start + ops.arange(length), axis=0)

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.model_dim)
