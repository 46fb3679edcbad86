"""Token and position vectors: what the Transformer reads (article section 2.1)."""

import math

import keras
import numpy as np
from keras import ops

from companion.base import Dropout, Layer, check_at_least, check_shares

POSITIONS = ("sinusoidal", "sinusoidal_halves", "learned", "none")


def positional_encoding(length: int, model_dim: int, halves: bool = False) -> np.ndarray:
    """Sinusoidal position vectors, one row per position.

    Args:
        length: Number of positions T, >= 1.
        model_dim: Width M, even.
        halves: First all sines, then all cosines, as Marian's translation models have them.
    Returns:
        (T, M) float32; column 2i holds sin(t / 10000^(2i/M)), column 2i+1 the cosine of the same angle; with
        halves, these are columns i and M/2 + i.
    Raises:
        ValueError: length below 1, or model_dim odd or below 2.
    Source: Vaswani et al. 2017, section 3.5.
    """
    check_at_least(1, length=length)
    if model_dim < 2 or model_dim % 2:
        raise ValueError(f"model_dim must be even and positive; received model_dim={model_dim}.")
    frequencies = 10000.0 ** (-np.arange(0, model_dim, 2) / model_dim)
    angles = np.arange(length)[:, None] * frequencies
    both = np.stack([np.sin(angles), np.cos(angles)], axis=1 if halves else 2)
    return both.reshape(length, model_dim).astype("float32")


@keras.saving.register_keras_serializable("companion")
class TokenPositionEmbedding(Layer):
    """A vector for each token, scaled, plus one for its position; read backwards, a score for each token.

    Args:
        vocabulary_size: Number of token ids V; ids run from 0 to V - 1.
        max_length: Longest sequence that can be embedded; None: any, with positions="none" only.
        model_dim: Width M; even for sinusoidal positions.
        positions: "sinusoidal" (fixed), "sinusoidal_halves" (see `positional_encoding`), "learned" (a trained
            table), or "none".
        dropout: Fraction of the sum dropped in training, 0 <= dropout < 1.
        initial_stddev: Standard deviation of the token vectors, after the scaling, before training; > 0.
        scaled: Multiply the token vectors by M^0.5; BERT, GPT and T5 do not.
        output_bias: Add a trained number to each token's score.
    Call arguments:
        tokens: (B, T) int from 0 to V - 1, start + T <= max_length. Ids are not checked: one that is not in
            the table raises an error on TensorFlow's CPU, or gives NaN or another token's vector elsewhere.
            With reverse, (B, T, M) float: what the last block returned.
        start: Position of the first token, int or scalar int tensor: a decoder with a cache embeds one token
            at a time.
        reverse: Score every token by its vector: the output layer is tied to the embedding.
    Returns:
        (B, T, M) float. Where the length or start is known only when it runs, positions past max_length
        are NaN (with positions="none" there is no table to leave). With reverse, logits (B, T, V) float32.
    Raises:
        ValueError: positions unknown, sizes below 1, dropout outside [0, 1), initial_stddev
            not above 0, or start + T > max_length.
    Source: Vaswani et al. 2017, sections 3.4 and 3.5; learned positions: Gehring et al. 2017, section 3.1;
    tied output: Press and Wolf 2017, section 2. Differs: Vaswani et al. do not say how their table starts;
    here by default so that, scaled by M^0.5, token vectors have the variance of the position vectors' order.
    A smaller start keeps rare words quiet.
    """

    def __init__(
        self,
        vocabulary_size,
        max_length,
        model_dim,
        positions="sinusoidal",
        dropout=0.0,
        initial_stddev=1.0,
        scaled=True,
        output_bias=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least(1, vocabulary_size=vocabulary_size, model_dim=model_dim)
        check_shares(dropout=dropout)
        if not initial_stddev > 0:
            raise ValueError(f"initial_stddev must be above 0; received initial_stddev={initial_stddev}.")
        if positions not in POSITIONS:
            raise ValueError(
                f"positions must be {', '.join(map(repr, POSITIONS[:-1]))} or {POSITIONS[-1]!r}; "
                f"received positions={positions!r}."
            )
        if max_length is None and positions != "none":
            raise ValueError(f"max_length must be given with positions={positions!r}; received None.")
        check_at_least(1, max_length=math.inf if max_length is None else max_length)
        self.vocabulary_size, self.max_length, self.model_dim = vocabulary_size, max_length, model_dim
        self.positions, self.initial_stddev = positions, initial_stddev
        self.scaled, self.has_output_bias = scaled, output_bias
        self.dropout = Dropout(dropout, dtype=self.dtype_policy)
        if positions.startswith("sinusoidal"):
            self.sinusoids = positional_encoding(max_length, model_dim, positions == "sinusoidal_halves")

    def build(self, tokens_shape):
        stddev = self.initial_stddev * (self.model_dim**-0.5 if self.scaled else 1)
        self.token_table = self.add_weight(
            name="token_table",
            shape=(self.vocabulary_size, self.model_dim),
            initializer=keras.initializers.RandomNormal(stddev=stddev),
            autocast=False,  # rows are taken first: casting the whole table would cost more
        )
        if self.positions == "learned":
            self.position_table = self.add_weight(
                name="position_table",
                shape=(self.max_length, self.model_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
                autocast=False,
            )
        if self.has_output_bias:
            self.output_bias = self.add_weight(
                name="output_bias", shape=(self.vocabulary_size,), initializer="zeros", autocast=False
            )

    def call(self, tokens, start=0, reverse=False, training=None):
        if reverse:
            return self._scores(tokens)
        self._check_positions(tokens, start)
        vectors = ops.take(self.token_table, ops.cast(tokens, "int32"), axis=0)
        vectors = ops.cast(vectors, self.compute_dtype)
        if self.scaled:
            vectors = vectors * self.model_dim**0.5
        if self.positions != "none":
            vectors = vectors + self._position_vectors(start, ops.shape(tokens)[1])
        return self.dropout(vectors, training=training)

    def _scores(self, hidden):
        table = ops.cast(self.token_table, self.compute_dtype)
        logits = ops.cast(ops.matmul(hidden, ops.transpose(table)), "float32")
        return logits + self.output_bias if self.has_output_bias else logits

    def _check_positions(self, tokens, start):
        start, length = start if isinstance(start, int) else 0, tokens.shape[1] or 0  # if known already
        if start < 0 or start + length > (self.max_length or math.inf):
            raise ValueError(
                f"tokens must have at most max_length={self.max_length} positions; "
                f"received shape {tuple(tokens.shape)}{f' and start={start}' if start else ''}."
            )

    def _position_vectors(self, start, length):
        table = self.position_table if self.positions == "learned" else self.sinusoids
        positions = start + ops.arange(length)
        inside = ops.logical_and(positions >= 0, positions < self.max_length)
        vectors = ops.take(table, ops.where(inside, positions, 0), axis=0)
        vectors = ops.where(inside[:, None], vectors, np.nan)  # an index out of range is clamped by XLA
        return ops.cast(vectors, self.compute_dtype)

    def compute_output_spec(self, tokens, start=0, reverse=False, training=None):
        if reverse:
            return keras.KerasTensor((*tokens.shape[:-1], self.vocabulary_size), "float32")
        self._check_positions(tokens, start)
        return keras.KerasTensor((*tokens.shape, self.model_dim), self.compute_dtype)


@keras.saving.register_keras_serializable("companion")
class RelativePositionBias(Layer):
    """A trained number for each head and each distance from query to key, to be added to attention scores.

    Near distances have a number each; farther ones share them, on a logarithmic scale.

    Args:
        num_heads: Attention heads H.
        num_buckets: Numbers for each head, shared out among the distances; >= 4, and even if bidirectional.
        max_distance: All distances from here on share one; more than half of one side's buckets.
        bidirectional: Half of the numbers are for keys after the query; False: those count as distance 0, for
            they are masked.
    Call arguments:
        x: (B, T, ...): only its length is read.
    Returns:
        (1, H, T, T) float, `position_bias` of a block's call.
    Raises:
        ValueError: num_heads below 1, or num_buckets or max_distance too small.
    Source: Raffel et al. 2020, section 2.1: all blocks share one of these.
    """

    def __init__(self, num_heads, num_buckets=32, max_distance=128, bidirectional=True, **kwargs):
        super().__init__(**kwargs)
        check_at_least(1, num_heads=num_heads)
        sides = 2 if bidirectional else 1
        if num_buckets < 2 * sides or num_buckets % sides:
            raise ValueError(
                f"num_buckets must be at least {2 * sides}{' and even' * bidirectional}; "
                f"received num_buckets={num_buckets}."
            )
        self.side = num_buckets // sides
        if max_distance <= self.side // 2:
            raise ValueError(
                f"max_distance must be above {self.side // 2}; received max_distance={max_distance}."
            )
        self.num_heads, self.num_buckets = num_heads, num_buckets
        self.max_distance, self.bidirectional = max_distance, bidirectional

    def build(self, x_shape):
        self.bias_table = self.add_weight(
            name="bias_table",
            shape=(self.num_buckets, self.num_heads),
            initializer=keras.initializers.RandomNormal(stddev=0.1),
        )

    def call(self, x):
        length = ops.shape(x)[1]
        return self.rows(0, length, length)

    def rows(self, position, count, length):
        """The rows of some queries, for a decoder with a cache.

        Args:
            position: Index of the first query, int or scalar int tensor.
            count: Number of queries N.
            length: Number of keys L.
        Returns:
            (1, H, N, L) float.
        """
        queries, keys = position + ops.arange(count), ops.arange(length)
        buckets = self._buckets(ops.cast(keys[None, :] - queries[:, None], "int32"))
        return ops.transpose(ops.take(self.bias_table, buckets, axis=0), (2, 0, 1))[None]

    def _buckets(self, offsets):  # key's position minus query's, (N, L) int
        first = ops.where(offsets > 0, self.side, 0) if self.bidirectional else 0
        distances = ops.abs(offsets) if self.bidirectional else ops.maximum(-offsets, 0)
        exact = self.side // 2
        # between exact and max_distance, buckets grow as the distance does
        ratio = ops.cast(ops.maximum(distances, 1), "float32") / exact
        steps = ops.log(ratio) / math.log(self.max_distance / exact) * (self.side - exact)
        far = ops.minimum(exact + ops.cast(steps, "int32"), self.side - 1)
        return first + ops.where(distances < exact, distances, far)

    def compute_output_spec(self, x):
        return keras.KerasTensor((1, self.num_heads, x.shape[1], x.shape[1]), self.compute_dtype)
