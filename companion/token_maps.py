"""Maps with a column for each token: what an answer rests on, how it comes about (article section 8.3)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from companion.drawing import (
    LETTER,
    MAX_WRITTEN_CELLS,
    draw_cells,
    finite_numbers,
    inches,
    new_axes,
    points_of_a_cell,
    shown,
)


def attribution_map(
    scores: Mapping[str, np.ndarray],
    tokens: Sequence[str],
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws what several methods of attribution say about the tokens of one text, one row for each method.

    Args:
        scores: {method: (T,) floats}, such as a row of what `occlusion`, `integrated_gradients`,
            `gradient_times_input` and `attention_rollout` return.
        tokens: T strings.
        title: Above the axes.
        ax: Where to draw; None makes a figure.
    Returns:
        The axes. Methods measure in different units: color is the share of the row's largest score, from -1
        (orange: speaks against the class) to 1 (purple: speaks for it); small maps show the scores too.
    Raises:
        ValueError: No method, or scores that are not (T,) finite numbers.
    """
    if not isinstance(scores, Mapping) or not scores:
        raise ValueError(
            f"scores must be {{method: (T,) numbers}}; received {type(scores).__name__} {scores}."
        )
    rows = [finite_numbers(f"scores[{name!r}]", row, "(T,)", 1) for name, row in scores.items()]
    for name, row in zip(scores, rows, strict=True):
        if len(row) != len(tokens):
            raise ValueError(
                f"scores[{name!r}] must hold one for each of {len(tokens)} tokens; received {len(row)}."
            )
    largest = np.array([np.abs(row).max() for row in rows])
    shares = np.stack(rows) / np.where(largest, largest, 1)[:, None]
    written = None
    if shares.size <= MAX_WRITTEN_CELLS:
        formats = map(_format, largest)
        written = np.array([[format(x, one) for x in row] for row, one in zip(rows, formats, strict=True)])
    ax = ax or new_axes(0.6 * len(tokens) + inches(scores) + 2, 0.45 * len(rows) + inches(tokens) + 1.2)
    scale = {"vmin": -1, "vmax": 1, "cmap": "PuOr"}
    draw_cells(
        ax, shares, tokens, [*scores], "share of the largest", title or "Attribution", written, **scale
    )
    ax.set(xlabel="token", ylabel="method")
    return ax


def logit_lens_map(
    probabilities: np.ndarray,
    tokens: Sequence[str],
    vocabulary: Sequence[str],
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws what a model would answer after each block: the most probable token, and how probable it is.

    Args:
        probabilities: (layers, T, V) floats, one text of `logit_lens`.
        tokens: T strings, those read.
        vocabulary: V strings, such as `tokenizer.tokens(range(tokenizer.vocabulary_size))`.
        title: Above the axes.
        ax: Where to draw; None makes a figure.
    Returns:
        The axes, the last block on top, colors from 0 to 1. Cells too narrow for letters show colors only.
    Raises:
        ValueError: The shape does not fit the tokens and the vocabulary, or a number is outside [0, 1].
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens" (blog post). Differs: color is the
    probability, his the score or the rank.
    """
    probabilities = finite_numbers("probabilities", probabilities, "(layers, T, V)", 3)
    layers, *shape = probabilities.shape
    if shape != [len(tokens), len(vocabulary)]:
        wanted = f"(layers, len(tokens), len(vocabulary)) = (layers, {len(tokens)}, {len(vocabulary)})"
        raise ValueError(f"probabilities must have shape {wanted}; received {probabilities.shape}.")
    if probabilities.min() < -1e-3 or probabilities.max() > 1 + 1e-3:
        low, high = probabilities.min(), probabilities.max()
        raise ValueError(f"probabilities must be in [0, 1]; received {low:g} to {high:g}.")
    upwards = probabilities[::-1]
    ax = ax or new_axes(0.8 * len(tokens) + 2.5, 0.4 * layers + inches(tokens) + 1.2)
    written = _fitting(vocabulary, upwards.argmax(axis=-1), points_of_a_cell(ax, len(tokens), layers)[0])
    names = [str(layers - i) for i in range(layers)]
    draw_cells(ax, upwards.max(axis=-1), tokens, names, "probability", title or "Logit lens", written)
    ax.set(xlabel="token read", ylabel="after block")
    return ax


def _fitting(vocabulary, ids, room):
    """The tokens of the ids, cut to cells of so many points; None if nothing can be read there."""
    size = np.clip(room / LETTER / 6, 5, 9)  # rather small than fewer than 6 letters
    most = int(room / LETTER / size)
    return np.array([[shown(vocabulary[i], most) for i in row] for row in ids]) if most >= 3 else None


def _format(largest):
    """Two digits of a row's largest score, two places behind the point or more."""
    if 0 < largest < 1e-3:
        return ".0e"
    return f"z.{max(2, 1 - math.floor(math.log10(largest or 1)))}f"  # z: no minus before 0.00
