"""Describing pictures: a small vision encoder in front of a decoder of words (article section 6.2)."""

from collections.abc import Iterator

import keras
import numpy as np
from keras import layers, ops

from companion.base import Layer, check_at_least, check_shares, takes_plain_numbers
from companion.decoder import DecoderBlock
from companion.embedding import TokenPositionEmbedding

CHANNELS = 3  # red, green, blue
STRIDE = 8  # three convolutions, each of which halves height and width


@keras.saving.register_keras_serializable("companion")
class ImageCells(Layer):
    """A picture as vectors of its cells, 8 × 8 pixels each, and what is learned about each cell's place.

    Two streams know different things. Outlines: three convolutions read how far each pixel is from the
    picture's mean color, not in which direction. Colors: the mean color of a cell, in which what is far from
    the picture's mean counts most, wherever in the cell it is. So, up to how strongly it stands out, a shape
    looks the same in all colors.

    Args:
        height, width: Pixels, multiples of 8.
        model_dim: Width M of a cell's vector; a multiple of 4.
        separate: Keep the streams apart; if False, the convolutions read the colors too, and are alone.
    Call arguments:
        pixels: (B, height * width * 3) int from 0 to 255, row by row, red, green and blue in turn: a source
            of bytes, so that `generate` takes it as it takes any other.
    Returns:
        (B, C, M) float, the C = height / 8 * width / 8 cells row by row; if separate, (B, 2 C, M): the cells'
        outlines, then their colors.
    Raises:
        ValueError: height or width is no multiple of 8, model_dim none of 4, or pixels have another length.
    Source: Xu et al. 2015, section 3.1.1: vectors from a lower layer than the last, so that each belongs to
    a part of the picture. Differs: trained from the start and small; theirs is a VGG network that was
    pre-trained on ImageNet, with neither place vectors nor streams.
    """

    def __init__(self, height, width, model_dim, separate=True, **kwargs):
        super().__init__(**kwargs)
        check_at_least(1, height=height, width=width, model_dim=model_dim)
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"height and width must be multiples of 8; received {height} and {width}.")
        if model_dim % 4:
            raise ValueError(f"model_dim must be a multiple of 4; received model_dim={model_dim}.")
        self.height, self.width, self.model_dim, self.separate = height, width, model_dim, separate
        self.vocabulary_size, self.max_length = 256, height * width * CHANNELS  # what `generate` checks
        self.cells = height // STRIDE * (width // STRIDE)
        sizes = [(model_dim // 4, 5), (model_dim // 2, 3), (model_dim, 3)]
        options = {"strides": 2, "padding": "same", "activation": "relu", "dtype": self.dtype_policy}
        self.convolutions = [
            layers.Conv2D(filters, size, name=f"convolution_{i}", **options)
            for i, (filters, size) in enumerate(sizes)
        ]
        self.color = layers.Dense(model_dim, dtype=self.dtype_policy, name="color") if separate else None
        self.norms = [
            layers.LayerNormalization(epsilon=1e-6, dtype=self.dtype_policy, name=f"norm_{i}")
            for i in range(1 + separate)
        ]

    def build(self, pixels_shape):
        shape = (None, self.height, self.width, 1 if self.separate else CHANNELS + 1)
        for convolution in self.convolutions:
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
        if self.separate:
            self.color.build((None, self.cells, CHANNELS))
        for norm in self.norms:
            norm.build((None, self.cells, self.model_dim))
        self.place_table = self.add_weight(
            name="place_table",
            shape=(len(self.norms) * self.cells, self.model_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, pixels):
        self._check_length(pixels)
        colors = ops.cast(pixels, self.compute_dtype) / 127.5 - 1
        colors = ops.reshape(colors, (-1, self.height, self.width, CHANNELS))
        contrast = (colors - ops.mean(colors, axis=(1, 2), keepdims=True)) ** 2
        contrast = ops.mean(contrast, axis=-1, keepdims=True)
        x = ops.sqrt(contrast)
        if not self.separate:
            x = ops.concatenate([colors, x], axis=-1)
        for convolution in self.convolutions:
            x = convolution(x)
        streams = [ops.reshape(x, (-1, self.cells, self.model_dim))]
        if self.separate:
            weight = contrast + 1e-4  # an even cell has a mean too
            streams.append(self.color(self._in_cells(colors * weight) / self._in_cells(weight)))
        streams = [norm(stream) for norm, stream in zip(self.norms, streams, strict=True)]
        return ops.concatenate(streams, axis=1) + self.place_table

    def _in_cells(self, x):
        """(B, height, width, C) to the mean of each cell's pixels: (B, cells, C)."""
        x = ops.reshape(x, (-1, self.height // STRIDE, STRIDE, self.width // STRIDE, STRIDE, x.shape[-1]))
        return ops.reshape(ops.mean(x, axis=(2, 4)), (-1, self.cells, x.shape[-1]))

    def _check_length(self, pixels):
        if pixels.shape[1] not in (None, self.max_length):
            raise ValueError(
                f"pixels must have {self.height} * {self.width} * 3 = {self.max_length} numbers in a row; "
                f"received shape {tuple(pixels.shape)}."
            )

    def compute_output_spec(self, pixels):
        self._check_length(pixels)
        shape = pixels.shape[0], len(self.norms) * self.cells, self.model_dim
        return keras.KerasTensor(shape, self.compute_dtype)


@takes_plain_numbers
def captioner(
    vocabulary_size: int,
    max_length: int,
    height: int = 48,
    width: int = 48,
    model_dim: int = 64,
    num_heads: int = 4,
    hidden_dim: int = 128,
    num_layers: int = 2,
    separate: bool = True,
) -> keras.Model:
    """An encoder-decoder whose source is a picture: scores the next word of its caption.

    Args:
        vocabulary_size: Number of token ids V.
        max_length: Longest caption, begin included.
        height, width: Of the picture, see `ImageCells`.
        model_dim: Width M.
        num_heads, hidden_dim: see `DecoderBlock`.
        num_layers: Decoder blocks, >= 1.
        separate: Keep outlines and colors apart, see `ImageCells`.
    Returns:
        Model from {"pixels": (B, height * width * 3) int, "tokens": (B, T) int} to logits (B, T, V) float32.
        `generate` writes captions for it; give it a list of rows, `list(pixels)`, for in an array it takes
        the zeros at the end of a row for padding, not for black.
    Raises:
        ValueError: num_layers below 1, or as `ImageCells` and `DecoderBlock`.
    Source: Vinyals et al. 2015, section 3: a vision encoder, then a decoder trained to say the caption; Xu
    et al. 2015, section 3.1: the decoder attends to cells. Differs: a Transformer decoder, theirs is an LSTM.
    """
    check_at_least(1, num_layers=num_layers)
    pixels = keras.Input((height * width * CHANNELS,), dtype="int32", name="pixels")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    cells = ImageCells(height, width, model_dim, separate, name="image_cells")(pixels)
    x = TokenPositionEmbedding(vocabulary_size, max_length, model_dim, name="embedding")(tokens)
    for i in range(num_layers):
        x = DecoderBlock(model_dim, num_heads, hidden_dim, name=f"decoder_{i}")(x, cells)
    x = layers.LayerNormalization(epsilon=1e-6, name="decoder_norm")(x)
    logits = layers.Dense(vocabulary_size, name="logits", dtype="float32")(x)
    return keras.Model([pixels, tokens], logits, name="captioner")


def caption_batches(
    pixels: np.ndarray,
    captions: np.ndarray,
    batch_size: int,
    num_steps: int,
    word_dropout: float = 0.0,
    padding_id: int = 0,
    unknown_id: int = 1,
    seed: int = 0,
) -> Iterator[tuple]:
    """Batches to train a captioner on.

    A decoder that reads all earlier words learns which word follows which; one that misses some of them has
    to look at the picture.

    Args:
        pixels: (N, P) uint8.
        captions: (N, T + 1) int with begin and end, padded on the right.
        batch_size: Pictures of a batch B, from 1 to N.
        num_steps: Batches; every pass over the pictures has an order of its own.
        word_dropout: Share of the words read that become unknown_id, 0 <= word_dropout < 1.
        padding_id, unknown_id: Ids.
        seed: Another seed gives other orders and other unknown words.
    Returns:
        Iterator of ({"pixels": (B, P) int32, "tokens": (B, T) int32}, labels (B, T) int, weights (B, T)
        float32, 0 at padding).
    Raises:
        ValueError: a number is out of its range, or pixels and captions differ in number.
    Source: word dropout: Bowman et al. 2016, section 3.1.
    """
    check_shares(word_dropout=word_dropout)
    check_at_least(1, batch_size=batch_size, num_steps=num_steps)
    if not batch_size <= len(pixels) == len(captions):
        raise ValueError(
            f"pixels and captions must be equally many, at least batch_size={batch_size}; "
            f"received {len(pixels)} and {len(captions)}."
        )

    def batch(chosen, random):
        tokens, labels = captions[chosen, :-1], captions[chosen, 1:]
        hidden = (random.random(tokens.shape) < word_dropout) & (tokens != padding_id)
        tokens = np.where(hidden, unknown_id, tokens)
        inputs = {"pixels": pixels[chosen].astype("int32"), "tokens": tokens.astype("int32")}
        return inputs, labels, (labels != padding_id).astype("float32")

    return _batches(batch, len(pixels), batch_size, num_steps, seed)


def _batches(batch, count, batch_size, num_steps, seed):
    random, order = np.random.default_rng(seed), np.zeros(0, int)
    for _ in range(num_steps):
        if len(order) < batch_size:
            order = np.concatenate([order, random.permutation(count)])
        yield batch(order[:batch_size], random)
        order = order[batch_size:]
