"""The Transformer encoder block (article section 3)."""

import keras

from companion.attention import MultiHeadAttention
from companion.base import Layer, check_shares, check_width


@keras.saving.register_keras_serializable("companion")
class FeedForward(Layer):
    """Two dense layers with a nonlinearity between them, applied to each position alone.

    Args:
        model_dim: Width M of input and output.
        hidden_dim: Width of the inner layer.
        activation: Name of the nonlinearity.
        dropout: Fraction of the inner layer dropped in training, 0 <= dropout < 1.
    Call arguments:
        x: (B, T, M) float.
    Returns:
        (B, T, M) float.
    Raises:
        ValueError: dropout is outside [0, 1).
    Source: Vaswani et al. 2017, section 3.3. Differs: dropout between the layers.
    """

    def __init__(self, model_dim, hidden_dim, activation="relu", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_shares(dropout=dropout)
        self.hidden = keras.layers.Dense(int(hidden_dim), activation, name="hidden", dtype=self.dtype_policy)
        self.output_projection = keras.layers.Dense(int(model_dim), name="output", dtype=self.dtype_policy)
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, x_shape):
        self.hidden.build(x_shape)
        self.output_projection.build((*x_shape[:-1], self.hidden.units))

    def call(self, x, training=None):
        return self.output_projection(self.dropout(self.hidden(x), training=training))

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.output_projection.units)


@keras.saving.register_keras_serializable("companion")
class EncoderBlock(Layer):
    """Self-attention, then a feed-forward network, each added to its input.

    Args:
        model_dim: Width M; divisible by num_heads.
        num_heads: Attention heads H.
        hidden_dim: Inner width of the feed-forward network.
        dropout: Fraction dropped of the attention weights and of each sum's new term, 0 <= dropout < 1.
    Call arguments:
        source: (B, S, M) float.
        attention_mask: bool, broadcastable to (B, S, S), e.g. (B, 1, S) from `padding_mask`; True = may
            attend.
    Returns:
        (B, S, M) float.
    Raises:
        ValueError: num_heads does not divide model_dim, dropout is outside [0, 1), or source has another
            width.
    Source: Vaswani et al. 2017, section 3.1. Differs: normalizes first (Xiong et al. 2020), so that a stack
    of blocks ends with one more LayerNormalization.
    """

    def __init__(self, model_dim, num_heads, hidden_dim, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.model_dim = model_dim
        self.attention_norm = keras.layers.LayerNormalization(
            epsilon=1e-6, name="attention_norm", dtype=policy
        )
        self.attention = MultiHeadAttention(model_dim, num_heads, dropout, name="attention", dtype=policy)
        self.feed_forward_norm = keras.layers.LayerNormalization(
            epsilon=1e-6, name="feed_forward_norm", dtype=policy
        )
        self.feed_forward = FeedForward(model_dim, hidden_dim, name="feed_forward", dtype=policy)
        self.dropout = keras.layers.Dropout(dropout, dtype=policy)

    def build(self, source_shape):
        check_width("source", source_shape, self.model_dim)
        for layer in (self.attention_norm, self.attention, self.feed_forward_norm, self.feed_forward):
            layer.build(source_shape)

    def call(self, source, attention_mask=None, training=None):
        attended, _ = self.attention(
            self.attention_norm(source), attention_mask=attention_mask, training=training
        )
        source = source + self.dropout(attended, training=training)
        transformed = self.feed_forward(self.feed_forward_norm(source), training=training)
        return source + self.dropout(transformed, training=training)

    def attention_weights(self, source, attention_mask=None):
        """The weights that a call with the same arguments uses: (B, H, S, S) float."""
        return self.attention(self.attention_norm(source), attention_mask=attention_mask)[1]

    def compute_output_shape(self, source_shape):
        return source_shape
