"""The Transformer encoder block and what the decoder block shares with it (article section 3)."""

import functools

import keras
from keras import ops

from companion.attention import MultiHeadAttention
from companion.base import Dropout, Layer, check_shares, check_width


@keras.saving.register_keras_serializable("companion")
class FeedForward(Layer):
    """Two dense layers with a nonlinearity between them, applied to each position alone.

    Args:
        model_dim: Width M of input and output.
        hidden_dim: Width of the inner layer.
        activation: Name of the nonlinearity, one of Keras's or "gelu_tanh": GPT-2's approximation of "gelu".
        dropout: Fraction of the inner layer dropped in training, 0 <= dropout < 1.
        gated: Multiply the inner layer by a second, linear one, as T5 v1.1 does.
        use_bias: False: the dense layers have no biases.
    Call arguments:
        x: (B, T, M) float.
    Returns:
        (B, T, M) float.
    Raises:
        ValueError: dropout is outside [0, 1), or activation is unknown.
    Source: Vaswani et al. 2017, section 3.3; GELU and its approximation: Hendrycks and Gimpel 2016,
    section 2; gated: Shazeer 2020, section 2. Differs: dropout between the layers.
    """

    def __init__(
        self, model_dim, hidden_dim, activation="relu", dropout=0.0, gated=False, use_bias=True, **kwargs
    ):
        super().__init__(**kwargs)
        check_shares(dropout=dropout)
        dense = functools.partial(keras.layers.Dense, use_bias=use_bias, dtype=self.dtype_policy)
        self.hidden = dense(int(hidden_dim), activation_named(activation), name="hidden")
        self.gate = dense(int(hidden_dim), name="gate") if gated else None
        self.output_projection = dense(int(model_dim), name="output")
        self.dropout = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, x_shape):
        self.hidden.build(x_shape)
        if self.gate:
            self.gate.build(x_shape)
        self.output_projection.build((*x_shape[:-1], self.hidden.units))

    def call(self, x, training=None):
        hidden = self.hidden(x)
        if self.gate:
            hidden = hidden * self.gate(x)
        return self.output_projection(self.dropout(hidden, training=training))

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.output_projection.units)


class Block(Layer):
    """What the blocks of encoder and decoder share: sublayers, each added to its input; for the variants see
    `EncoderBlock`."""

    def __init__(
        self,
        model_dim,
        num_heads,
        hidden_dim,
        dropout=0.0,
        norm_first=True,
        norm="layer",
        epsilon=1e-6,
        activation="relu",
        gated=False,
        use_bias=True,
        head_dim=None,
        scaled=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.model_dim, self.norm_first = model_dim, norm_first
        self.make_norm = functools.partial(normalization, norm, epsilon=epsilon, dtype=policy)
        self.make_attention = functools.partial(
            MultiHeadAttention, model_dim, num_heads, dropout, head_dim, use_bias, scaled, dtype=policy
        )
        self.make_feed_forward = functools.partial(
            FeedForward, model_dim, hidden_dim, activation, 0.0, gated, use_bias, dtype=policy
        )
        self.make_dropout = functools.partial(Dropout, dropout, dtype=policy)

    def normalized(self, x, norm):
        """What a sublayer reads: x, normalized if the block normalizes first."""
        return norm(x) if self.norm_first else x

    def added(self, x, new, norm, training=None):
        """x plus what a sublayer made of it, normalized if the block normalizes afterwards."""
        x = x + self.dropout(new, training=training)
        return x if self.norm_first else norm(x)

    def transform(self, x, training=None):
        """The feed-forward network, added to its input: (B, T, M) to (B, T, M)."""
        new = self.feed_forward(self.normalized(x, self.feed_forward_norm), training=training)
        return self.added(x, new, self.feed_forward_norm, training)


@keras.saving.register_keras_serializable("companion")
class EncoderBlock(Block):
    """Self-attention, then a feed-forward network, each added to its input.

    Args:
        model_dim: Width M; divisible by num_heads, unless head_dim is given.
        num_heads: Attention heads H.
        hidden_dim: Inner width of the feed-forward network.
        dropout: Fraction dropped of the attention weights and of each sum's new term, 0 <= dropout < 1.
        norm_first: Normalize what each part reads; False: each sum, as the Transformer of 2017 and BERT do.
        norm: "layer", or "rms": without a mean and without a bias, as T5.
        epsilon: Added to the variance, > 0.
        activation, gated: see `FeedForward`.
        use_bias: False: no biases in attention and feed-forward network, as T5.
        head_dim, scaled: see `MultiHeadAttention`.
    Call arguments:
        source: (B, S, M) float.
        attention_mask: bool, broadcastable to (B, S, S), e.g. (B, 1, S) from `padding_mask`; True = may
            attend.
        position_bias: float, broadcastable to (B, H, S, S), e.g. from `RelativePositionBias`.
    Returns:
        (B, S, M) float.
    Raises:
        ValueError: num_heads does not divide model_dim, dropout is outside [0, 1), norm or activation is
            unknown, or source has another width.
    Source: Vaswani et al. 2017, section 3.1. Differs: by default normalizes first (Xiong et al. 2020), so
    that a stack of blocks ends with one more LayerNormalization. RMS: Zhang and Sennrich 2019, section 4.
    """

    def __init__(self, model_dim, num_heads, hidden_dim, dropout=0.0, **kwargs):
        super().__init__(model_dim, num_heads, hidden_dim, dropout, **kwargs)
        self.attention_norm = self.make_norm(name="attention_norm")
        self.attention = self.make_attention(name="attention")
        self.feed_forward_norm = self.make_norm(name="feed_forward_norm")
        self.feed_forward = self.make_feed_forward(name="feed_forward")
        self.dropout = self.make_dropout()

    def build(self, source_shape):
        check_width("source", source_shape, self.model_dim)
        for layer in (self.attention_norm, self.attention, self.feed_forward_norm, self.feed_forward):
            layer.build(source_shape)

    def call(self, source, attention_mask=None, position_bias=None, training=None):
        attended, _ = self.attention(
            self.normalized(source, self.attention_norm),
            attention_mask=attention_mask,
            position_bias=position_bias,
            training=training,
        )
        return self.transform(self.added(source, attended, self.attention_norm, training), training)

    def attention_weights(self, source, attention_mask=None, position_bias=None):
        """The weights that a call with the same arguments uses: (B, H, S, S) float."""
        normalized = self.normalized(source, self.attention_norm)
        return self.attention(normalized, attention_mask=attention_mask, position_bias=position_bias)[1]

    def compute_output_shape(self, source_shape):
        return source_shape


def normalization(norm: str, **kwargs) -> keras.layers.Layer:
    """The layer called "layer" or "rms"; kwargs are those of Keras's normalization layers."""
    kinds = {"layer": keras.layers.LayerNormalization, "rms": keras.layers.RMSNormalization}
    if norm not in kinds:
        raise ValueError(f"norm must be 'layer' or 'rms'; received norm={norm!r}.")
    return kinds[norm](**kwargs)


@keras.saving.register_keras_serializable("companion")
def gelu_tanh(x):
    """GPT-2's approximation of GELU: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    return ops.gelu(x, approximate=True)


def activation_named(name: str):
    """The nonlinearity of this name: "gelu_tanh", or one of Keras's."""
    return gelu_tanh if name == "gelu_tanh" else keras.activations.get(name)
