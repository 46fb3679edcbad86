"""Pictures of what a model does: arrays and tokens in, labeled Matplotlib axes out."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from companion.drawing import (
    chinese_font,
    draw_cells,
    few_numbers,
    finite_numbers,
    font_families,
    inches,
    new_axes,
    place_of,
    shown,
)


def set_style() -> str | None:
    """Sets Matplotlib for the book: a color-blind-safe palette, and text that may be Chinese.

    Returns:
        The Chinese font in use; None when there is none, and Chinese shows as boxes.
    """
    seaborn.set_theme(context="notebook", style="ticks", palette="colorblind")
    font = chinese_font()
    families = ["DejaVu Sans", *([font] if font else [])]  # DejaVu first: it has the minus sign
    matplotlib.rcParams.update({"font.family": families, "figure.constrained_layout.use": True})
    return font


def attention_heatmap(
    weights: np.ndarray,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws how much each target token (row) attends to each source token (column).

    Args:
        weights: (T, S) floats in [0, 1].
        source_tokens: S strings, attended to.
        target_tokens: T strings, attending; None: the source tokens, as in self-attention.
        title: Above the axes.
        ax: Where to draw; None makes a figure.
    Returns:
        The axes. Colors run from 0 to 1, so that maps can be compared; small maps also show the numbers.
    Raises:
        ValueError: The shape does not fit the tokens, or a weight is outside [0, 1].
    """
    rows = source_tokens if target_tokens is None else target_tokens
    weights = _attention(weights, (len(rows), len(source_tokens)), "(len(target_tokens), len(source_tokens))")
    ax = ax or new_axes(
        0.5 * len(source_tokens) + inches(rows) + 2, 0.4 * len(rows) + inches(source_tokens) + 1
    )
    numbers = few_numbers(weights)
    draw_cells(ax, weights, source_tokens, rows, "attention weight", title or "Attention", numbers)
    ax.set(xlabel="source token", ylabel="target token")
    return ax


def head_grid(
    weights: np.ndarray,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str] | None = None,
    title: str | None = None,
    columns: int = 4,
    ax: Axes | None = None,
) -> Figure:
    """Draws one attention map for each head, side by side.

    Args:
        weights: (H, T, S) floats in [0, 1].
        source_tokens: S strings, attended to.
        target_tokens: T strings, attending; None: the source tokens, as in self-attention.
        title: Above the maps.
        columns: Maps in a row, at least 1.
        ax: Axes of `plt.subplots`, whose place the maps share; it is removed. None makes a figure.
    Returns:
        The figure, with H maps on one color scale from 0 to 1.
    Raises:
        ValueError: The shape does not fit the tokens, a weight is outside [0, 1], columns is below 1, or ax
            belongs to no grid.
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1; received {columns}.")
    rows = source_tokens if target_tokens is None else target_tokens
    shape = (len(weights), len(rows), len(source_tokens))
    weights = _attention(weights, shape, "(H, len(target_tokens), len(source_tokens))")
    columns = min(columns, len(weights))
    lines = math.ceil(len(weights) / columns)
    width = columns * (0.35 * len(source_tokens) + 0.3) + inches(rows) + 2
    height = lines * (0.35 * len(rows) + inches(source_tokens) + 0.8)
    size = np.clip((width, height), 3, 20)
    place = plt.figure(figsize=size, layout="constrained") if ax is None else place_of(ax)
    axes = place.subplots(lines, columns, squeeze=False)
    for i, one in enumerate(axes.flat):
        if i >= len(weights):
            one.set_axis_off()
        else:
            draw_cells(one, weights[i], source_tokens, rows, None, f"head {i + 1}")
            one.tick_params(labelleft=i % columns == 0)
    place.colorbar(axes[0, 0].collections[0], ax=axes, label="attention weight")
    place.supxlabel("source token")
    place.supylabel("target token")
    place.suptitle(title or "Attention by head", fontfamily=font_families())
    return place.figure


def positional_encoding_map(encoding: np.ndarray, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draws a position encoding: one row for each position, one column for each dimension.

    Args:
        encoding: (length, M) floats, sinusoidal or learned.
        title: Above the axes.
        ax: Where to draw; None makes a figure.
    Returns:
        The axes. Colors are symmetric about 0.
    Raises:
        ValueError: encoding is not two-dimensional or not finite.
    """
    encoding = finite_numbers("encoding", encoding, "(length, M)", 2)
    ax = ax or new_axes(7, 4)
    limit = np.abs(encoding).max() or 1
    image = ax.imshow(encoding, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="value")
    ax.set(xlabel="dimension", ylabel="position")
    ax.set_title(title or "Position encoding", fontfamily=font_families())
    return ax


def vector_map(
    vectors: np.ndarray,
    words: Sequence[str],
    groups: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws vectors as named points on the plane of their first two principal components.

    Args:
        vectors: (N, M) floats, N and M at least 2.
        words: N names.
        groups: N group names, one color and marker each; None: one color for all.
        title: Above the axes.
        ax: Where to draw; None makes a figure.
    Returns:
        The axes; its labels say which share of the variance each component holds.
    Raises:
        ValueError: vectors is not (N, M), or words or groups are not N.
    Source: Pearson 1901.
    """
    vectors = finite_numbers("vectors", vectors, "(N, M)", 2)
    for name, names in (("words", words), ("groups", words if groups is None else groups)):
        if len(names) != len(vectors):
            raise ValueError(f"{name} must name each of {len(vectors)} vectors; received {len(names)} names.")
    points, shares = _principal_components(vectors)
    ax = ax or new_axes(7, 5)
    style = {"hue": groups, "style": groups} if groups is not None else {}
    seaborn.scatterplot(x=points[:, 0], y=points[:, 1], ax=ax, **style)
    for word, point in zip(words, points, strict=True):
        text = {"fontfamily": font_families(), "parse_math": False, "fontsize": "small"}
        ax.annotate(shown(word), point, xytext=(4, 3), textcoords="offset points", **text)
    if groups is not None:
        legend = ax.legend(prop=font_manager.FontProperties(family=font_families(), size="small"))
        plt.setp(legend.get_texts(), parse_math=False)
    names = [f"principal component {i + 1} ({share:.0%} of variance)" for i, share in enumerate(shares)]
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.margins(0.12)  # room for the words
    ax.set_title(title or "Vectors", fontfamily=font_families())
    return ax


def training_curves(
    history: Mapping[str, Sequence[float]],
    metric: str = "loss",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws a metric by epoch, on training and, where measured, on validation data.

    Args:
        history: What `fit` returned, or a dictionary of lists such as {"loss": [...], "val_loss": [...]}.
        metric: The name to draw, without "val_".
        title: Above the axes.
        ax: Where to draw; None makes a figure.
    Returns:
        The axes.
    Raises:
        ValueError: history does not hold the metric.
    """
    values = getattr(history, "history", history)
    if not isinstance(values, Mapping) or metric not in values:
        found = sorted(values) if isinstance(values, Mapping) else type(values).__name__
        raise ValueError(f"metric must be in history; received metric={metric!r}, history of {found}.")
    ax = ax or new_axes(6, 4)
    for name, label, style in ((metric, "training", "-o"), (f"val_{metric}", "validation", "--s")):
        if name in values:
            ax.plot(range(1, len(values[name]) + 1), values[name], style, markersize=4, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel=metric.replace("_", " "))
    ax.set_title(title or "Training", fontfamily=font_families())
    ax.legend()
    return ax


def confusion_matrix(
    matrix: np.ndarray, labels: Sequence[str], title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draws how often each class (row) was predicted as each other (column).

    Args:
        matrix: (C, C) counts, as `evaluation.confusion_matrix` returns them.
        labels: C class names in the order of the matrix.
        title: Above the axes.
        ax: Where to draw; None makes a figure.
    Returns:
        The axes. Numbers are counts; color is the share of the row, from 0 to 1.
    Raises:
        ValueError: The shape does not fit the labels, or a count is negative.
    """
    matrix = finite_numbers("matrix", matrix, "(C, C)", 2)
    labels = [str(label) for label in labels]
    if matrix.shape != (len(labels), len(labels)):
        raise ValueError(f"matrix must have a row and a column for each label; received {matrix.shape}.")
    if matrix.min() < 0:
        raise ValueError(f"matrix must hold counts, at least 0; received {matrix.min():g}.")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.where(totals, totals, 1)  # a class that never occurs has an empty row
    ax = ax or new_axes(0.7 * len(labels) + inches(labels) + 2, 0.5 * len(labels) + inches(labels) + 1.2)
    counts = np.vectorize("{:.0f}".format)(matrix)
    draw_cells(ax, shares, labels, labels, "share of the row", title or "Confusion matrix", counts)
    ax.set(xlabel="predicted", ylabel="expected")
    return ax


def _attention(weights, shape, meaning):
    weights = finite_numbers("weights", weights, meaning, len(shape))
    if weights.shape != shape:
        raise ValueError(f"weights must have shape {meaning} = {shape}; received {weights.shape}.")
    if weights.min() < -1e-3 or weights.max() > 1 + 1e-3:
        raise ValueError(f"weights must be in [0, 1]; received {weights.min():g} to {weights.max():g}.")
    return weights


def _principal_components(vectors):
    if min(vectors.shape) < 2:
        raise ValueError(f"vectors must be at least 2 of width 2 or more; received shape {vectors.shape}.")
    left, strengths, axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    signs = np.sign(axes[range(2), np.abs(axes[:2]).argmax(axis=1)])  # no mirror images between machines
    shares = strengths[:2] ** 2 / max((strengths**2).sum(), 1e-30)
    return left[:, :2] * strengths[:2] * signs, shares
