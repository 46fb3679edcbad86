"""Pictures of one or two shapes, and what to say about them in English and Chinese (article section 6.2)."""

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

WIDTH = 48  # pixels, and as many rows
FINER = 4  # drawn so many times larger, then averaged: smooth edges
SIZES = {"small": "小", "large": "大"}
COLORS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "black": "黑色",
    "white": "白色",
}
SHAPES = {
    "circle": "圆形",
    "square": "方形",
    "triangle": "三角形",
    "star": "星形",
    "cross": "十字形",
}
RELATIONS = {"above": "上方", "below": "下方", "left of": "左侧", "right of": "右侧"}
RADII = {"small": (5.5, 7.0), "large": (9.5, 11.0)}  # pixels
PAINTS = {
    "red": (205, 30, 35),
    "orange": (245, 130, 20),
    "yellow": (245, 225, 40),
    "green": (30, 150, 60),
    "blue": (35, 80, 215),
    "purple": (140, 45, 165),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}


class Thing(NamedTuple):
    """One shape of a scene."""

    size: str
    color: str
    shape: str


class Scene(NamedTuple):
    """A picture and what is in it.

    image: (48, 48, 3) uint8, red, green and blue.
    things: One or two, the one named first in English before the other.
    relation: Where the first is, seen from the second; None if it is alone.
    english, chinese: The caption.
    """

    image: np.ndarray
    things: tuple[Thing, ...]
    relation: str | None
    english: str
    chinese: str


def color_shape_pairs() -> dict[str, list[tuple[str, str]]]:
    """The 40 pairs of a color and a shape, in three parts: of each color, one shape is kept out of training.

    Returns:
        {"train": 32 pairs, "validation": 4, "test": 4} of (color, shape). Each color and each shape is in
        training; the validation pairs are of four colors, the test pairs of the other four.
    """
    parts = {"train": [], "validation": [], "test": []}
    for i, color in enumerate(COLORS):
        for j, shape in enumerate(SHAPES):
            held_out = ("validation", "test")[i % 2]
            parts[held_out if i % len(SHAPES) == j else "train"].append((color, shape))
    return parts


def draw_scenes(
    count: int,
    pairs: Sequence[tuple[str, str]],
    others: Sequence[tuple[str, str]] | None = None,
    seed: int = 0,
) -> list[Scene]:
    """Scenes drawn at random: three in four hold two things, the others one.

    Place, size, paint, background and light vary. One caption is right: the smaller thing is named first, of
    equals the upper or left one.

    Args:
        count: Scenes wanted.
        pairs: (color, shape) pairs; each scene holds one of these.
        others: Pairs for the other thing of a scene with two; None: as `pairs`.
        seed: Another seed draws other scenes.
    Returns:
        count scenes, reproducible on every machine up to the rounding of a pixel.
    Raises:
        ValueError: count is negative, pairs or others are empty, or a pair is not of COLORS and SHAPES.
    """
    if count < 0:
        raise ValueError(f"count must not be negative; received count={count}.")
    others = pairs if others is None else others
    for name, some in (("pairs", pairs), ("others", others)):
        if not some or not all(color in COLORS and shape in SHAPES for color, shape in some):
            raise ValueError(f"{name} must be pairs of a known color and shape; received {some!r}.")
    random = Random(f"scenes {seed}")
    return [_scene(random, pairs, others) for _ in range(count)]


def english_caption(things: Sequence[Thing], relation: str | None) -> str:
    """Words of a scene: a small red circle above a large blue square."""
    named = [f"a {' '.join(thing)}" for thing in things]
    return f" {relation} ".join(named)


def chinese_caption(things: Sequence[Thing], relation: str | None) -> str:
    """The same in Chinese, where the second thing comes first: 大蓝色方形上方有一个小红色圆形."""
    named = [SIZES[thing.size] + COLORS[thing.color] + SHAPES[thing.shape] for thing in things]
    return f"一个{named[0]}" if relation is None else f"{named[1]}{RELATIONS[relation]}有一个{named[0]}"


def attribute_accuracy(expected: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Share of English captions whose sizes are right, and of those whose colors, shapes, relation are.

    Args:
        expected: N captions.
        predicted: N captions, whatever they say. Of each, the words of a kind count, in their order: both
            colors must be right, and in the right place.
    Returns:
        {"size": , "color": , "shape": , "relation": }, each from 0 to 1.
    Raises:
        ValueError: the two differ in number, or are empty.
    """
    if len(expected) != len(predicted) or not len(expected):
        counts = f"{len(expected)} and {len(predicted)}"
        raise ValueError(f"expected and predicted must be equally many, at least 1; received {counts}.")
    kinds = {"size": SIZES, "color": COLORS, "shape": SHAPES, "relation": [r.split()[0] for r in RELATIONS]}
    pairs = [(one.split(), other.split()) for one, other in zip(expected, predicted, strict=True)]
    return {
        kind: sum(_among(one, words) == _among(other, words) for one, other in pairs) / len(pairs)
        for kind, words in kinds.items()
    }


def render(
    things: Sequence[Thing], places: Sequence[tuple[float, float, float]], random: Random
) -> np.ndarray:
    """Draw things on a background of chance, under a light that falls from one side.

    Args:
        things: In any order.
        places: For each its center x, y and radius, in pixels.
        random: Where paint, background, turns and light come from.
    Returns:
        (48, 48, 3) uint8.
    """
    shade = random.uniform(90, 165)
    ground = tuple(round(shade + random.uniform(-22, 22)) for _ in range(3))
    picture = Image.new("RGB", (WIDTH * FINER, WIDTH * FINER), ground)
    draw = ImageDraw.Draw(picture)
    for thing, (x, y, radius) in zip(things, places, strict=True):
        paint = tuple(round(value + random.uniform(-18, 18)) for value in PAINTS[thing.color])
        outline = _outline(thing.shape, x, y, radius, random.uniform(-8, 8))
        draw.polygon([(FINER * a, FINER * b) for a, b in outline], fill=_clipped(paint))
    pixels = np.asarray(picture.reduce(FINER), "float64")
    return np.clip(np.rint(pixels * _light(random)), 0, 255).astype("uint8")


def _among(words, known):
    return [word for word in words if word in known]


def _scene(random, pairs, others):
    first = Thing(random.choice(list(SIZES)), *random.choice(pairs))
    if random.random() < 0.25:
        radius = random.uniform(*RADII[first.size])
        place = *(random.uniform(radius + 1, WIDTH - radius - 1) for _ in range(2)), radius
        return _described((first,), None, [place], random)
    second = first
    while second == first:
        second = Thing(random.choice(list(SIZES)), *random.choice(others))
    things, upright = random.sample([first, second], 2), random.random() < 0.5
    places = _two_places(random, [random.uniform(*RADII[thing.size]) for thing in things])
    if upright:
        places = [(y, x, radius) for x, y, radius in places]
    relations = ("above", "below") if upright else ("left of", "right of")
    if (things[0].size, things[1].size) == ("large", "small"):  # the smaller one is named first
        return _described(things[::-1], relations[1], places[::-1], random)
    return _described(things, relations[0], places, random)


def _described(things, relation, places, random):
    things, image = tuple(things), render(things, places, random)
    return Scene(
        image, things, relation, english_caption(things, relation), chinese_caption(things, relation)
    )


def _two_places(random, radii):
    """Side by side, the first one left: farther apart in x than in y, and not touching."""
    left, right = radii
    apart = left + right + random.uniform(1, WIDTH - 2 - 2 * (left + right))
    x = random.uniform(1 + left, WIDTH - 1 - right - apart)
    y = random.uniform(1 + left, WIDTH - 1 - left)
    other = y + random.uniform(-0.4, 0.4) * apart
    other = min(max(other, 1 + right), WIDTH - 1 - right)
    return [(x, y, left), (x + apart, other, right)]


def _outline(shape, x, y, radius, turn):
    """The corners of a shape inside its circle; a circle has many."""
    if shape == "circle":
        polar = [(0.9, 6 * k) for k in range(60)]
    elif shape == "cross":  # three corners, four times
        polar = [(r, 90 * k + angle) for k in range(4) for r, angle in ((1, -21), (1, 21), (0.51, 45))]
    elif shape == "star":
        polar = [(1 if k % 2 == 0 else 0.42, 36 * k - 90) for k in range(10)]
    else:
        number, start = {"square": (4, 45), "triangle": (3, -90)}[shape]
        polar = [(1, start + 360 / number * k) for k in range(number)]
    angles = [(r * radius, math.radians(angle + turn)) for r, angle in polar]
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in angles]


def _clipped(paint):
    return tuple(min(max(value, 0), 255) for value in paint)


def _light(random):
    """(48, 48, 1) factors about 1, falling off in a direction of chance."""
    angle, slope, level = random.uniform(0, 2 * math.pi), random.uniform(0, 0.15), random.uniform(0.85, 1.1)
    steps = np.linspace(-1, 1, WIDTH)
    plane = math.cos(angle) * steps[None, :] + math.sin(angle) * steps[:, None]
    return (level * (1 + slope * plane))[:, :, None]
