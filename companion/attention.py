"""Masks, scaled dot-product attention and its multi-head form (article sections 4.1 and 4.2).

A mask is boolean, True where a token may be attended to, and is passed as `attention_mask=`.
"""

import keras
from keras import ops

from companion.base import Dropout, Layer, check_heads, check_shares


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


def attention_distribution(query, key, attention_mask=None, position_bias=None, scaled=True):
    """For each query, a probability over the keys: softmax(Q K^T / sqrt(D) + bias) over the allowed ones.

    Args:
        query: (..., T, D) float.
        key: (..., S, D) float.
        attention_mask: bool, broadcastable to (..., T, S); True = may attend. None allows all.
        position_bias: float, broadcastable to (..., T, S), added to the scores, e.g. from
            `RelativePositionBias`.
        scaled: False leaves out the division by sqrt(D), as T5 does.
    Returns:
        (..., T, S) of query's dtype; every row sums to 1, masked entries are exactly 0. A row with nothing
        allowed is uniform.
    """
    if scaled:
        query = query * (query.shape[-1] ** -0.5)
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2))
    # half precision loses the sum
    dtype = keras.backend.result_type(scores.dtype, "float32")
    scores = ops.cast(scores, dtype)
    if position_bias is not None:
        scores = scores + ops.cast(position_bias, dtype)
    if attention_mask is not None:
        # large but finite: a fully masked row must not become NaN; so large that nothing of a score remains
        scores = scores + ops.where(attention_mask, ops.cast(0.0, dtype), ops.cast(-1e30, dtype))
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
    """H attentions side by side, each on its own projection of width D.

    `project` and `attend` are the two halves of a call; a cache keeps what `project` returned.

    Args:
        model_dim: Width M of the output.
        num_heads: Number of heads H.
        dropout: Fraction of attention weights dropped in training, 0 <= dropout < 1.
        head_dim: Width D of a head; M / H if not given.
        use_bias: False: the projections have no biases.
        scaled: False leaves out the division by sqrt(D).
    Call arguments:
        query: (B, T, ·) float.
        key: (B, S, ·) float; query if not given (self-attention).
        value: (B, S, ·) float; key if not given.
        attention_mask: bool, broadcastable to (B, T, S), e.g. (B, 1, S) from `padding_mask` or (T, T) from
            `causal_mask`; True = may attend.
        position_bias: float, broadcastable to (B, H, T, S), added to the scores.
    Returns:
        output: (B, T, M) float.
        weights: (B, H, T, S) float, before dropout.
    Raises:
        ValueError: num_heads does not divide model_dim and there is no head_dim, a size is below 1, or
            dropout is outside [0, 1).
    Source: Vaswani et al. 2017, section 3.2.2. Differs: the projections have biases, as in BERT and Keras;
    without them, unscaled, and with a position_bias it is T5's (Raffel et al. 2020, section 2.1).
    """

    def __init__(
        self, model_dim, num_heads, dropout=0.0, head_dim=None, use_bias=True, scaled=True, **kwargs
    ):
        super().__init__(**kwargs)
        head_dim = check_heads(model_dim, num_heads, head_dim)
        check_shares(dropout=dropout)
        self.model_dim, self.num_heads, self.head_dim = int(model_dim), int(num_heads), int(head_dim)
        self.scaled = scaled
        width = self.num_heads * self.head_dim
        start = "glorot_uniform"
        if not scaled:  # queries start smaller instead
            start = keras.initializers.VarianceScaling(1 / head_dim, "fan_avg", "uniform")
        self.query_projection = self._dense(width, use_bias, "query", kernel_initializer=start)
        self.key_projection = self._dense(width, use_bias, "key")
        self.value_projection = self._dense(width, use_bias, "value")
        self.output_projection = self._dense(self.model_dim, use_bias, "output")
        self.dropout = Dropout(dropout, dtype=self.dtype_policy)

    def _dense(self, width, use_bias, name, **kwargs):
        return keras.layers.Dense(width, use_bias=use_bias, name=name, dtype=self.dtype_policy, **kwargs)

    def build(self, query_shape, key_shape=None, value_shape=None):
        key_shape = key_shape or query_shape
        self.query_projection.build(query_shape)
        self.key_projection.build(key_shape)
        self.value_projection.build(value_shape or key_shape)
        self.output_projection.build((*query_shape[:-1], self.num_heads * self.head_dim))

    def call(self, query, key=None, value=None, attention_mask=None, position_bias=None, training=None):
        key = query if key is None else key
        keys, values = self.project(key, value)
        return self.attend(query, keys, values, attention_mask, position_bias, training=training)

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

    def attend(self, query, keys, values, attention_mask=None, position_bias=None, training=None):
        """Attention of query to keys and values that `project` made.

        Args:
            query: (B, T, ·) float.
            keys, values: (B, H, S, D) float.
            attention_mask, position_bias: as in a call.
        Returns:
            output: (B, T, M) float.
            weights: (B, H, T, S) float.
        """
        if attention_mask is not None and len(attention_mask.shape) == 3:
            attention_mask = ops.expand_dims(attention_mask, axis=1)  # the same for every head
        queries = self._split_heads(self.query_projection(query))
        weights = attention_distribution(queries, keys, attention_mask, position_bias, self.scaled)
        heads = ops.matmul(self.dropout(weights, training=training), values)
        return self.output_projection(self._join_heads(heads)), weights

    def _split_heads(self, x):  # (B, S, H * D) -> (B, H, S, D)
        batch, length = ops.shape(x)[:2]
        x = ops.reshape(x, (batch, length, self.num_heads, self.head_dim))
        return ops.transpose(x, (0, 2, 1, 3))

    def _join_heads(self, x):  # (B, H, T, D) -> (B, T, H * D)
        batch, length = ops.shape(x)[0], ops.shape(x)[2]
        return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, length, self.num_heads * self.head_dim))

    def compute_output_shape(self, query_shape, key_shape=None, value_shape=None):
        key_shape = key_shape or query_shape
        batch, length = query_shape[:2]
        return (batch, length, self.model_dim), (batch, self.num_heads, length, key_shape[1])
