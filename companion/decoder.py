"""The Transformer decoder block and its cache (article section 3)."""

import keras
from keras import ops

from companion.attention import causal_mask
from companion.base import check_width, plain
from companion.encoder import Block


@keras.saving.register_keras_serializable("companion")
class DecoderBlock(Block):
    """Causal self-attention, attention to the source, then a feed-forward network, each added to its input.

    `step` computes the same for a few new positions at a time, reading the earlier ones from a cache.

    Args:
        model_dim: Width M; divisible by num_heads, unless head_dim is given.
        num_heads: Attention heads H.
        hidden_dim: Inner width of the feed-forward network.
        dropout: Fraction dropped of the attention weights and of each sum's new term, 0 <= dropout < 1.
        cross_attention: False leaves out the attention to the source: a decoder-only block, as in GPT.
        norm_first, norm, epsilon, activation, gated, use_bias, head_dim, scaled: see `EncoderBlock`.
    Call arguments:
        target: (B, T, M) float.
        source: (B, S, M) float, the encoder's output; needed if and only if cross_attention.
        attention_mask: bool, broadcastable to (B, T, T): further limits to the self-attention, which is
            always causal; True = may attend. A position attends to itself whatever the mask says, so that
            a target that begins with padding does not look into its future.
        source_mask: bool, broadcastable to (B, T, S), e.g. (B, 1, S) from `padding_mask`; True = may attend.
        position_bias: float, broadcastable to (B, H, T, T), for the self-attention, e.g. from
            `RelativePositionBias`.
    Returns:
        (B, T, M) float.
    Raises:
        ValueError: num_heads does not divide model_dim; dropout is outside [0, 1); target has another width;
            source missing, or given to a decoder-only block; else as `EncoderBlock`.
    Source: Vaswani et al. 2017, section 3.1. Differs: by default normalizes first (Xiong et al. 2020), so
    that a stack of blocks ends with one more LayerNormalization. Decoder-only: Radford et al. 2018,
    section 3.1.
    """

    def __init__(self, model_dim, num_heads, hidden_dim, dropout=0.0, cross_attention=True, **kwargs):
        super().__init__(model_dim, num_heads, hidden_dim, dropout, **kwargs)
        self.cross_attention = cross_attention
        self.self_attention_norm = self.make_norm(name="self_attention_norm")
        self.self_attention = self.make_attention(name="self_attention")
        if cross_attention:
            self.source_attention_norm = self.make_norm(name="source_attention_norm")
            self.source_attention = self.make_attention(name="source_attention")
        self.feed_forward_norm = self.make_norm(name="feed_forward_norm")
        self.feed_forward = self.make_feed_forward(name="feed_forward")
        self.dropout = self.make_dropout()

    def build(self, target_shape, source_shape=None):
        check_width("target", target_shape, self.model_dim)
        self._check_source(source_shape)
        layers = [self.self_attention_norm, self.self_attention, self.feed_forward_norm, self.feed_forward]
        for layer in layers:
            layer.build(target_shape)
        if self.cross_attention:
            self.source_attention_norm.build(target_shape)
            self.source_attention.build(target_shape, source_shape)

    def call(
        self, target, source=None, attention_mask=None, source_mask=None, position_bias=None, training=None
    ):
        target, _ = self._attend_to_target(target, attention_mask, position_bias, training)
        target, _ = self._attend_to_source(target, self.project_source(source), source_mask, training)
        return self.transform(target, training)

    def attention_weights(
        self, target, source=None, attention_mask=None, source_mask=None, position_bias=None
    ):
        """The weights that a call with the same arguments uses.

        Returns:
            self_weights: (B, H, T, T) float.
            source_weights: (B, H, T, S) float; None if decoder-only.
        """
        target = ops.convert_to_tensor(target)
        target, self_weights = self._attend_to_target(target, attention_mask, position_bias)
        _, source_weights = self._attend_to_source(target, self.project_source(source), source_mask)
        return self_weights, source_weights

    def project_source(self, source):
        """Keys and values of the source, (B, H, S, D) each, the same for every step; None if decoder-only."""
        self._check_source(source)
        return self.source_attention.project(source) if self.cross_attention else None

    def start_cache(self, batch_size, length):
        """An empty cache with room for `length` positions: keys and values, (B, H, length, D) zeros each."""
        shape = (batch_size, self.self_attention.num_heads, length, self.self_attention.head_dim)
        return ops.zeros(shape, self.compute_dtype), ops.zeros(shape, self.compute_dtype)

    def step(
        self,
        target,
        cache,
        position,
        source_pair=None,
        source_mask=None,
        position_bias=None,
        attention_mask=None,
    ):
        """A call for new positions only.

        Args:
            target: (B, N, M) float, the N new positions.
            cache: Keys and values from `start_cache` or an earlier step.
            position: Index of the first new position, int or scalar int tensor; position + N must not exceed
                the cache's length.
            source_pair: What `project_source` returned.
            source_mask: bool, broadcastable to (B, N, S).
            position_bias: float, broadcastable to (B, H, N, L), L being the cache's length, e.g. from
                `RelativePositionBias.rows`.
            attention_mask: bool, broadcastable to (B, N, L): which positions of the cache may be attended,
                of those up to the new one; itself it always may. None: all of them.
        Returns:
            (B, N, M) float, and the cache with the new positions written into it.
        Raises:
            ValueError: position is an int, and the new positions reach past the cache.
        """
        target = ops.convert_to_tensor(target)
        _check_room(cache, position, target)
        normalized = self.normalized(target, self.self_attention_norm)
        cache = tuple(
            ops.slice_update(old, (0, 0, position, 0), new)
            for old, new in zip(cache, self.self_attention.project(normalized), strict=True)
        )
        rows, columns = position + ops.arange(target.shape[1])[:, None], ops.arange(cache[0].shape[2])
        mask = columns <= rows
        if attention_mask is not None:
            mask = ops.logical_and(mask, ops.logical_or(attention_mask, columns == rows))
        attended, _ = self.self_attention.attend(normalized, *cache, mask, position_bias)
        target = self.added(target, attended, self.self_attention_norm)
        target, _ = self._attend_to_source(target, source_pair, source_mask)
        return self.transform(target), cache

    def _check_source(self, source):
        if (source is not None) != self.cross_attention:
            need = "given to" if self.cross_attention else "left out of"
            raise ValueError(f"source must be {need} a block with cross_attention={self.cross_attention}.")

    def _attend_to_target(self, target, attention_mask, position_bias, training=None):
        mask = causal_mask(ops.shape(target)[1])
        if attention_mask is not None:
            # a row without anything allowed would be uniform, and see the future
            positions = ops.arange(ops.shape(target)[1])
            itself = positions[:, None] == positions[None, :]
            mask = ops.logical_and(mask, ops.logical_or(attention_mask, itself))
        attended, weights = self.self_attention(
            self.normalized(target, self.self_attention_norm),
            attention_mask=mask,
            position_bias=position_bias,
            training=training,
        )
        return self.added(target, attended, self.self_attention_norm, training), weights

    def _attend_to_source(self, target, source_pair, source_mask, training=None):
        if not self.cross_attention:
            return target, None
        attended, weights = self.source_attention.attend(
            self.normalized(target, self.source_attention_norm), *source_pair, source_mask, training=training
        )
        return self.added(target, attended, self.source_attention_norm, training), weights

    def compute_output_shape(self, target_shape, source_shape=None):
        return target_shape


def _check_room(cache, position, target):
    length, count, position = cache[0].shape[2], target.shape[1], plain(position)
    if isinstance(position, int) and not 0 <= position <= length - count:
        raise ValueError(
            f"position must leave room for {count} more in a cache of {length}; received position={position}."
        )
