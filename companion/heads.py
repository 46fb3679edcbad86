"""Heads that a pretrained model is fine-tuned with (article section 3.2, step 4).

Each takes a functional model that reads `tokens` and returns another one that shares its layers and weights.
Text-to-text needs no head: "translate: …" is T5's source and the answer its target, in batches of
`companion.data.sequence_batches`.
"""

import keras
import numpy as np
from keras import layers, ops

from companion.attention import padding_mask
from companion.base import check_at_least, check_shares
from companion.classifiers import class_probabilities, mean_of_real
from companion.decoder import DecoderBlock
from companion.encoder import EncoderBlock
from companion.pretraining import vocabulary_head


def classifier(
    model: keras.Model, num_classes: int, dropout: float = 0.1, padding_id: int | None = None
) -> keras.Model:
    """The model with a head that gives one probability per class.

    The head reads the pooled vector if the model makes one (`bert`). Of a model that predicts the next token
    (`gpt`, `lstm_language_model`) it reads the last real token's vector, which alone has seen the whole text;
    of any other the mean over the real tokens.

    Args:
        model: Reads `tokens`; the head's model shares its layers and weights.
        num_classes: Number of classes C, >= 2.
        dropout: Fraction dropped before the last layer in training.
        padding_id: Fills short texts, on the right; the id that the model masks if not given.
    Returns:
        Model from the same inputs to probabilities (B, C) float32; the head's layer is `probabilities`.
    Raises:
        ValueError: The model has no vector for each of its tokens, or masks no padding and padding_id is not
            given; num_classes below 2; dropout outside [0, 1).
    Source: Devlin et al. 2019, section 4.1; Radford et al. 2018, section 3.2.
    """
    check_at_least(2, num_classes=num_classes)
    check_shares(dropout=dropout)
    hidden, mask = _hidden(model), _real_tokens(model, padding_id)
    pooled = [output for output in model.outputs if len(output.shape) == 2]
    if vocabulary_head(model, 0) is not None:
        mask = _last(mask)
    x = pooled[0] if pooled else mean_of_real(hidden, mask)
    outputs = class_probabilities(x, num_classes, dropout)
    return keras.Model(model.input, outputs, name=f"{model.name}_classifier")


def tagger(model: keras.Model, num_tags: int, dropout: float = 0.1) -> keras.Model:
    """The model with a head that gives each token one probability per tag.

    Args:
        model: Reads `tokens`; the head's model shares its layers and weights.
        num_tags: Number of tags C, >= 2.
        dropout: Fraction dropped before the last layer in training.
    Returns:
        Model from the same inputs to probabilities (B, T, C) float32. Padding gets some too: give it sample
        weight 0.
    Raises:
        ValueError: The model has no vector for each of its tokens; num_tags below 2; dropout outside [0, 1).
    Source: Devlin et al. 2019, section 5.3.
    """
    check_at_least(2, num_tags=num_tags)
    check_shares(dropout=dropout)
    outputs = class_probabilities(_hidden(model), num_tags, dropout)
    return keras.Model(model.input, outputs, name=f"{model.name}_tagger")


def span_finder(model: keras.Model, padding_id: int | None = None) -> keras.Model:
    """The model with a head that says where an answer starts and where it ends.

    Args:
        model: Reads `tokens`; the head's model shares its layers and weights.
        padding_id: Fills short texts; the id that the model masks if not given.
    Returns:
        Model from the same inputs to start and end: (B, T) float32 each, probabilities over the real tokens,
        0 on padding; a text of padding alone gets equal ones. The labels are the two positions; `best_span`
        reads the answers.
    Raises:
        ValueError: The model has no vector for each of its tokens, or masks no padding and padding_id is not
            given.
    Source: Devlin et al. 2019, section 4.2.
    """
    real = ops.transpose(_real_tokens(model, padding_id), (0, 2, 1))  # (B, T, 1)
    # a bias would cancel out in the softmax
    scores = layers.Dense(2, use_bias=False, name="span", dtype="float32")(_hidden(model))
    scores = ops.where(real, scores, -1e9)
    start = layers.Softmax(dtype="float32", name="start")(scores[..., 0])
    end = layers.Softmax(dtype="float32", name="end")(scores[..., 1])
    return keras.Model(model.input, (start, end), name=f"{model.name}_span_finder")


def best_span(start: np.ndarray, end: np.ndarray, max_length: int | None = None) -> np.ndarray:
    """The most probable answers that do not end before they start.

    Args:
        start, end: (B, T) float, from `span_finder`; multiply start by 0 where no answer may be.
        max_length: Most tokens of an answer, >= 1; None: any number.
    Returns:
        (B, 2) int: first and last position of each; of equally probable ones the first.
    Raises:
        ValueError: start and end differ in shape or are no batch, or max_length is below 1.
    Source: Devlin et al. 2019, section 4.2.
    """
    start, end = np.asarray(start, "float64"), np.asarray(end, "float64")  # products of small numbers
    if start.ndim != 2 or start.shape != end.shape:
        raise ValueError(f"start and end must be (B, T); received {start.shape} and {end.shape}.")
    check_at_least(1, max_length=1 if max_length is None else max_length)
    length = start.shape[1]
    allowed = np.triu(np.ones((length, length), bool))  # [start, end]
    if max_length is not None:
        allowed &= ~np.triu(allowed, max_length)
    scores = np.where(allowed, start[:, :, None] * end[:, None, :], -1)
    return np.stack(np.divmod(scores.reshape(len(scores), -1).argmax(axis=1), length), axis=1)


def _hidden(model):
    """A vector for each token: (B, T, M), of a model that scores tokens what it scores them by."""
    _, hidden = vocabulary_head(model, 0) or (None, model.outputs[0])
    if "tokens" not in [x.name for x in model.inputs] or len(hidden.shape) != 3:
        raise ValueError(
            "model must read tokens and have a vector for each of them, as bert and gpt; received "
            f"{model.name!r}, which reads {', '.join(x.name for x in model.inputs)}."
        )
    return hidden


def _real_tokens(model, padding_id):
    """(B, 1, T) bool: the mask of the model's blocks, or that of the id."""
    if padding_id is not None:
        return padding_mask(next(x for x in model.inputs if x.name == "tokens"), padding_id)
    for layer in model.layers:
        if isinstance(layer, EncoderBlock | DecoderBlock):
            mask = layer._inbound_nodes[0].arguments.kwargs.get("attention_mask")
            if mask is not None:
                return mask
    raise ValueError(f"padding_id must be given with {model.name!r}, which masks no padding.")


def _last(mask):
    """The last of the real tokens alone: (B, 1, T) bool to the same."""
    count = ops.cumsum(ops.cast(mask, "int32"), axis=-1)
    return ops.logical_and(mask, ops.equal(count, ops.max(count, axis=-1, keepdims=True)))
