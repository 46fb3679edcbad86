"""What the pictures share: fonts that have Chinese, maps of named cells, axes, checks."""

import unicodedata
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

CHINESE_FONTS = (
    *("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Droid Sans Fallback"),
)
MAX_WRITTEN_CELLS = 64  # a map with more cells shows colors only
LETTER = 0.6  # width of a Latin letter, in its size
SMALLEST = 5  # points of what is written in a cell


def chinese_font() -> str | None:
    """Names the first installed font that has Chinese characters, or None."""
    installed = set(font_manager.get_font_names())
    return next((name for name in CHINESE_FONTS if name in installed), None)


def font_families() -> list[str]:
    """The fonts in force, then a Chinese one: labels need no `set_style` to be readable."""
    families = list(matplotlib.rcParams["font.family"])
    font = chinese_font()
    return families if font in (None, *families) else [*families, font]


def new_axes(width: float, height: float) -> Axes:
    """A figure of so many inches, but room for a bar and at most 14 each way, with one axes."""
    return plt.subplots(figsize=np.clip((width, height), (3.4, 2.6), 14), layout="constrained")[1]


def inches(names: Sequence[str]) -> float:
    """Room for the longest of the names."""
    return max(letters(shown(name)) for name in names) * 0.09


def draw_cells(
    ax: Axes,
    colors: np.ndarray,
    columns: Sequence[str],
    rows: Sequence[str],
    color_label: str | None,
    title: str,
    written: np.ndarray | None = None,
    **scale: Any,
) -> None:
    """A map with one named cell for each pair, the first row on top.

    Args:
        ax: Where to draw.
        colors: (R, C) floats.
        columns, rows: C and R names, however long and strange.
        color_label: Beside the bar; None: no bar.
        title: Above the axes.
        written: (R, C) strings in the cells, as large as they fit; where they would be too small there are
            none.
        scale: vmin, vmax and cmap, if not white to blue from 0 to 1.
    """
    width, height = points_of_a_cell(ax, len(columns), len(rows))
    text = {"fontfamily": font_families(), "parse_math": False}  # "$" in a token is no formula
    if written is not None:
        text["fontsize"] = min(10, 0.9 * height, width / LETTER / max(map(letters, written.flat)))
    annot = written if text.get("fontsize", 0) >= SMALLEST else False
    scale = {"vmin": 0, "vmax": 1, "cmap": "Blues", "cbar": color_label is not None} | scale
    scale["cbar_kws"] = {"label": color_label}
    seaborn.heatmap(colors, ax=ax, annot=annot, fmt="", annot_kws=text, **scale)
    _name(ax.set_xticks, columns, width, turns=True)
    _name(ax.set_yticks, rows, height)
    ax.set_title(title, fontfamily=font_families())


def few_numbers(values: np.ndarray) -> np.ndarray | None:
    """What the cells of a small map say: the values with two digits; None for a large one."""
    return np.vectorize("{:.2f}".format)(values) if values.size <= MAX_WRITTEN_CELLS else None


def points_of_a_cell(ax: Axes, columns: int, rows: int) -> tuple[float, float]:
    """Width and height of a cell; 72 points are an inch."""
    width, height = ax.bbox.size / ax.get_figure().dpi * 72 * 0.75  # labels will take some of it
    return width / columns, height / rows


def letters(text: str) -> int:
    """How many Latin letters are as wide as the text: a Chinese character is as wide as two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def shown(token: str, most: int = 24) -> str:
    """The token as a label: control characters as their codes, the end left out of one too wide."""
    token = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)
    short = token[: most + 1]
    while letters(short) > most:
        short = short[:-2] + "…"
    return short


def finite_numbers(name: str, values: np.ndarray, shape: str, dimensions: int) -> np.ndarray:
    """The values as floats; raises ValueError, with the shape that was expected, unless all are finite."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != dimensions or not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite numbers of shape {shape}; received shape {values.shape}.")
    return values


def place_of(ax: Axes) -> SubFigure:
    """The place of axes of a grid as a figure in the figure; the axes are removed."""
    spec = ax.get_subplotspec()
    if spec is None:
        raise ValueError("ax must be one of a grid, as plt.subplots makes; received an axes at a free place.")
    figure = ax.get_figure()
    ax.remove()
    return figure.add_subfigure(spec)


def _name(set_ticks, names, room, turns=False):
    """Names the cells of one side, smaller where there is little room, and turned if they may be."""
    names = [shown(name) for name in names]
    size = font_manager.FontProperties(size=matplotlib.rcParams["xtick.labelsize"]).get_size_in_points()
    size = np.clip(0.85 * room, 4, size)
    turn = turns and max(map(letters, names)) * LETTER * size > room
    text = {"fontfamily": font_families(), "parse_math": False}
    set_ticks(np.arange(len(names)) + 0.5, names, rotation=90 if turn else 0, fontsize=size, **text)
