"""Masks, scaled dot-product attention and its multi-head form (article sections 4.1 and 4.2).

A mask is boolean, True where a token may be attended to, and is passed as `attention_mask=`.
"""

import keras
from keras import ops

from companion.base import Layer, check_heads, check_shares


def padding_mask(tokens, padding_id: int = 0):
    """Which tokens are real, in the shape that attention takes.

    Args:
        tokens: (B, S) int.
        padding_id: The id that fills short sequences.
    Returns:
        (B, 1, S) bool; True = real token. `padding_mask(tokens) & causal_mask(S)` is (B, S, S).
    """
    return ops.expand_dims(ops.not_equal(tokens, padding_id), axis=1)


def causal_mask(length):
    """Each position may attend to itself and to those before it.

    Args:
        length: Number of positions T: int, or scalar int tensor (where a functional model is put together,
            int only).
    Returns:
        (T, T) bool; entry [t, s] is True where s <= t.
    Source: Vaswani et al. 2017, section 3.2.3.
    """
    positions = ops.arange(length)
    return positions[:, None] >= positions[None, :]


def attention_distribution(query, key, attention_mask=None):
    """For each query, a probability over the keys: softmax(Q K^T / sqrt(D)) over the allowed ones.

    Args:
        query: (..., T, D) float.
        key: (..., S, D) float.
        attention_mask: bool, broadcastable to (..., T, S); True = may attend. None allows all.
    Returns:
        (..., T, S) of query's dtype; every row sums to 1, masked entries are exactly 0. A row with nothing
        allowed is uniform.
    """
    scores = ops.matmul(query * (query.shape[-1] ** -0.5), ops.swapaxes(key, -1, -2))
    # half precision loses the sum
    dtype = keras.backend.result_type(scores.dtype, "float32")
    scores = ops.cast(scores, dtype)
    if attention_mask is not None:
        # large but finite: a fully masked row must not become NaN
        scores = ops.where(attention_mask, scores, -1e9)
    return ops.cast(ops.softmax(scores, axis=-1), query.dtype)


def scaled_dot_product_attention(query, key, value, attention_mask=None):
    """A mean of the values for each query, weighted by how well the query matches the keys.

    Args:
        query: (..., T, D) float.
        key: (..., S, D) float.
        value: (..., S, E) float.
        attention_mask: bool, broadcastable to (..., T, S); True = may attend. None allows all.
    Returns:
        output: (..., T, E) float.
        weights: (..., T, S) float, see `attention_distribution`.
    Raises:
        ValueError: query and key differ in width, or key and value in length.
    Source: Vaswani et al. 2017, section 3.2.1, equation 1.
    """
    query, key, value = map(ops.convert_to_tensor, (query, key, value))
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query and key must have the same width; received query {tuple(query.shape)}, "
            f"key {tuple(key.shape)}."
        )
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"key and value must have the same length; received key {tuple(key.shape)}, "
            f"value {tuple(value.shape)}."
        )
    weights = attention_distribution(query, key, attention_mask)
    return ops.matmul(weights, value), weights


@keras.saving.register_keras_serializable("companion")
class MultiHeadAttention(Layer):
    """H attentions side by side, each on its own projection of width D = M / H.

    `project` and `attend` are the two halves of a call; a cache keeps what `project` returned.

    Args:
        model_dim: Width M of the output; divisible by num_heads.
        num_heads: Number of heads H.
        dropout: Fraction of attention weights dropped in training, 0 <= dropout < 1.
    Call arguments:
        query: (B, T, ·) float.
        key: (B, S, ·) float; query if not given (self-attention).
        value: (B, S, ·) float; key if not given.
        attention_mask: bool, broadcastable to (B, T, S), e.g. (B, 1, S) from `padding_mask` or (T, T) from
            `causal_mask`; True = may attend.
    Returns:
        output: (B, T, M) float.
        weights: (B, H, T, S) float, before dropout.
    Raises:
        ValueError: num_heads does not divide model_dim, or dropout is outside [0, 1).
    Source: Vaswani et al. 2017, section 3.2.2. Differs: the projections have biases, as in BERT and Keras.
    """

    def __init__(self, model_dim, num_heads, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_heads(model_dim, num_heads)
        check_shares(dropout=dropout)
        self.model_dim, self.num_heads = int(model_dim), int(num_heads)
        self.query_projection = self._dense("query")
        self.key_projection = self._dense("key")
        self.value_projection = self._dense("value")
        self.output_projection = self._dense("output")
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def _dense(self, name):
        return keras.layers.Dense(self.model_dim, name=name, dtype=self.dtype_policy)

    def build(self, query_shape, key_shape=None, value_shape=None):
        key_shape = key_shape or query_shape
        self.query_projection.build(query_shape)
        self.key_projection.build(key_shape)
        self.value_projection.build(value_shape or key_shape)
        self.output_projection.build((*query_shape[:-1], self.model_dim))

    def call(self, query, key=None, value=None, attention_mask=None, training=None):
        key = query if key is None else key
        keys, values = self.project(key, value)
        return self.attend(query, keys, values, attention_mask, training=training)

    def project(self, key, value=None):
        """Keys and values of each head.

        Args:
            key: (B, S, ·) float.
            value: (B, S, ·) float; key if not given.
        Returns:
            keys, values: (B, H, S, D) float each.
        """
        value = key if value is None else value
        return self._split_heads(self.key_projection(key)), self._split_heads(self.value_projection(value))

    def attend(self, query, keys, values, attention_mask=None, training=None):
        """Attention of query to keys and values that `project` made.

        Args:
            query: (B, T, ·) float.
            keys, values: (B, H, S, D) float.
            attention_mask: as in a call.
        Returns:
            output: (B, T, M) float.
            weights: (B, H, T, S) float.
        """
        if attention_mask is not None and len(attention_mask.shape) == 3:
            attention_mask = ops.expand_dims(attention_mask, axis=1)  # the same for every head
        queries = self._split_heads(self.query_projection(query))
        weights = attention_distribution(queries, keys, attention_mask)
        heads = ops.matmul(self.dropout(weights, training=training), values)
        return self.output_projection(self._join_heads(heads)), weights

    def _split_heads(self, x):  # (B, S, M) -> (B, H, S, D)
        batch, length = ops.shape(x)[:2]
        x = ops.reshape(x, (batch, length, self.num_heads, self.model_dim // self.num_heads))
        return ops.transpose(x, (0, 2, 1, 3))

    def _join_heads(self, x):  # (B, H, T, D) -> (B, T, M)
        batch, length = ops.shape(x)[0], ops.shape(x)[2]
        return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, length, self.model_dim))

    def compute_output_shape(self, query_shape, key_shape=None, value_shape=None):
        key_shape = key_shape or query_shape
        batch, length = query_shape[:2]
        return (batch, length, self.model_dim), (batch, self.num_heads, length, key_shape[1])
