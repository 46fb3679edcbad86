"""Which tokens a classifier's answer rests on (article section 8.3).

Int tokens in, one float per token out, 0 at padding: (B, T). The model is one of ours that gives a number per
class: `transformer_classifier`, `lstm_classifier`, `classifier(bert(...), ...)`. `attribution_map` of
`token_maps` draws several methods side by side.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from companion.base import check_at_least
from companion.embedding import TokenPositionEmbedding
from companion.inspection import attention_weights

ROWS = 256  # texts at a time on the way from the baseline
READERS = ("mean", "first", "last")


def occlusion(
    model: keras.Model,
    inputs,
    target: int | Sequence[int] | None = None,
    replacement_id: int = 0,
    padding_id: int = 0,
) -> np.ndarray:
    """How far the class's number falls when a token is replaced: one token at a time, nothing else changed.

    Args:
        model: Reads `tokens` and returns (B, C) float, such as probabilities.
        inputs: (B, T) int tokens, or a dictionary of what the model takes.
        target: The class explained, one for all or one for each text; None: the one with the largest number.
        replacement_id: Put in a token's place. Padding takes the token out, and leaves the others in theirs;
            the id of unknown words leaves a word there.
        padding_id: Fills short texts.
    Returns:
        (B, T) float32: above 0 where the token speaks for the class.
    Raises:
        ValueError: No `tokens`, another shape, or a class that the model does not have.
    Source: Zeiler and Fergus 2014, section 4.2 (gray squares in images); Li, Monroe and Jurafsky 2016.
    """
    values, tokens = _read(model, inputs)
    whole = _predict(model, values)
    classes = _classes(whole, target)
    whole = np.take_along_axis(whole, classes[:, None], 1)[:, 0]
    scores = np.zeros(tokens.shape, np.float32)
    for place in range(tokens.shape[1]):
        without = tokens.copy()
        without[:, place] = replacement_id
        answers = _predict(model, values | {"tokens": without})
        scores[:, place] = whole - np.take_along_axis(answers, classes[:, None], 1)[:, 0]
    return scores * (tokens != padding_id)


def gradient_times_input(
    model: keras.Model, inputs, target: int | Sequence[int] | None = None, padding_id: int = 0
) -> np.ndarray:
    """The gradient of the class's number at each token's vector, times the vector: one step of calculus.

    Exact where the model is linear in its vectors; elsewhere it tells of infinitely small changes only.

    Args:
        model, inputs, target, padding_id: As `occlusion`.
    Returns:
        (B, T) float32.
    Raises:
        ValueError: As `occlusion`, or the model does not look its tokens up in one table.
        RuntimeError: The backend is neither TensorFlow nor JAX.
    Source: Shrikumar et al. 2016, section 2; of word vectors: Li et al. 2016, section 5.
    """
    return _path_gradients(model, inputs, target, None, padding_id, [1.0], [1.0])


def integrated_gradients(
    model: keras.Model,
    inputs,
    target: int | Sequence[int] | None = None,
    baseline_id: int | None = None,
    steps: int = 64,
    padding_id: int = 0,
) -> np.ndarray:
    """The gradient averaged on the straight way from a text that says nothing, times the way.

    Complete: a text's scores sum to the class's number for the text minus that for the baseline.

    Args:
        model, inputs, target, padding_id: As `occlusion`.
        baseline_id: The baseline holds this token's vector in each place, that of unknown words for example;
            None: zeros, as in the paper. Padding keeps its vectors and so gets nothing.
        steps: Points on the way, >= 1. The sum says whether they are enough.
    Returns:
        (B, T) float32.
    Raises:
        ValueError: As `gradient_times_input`, or steps below 1.
        RuntimeError: The backend is neither TensorFlow nor JAX.
    Source: Sundararajan et al. 2017, sections 3 and 5. Differs: Gauss's points instead of equal steps. Beside
    zeros `transformer_classifier` turns so sharply, for it normalizes first, that the sum stays short: give a
    baseline_id there.
    """
    check_at_least(1, steps=steps)
    points, shares = np.polynomial.legendre.leggauss(steps)
    points, shares = (points + 1) / 2, shares / 2  # of [0, 1]
    return _path_gradients(model, inputs, target, baseline_id, padding_id, points, shares)


def rollout(weights: Sequence[np.ndarray]) -> np.ndarray:
    """How much of each place's last vector goes back to each token, if attention alone moved things.

    Args:
        weights: One (B, H, T, T) float for each block, from the first to the last; rows sum to 1.
    Returns:
        (B, T, T) float64: rows sum to 1; row: the place, column: the token.
    Raises:
        ValueError: No block, or shapes that differ or are not such.
    Source: Abnar and Zuidema 2020, section 3: heads averaged, half of each row kept for the residual sum.
    """
    weights = [np.asarray(one, np.float64) for one in weights]
    shapes = [one.shape for one in weights]
    if len(set(shapes)) != 1 or len(shapes[0]) != 4 or shapes[0][2] != shapes[0][3]:
        raise ValueError(f"weights must be arrays of one shape (B, H, T, T); received shapes {shapes}.")
    flow = np.eye(shapes[0][-1])
    for one in weights:
        flow = (one.mean(axis=1) + np.eye(shapes[0][-1])) / 2 @ flow
    return flow


def attention_rollout(model: keras.Model, inputs, reader: str = "mean", padding_id: int = 0) -> np.ndarray:
    """The rollout of the model's own attention, seen from where its head reads. It knows no classes.

    Args:
        model: Holds `EncoderBlock`s, or `DecoderBlock`s without a source.
        inputs, padding_id: As `occlusion`.
        reader: What the head reads: "mean" of the real tokens (`transformer_classifier`), "first" token
            (`classifier(bert(...), ...)`), or "last" real token (`classifier(gpt(...), ...)`).
    Returns:
        (B, T) float32, at least 0; rows sum to 1.
    Raises:
        ValueError: reader is unknown, a text has no token, or as `attention_weights` and `occlusion`.
    Source: as `rollout`.
    """
    if reader not in READERS:
        raise ValueError(f"reader must be one of {READERS}; received reader={reader!r}.")
    values, tokens = _read(model, inputs)
    real = tokens != padding_id
    if not real.any(axis=1).all():
        raise ValueError(
            f"each text must hold a token; received padding alone in row {real.any(1).argmin()}."
        )
    blocks = attention_weights(model, [values[x.name] for x in model.inputs]).values()
    if any(isinstance(one, tuple | list) and one[1] is not None for one in blocks):
        raise ValueError(f"model must hold blocks that read one text; received {model.name!r} with a source.")
    flow = rollout([one[0] if isinstance(one, tuple | list) else one for one in blocks])
    places = np.arange(tokens.shape[1])
    ends = {"first": 0, "last": np.where(real, places, 0).max(axis=1)[:, None]}
    reads = real if reader == "mean" else real & (places == ends[reader])  # (B, T)
    scores = np.einsum("bt,bts->bs", reads / np.maximum(reads.sum(axis=1, keepdims=True), 1), flow)
    return (scores * real).astype(np.float32)


def _path_gradients(model, inputs, target, baseline_id, padding_id, points, shares):
    values, tokens = _read(model, inputs)
    classes = _classes(_predict(model, values), target)
    vectors = _token_vectors(model)
    source = model.inputs if len(model.inputs) > 1 else model.inputs[0]
    embed, rest = keras.Model(source, vectors), keras.Model([*model.inputs, vectors], model.outputs[0])
    end, real = _predict(embed, values), (tokens != padding_id)[..., None]
    start = (
        0.0
        if baseline_id is None
        else _predict(embed, values | {"tokens": np.full_like(tokens, baseline_id)})
    )
    way = (end - start) * real
    total, together = 0.0, max(1, ROWS // len(tokens))
    for first in range(0, len(points), together):
        some = np.asarray(points[first : first + together], np.float32)
        vectors = end - (1 - some)[:, None, None, None] * way  # (P, B, T, M)
        repeated = {name: np.tile(value, (len(some), 1)) for name, value in values.items()}
        flat = vectors.reshape(-1, *end.shape[1:])
        gradients = _gradient(rest, model, repeated, flat, np.tile(classes, len(some)))
        total += np.einsum("p,pbtm->btm", shares[first : first + together], gradients.reshape(vectors.shape))
    return (total * way).sum(axis=-1).astype(np.float32)


def _gradient(rest, model, values, vectors, classes):
    """The gradient of the classes' numbers, summed over the texts, at the vectors: (B, T, M)."""
    others = [ops.convert_to_tensor(values[x.name]) for x in model.inputs]
    chosen = np.eye(model.outputs[0].shape[-1], dtype="float32")[classes]

    def number(vectors):
        return ops.sum(ops.cast(rest([*others, vectors], training=False), "float32") * chosen)

    vectors = ops.convert_to_tensor(vectors)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        with tensorflow.GradientTape() as tape:
            tape.watch(vectors)
            result = number(vectors)
        return tape.gradient(result, vectors).numpy()
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(number)(vectors))
    raise RuntimeError(f"gradients need the backend tensorflow or jax; received {keras.backend.backend()!r}.")


def _token_vectors(model):
    """The tensor of the graph that holds the tokens' vectors: (B, T, M)."""
    tokens = next(x for x in model.inputs if x.name == "tokens")
    for layer in model.layers:
        if isinstance(layer, TokenPositionEmbedding | keras.layers.Embedding):
            for node in layer._inbound_nodes:
                if node.input_tensors[0] is tokens:
                    return node.outputs[0]
    raise ValueError(f"model must look its tokens up in a table; received {model.name!r}, which does not.")


def _read(model, inputs):
    """What the model takes, by name, and the tokens: (B, T) int."""
    names = [x.name for x in model.inputs]
    values = inputs if isinstance(inputs, dict) else {"tokens": inputs}
    if "tokens" not in names or set(values) != set(names) or len(model.outputs[0].shape) != 2:
        wants = f"{names} to {model.outputs[0].shape}"
        raise ValueError(
            f"model must read tokens, inputs hold what it reads, and a number per class come out; "
            f"received {model.name!r} from {wants}, and inputs {sorted(values)}."
        )
    values = {name: np.asarray(value) for name, value in values.items()}
    tokens = values["tokens"]
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or not tokens.size:
        raise ValueError(f"tokens must be (B, T) int; received {tokens.shape} {tokens.dtype}.")
    return values, tokens


def _predict(model, values):
    arguments = [values[x.name] for x in model.inputs]
    return ops.convert_to_numpy(model(arguments if len(arguments) > 1 else arguments[0], training=False))


def _classes(answers, target):
    """The class explained of each text: (B,) int."""
    count, number = answers.shape
    classes = answers.argmax(axis=1) if target is None else np.asarray(target)
    classes = np.broadcast_to(classes, (count,)) if classes.ndim == 0 else classes
    if (
        classes.shape != (count,)
        or classes.dtype.kind not in "iu"
        or not 0 <= classes.min() <= classes.max() < number
    ):
        raise ValueError(
            f"target must be a class below {number}, or {count} of them; received target={target}."
        )
    return classes
