"""Token and position vectors: what the Transformer reads (article section 2.1)."""

import keras
import numpy as np
from keras import ops

from companion.base import Layer, check_at_least, check_shares


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
    check_at_least(1, length=length)
    if model_dim < 2 or model_dim % 2:
        raise ValueError(f"model_dim must be even and positive; received model_dim={model_dim}.")
    frequencies = 10000.0 ** (-np.arange(0, model_dim, 2) / model_dim)
    angles = np.arange(length)[:, None] * frequencies
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, model_dim).astype("float32")


@keras.saving.register_keras_serializable("companion")
class TokenPositionEmbedding(Layer):
    """A vector for each token, scaled, plus a vector for its position.

    Args:
        vocabulary_size: Number of token ids V; ids run from 0 to V - 1.
        max_length: Longest sequence that can be embedded.
        model_dim: Width M; even for sinusoidal positions.
        positions: "sinusoidal" (fixed), "learned" (a trained table), or "none".
        dropout: Fraction of the sum dropped in training, 0 <= dropout < 1.
        initial_stddev: Standard deviation of the token vectors, after the scaling, before training; > 0.
    Call arguments:
        tokens: (B, T) int from 0 to V - 1, start + T <= max_length. Ids are not checked: one that is not in
            the table raises an error on TensorFlow's CPU, or gives NaN or another token's vector elsewhere.
        start: Position of the first token, int or scalar int tensor: a decoder with a cache embeds one token
            at a time.
    Returns:
        (B, T, M) float. Where the length or start is known only when it runs, positions past max_length
        are NaN (with positions="none" there is no table to leave).
    Raises:
        ValueError: positions unknown, sizes below 1, dropout outside [0, 1), initial_stddev
            not above 0, or start + T > max_length.
    Source: Vaswani et al. 2017, sections 3.4 and 3.5; learned positions: Gehring et al. 2017, section 3.1.
    Differs: the paper does not say how its table starts; here by default so that, scaled by M^0.5, token
    vectors have the variance of the position vectors' order. A smaller start keeps rare words quiet.
    """

    def __init__(
        self,
        vocabulary_size,
        max_length,
        model_dim,
        positions="sinusoidal",
        dropout=0.0,
        initial_stddev=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least(1, vocabulary_size=vocabulary_size, max_length=max_length, model_dim=model_dim)
        check_shares(dropout=dropout)
        if not initial_stddev > 0:
            raise ValueError(f"initial_stddev must be above 0; received initial_stddev={initial_stddev}.")
        if positions not in ("sinusoidal", "learned", "none"):
            raise ValueError(
                f"positions must be 'sinusoidal', 'learned' or 'none'; received positions={positions!r}."
            )
        self.vocabulary_size, self.max_length, self.model_dim = vocabulary_size, max_length, model_dim
        self.positions, self.initial_stddev = positions, initial_stddev
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        if positions == "sinusoidal":
            self.sinusoids = positional_encoding(max_length, model_dim)

    def build(self, tokens_shape):
        self.token_table = self.add_weight(
            name="token_table",
            shape=(self.vocabulary_size, self.model_dim),
            initializer=keras.initializers.RandomNormal(stddev=self.initial_stddev * self.model_dim**-0.5),
            autocast=False,  # rows are taken first: casting the whole table would cost more
        )
        if self.positions == "learned":
            self.position_table = self.add_weight(
                name="position_table",
                shape=(self.max_length, self.model_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
                autocast=False,
            )

    def call(self, tokens, start=0, training=None):
        self._check_positions(tokens, start)
        vectors = ops.take(self.token_table, ops.cast(tokens, "int32"), axis=0)
        vectors = ops.cast(vectors, self.compute_dtype) * self.model_dim**0.5
        if self.positions != "none":
            vectors = vectors + self._position_vectors(start, ops.shape(tokens)[1])
        return self.dropout(vectors, training=training)

    def _check_positions(self, tokens, start):
        start, length = start if isinstance(start, int) else 0, tokens.shape[1] or 0  # if known already
        if start < 0 or start + length > self.max_length:
            raise ValueError(
                f"tokens must have at most max_length={self.max_length} positions; "
                f"received shape {tuple(tokens.shape)}{f' and start={start}' if start else ''}."
            )

    def _position_vectors(self, start, length):
        table = self.sinusoids if self.positions == "sinusoidal" else self.position_table
        positions = start + ops.arange(length)
        inside = ops.logical_and(positions >= 0, positions < self.max_length)
        vectors = ops.take(table, ops.where(inside, positions, 0), axis=0)
        vectors = ops.where(inside[:, None], vectors, np.nan)  # an index out of range is clamped by XLA
        return ops.cast(vectors, self.compute_dtype)

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.model_dim)
