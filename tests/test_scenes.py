"""The scenes: captions that say what is there, pictures that show what they say, pairs kept apart."""

import re
from collections import Counter

import numpy as np
import pytest

from companion.scenes import (
    COLORS,
    PAINTS,
    RELATIONS,
    SHAPES,
    SIZES,
    Thing,
    attribute_accuracy,
    chinese_caption,
    color_shape_pairs,
    draw_scenes,
    english_caption,
    render,
)

PAIRS = color_shape_pairs()
RED, BLUE = Thing("small", "red", "circle"), Thing("large", "blue", "square")


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(400, PAIRS["train"], seed=7)


def pair(thing):
    return thing.color, thing.shape


def test_captions_in_both_languages():
    assert english_caption((RED, BLUE), "above") == "a small red circle above a large blue square"
    assert chinese_caption((RED, BLUE), "above") == "大蓝色方形上方有一个小红色圆形"
    assert chinese_caption((RED, BLUE), "left of") == "大蓝色方形左侧有一个小红色圆形"
    assert english_caption((BLUE,), None) == "a large blue square"
    assert chinese_caption((BLUE,), None) == "一个大蓝色方形"


def test_the_three_parts_share_no_pair_and_leave_no_color_or_shape_out():
    counts = {part: len(pairs) for part, pairs in PAIRS.items()}
    assert counts == {"train": 32, "validation": 4, "test": 4}
    assert len(set().union(*PAIRS.values())) == 40 == len(COLORS) * len(SHAPES)
    assert Counter(color for color, _ in PAIRS["train"]) == dict.fromkeys(COLORS, 4)
    assert min(Counter(shape for _, shape in PAIRS["train"]).values()) >= 6
    held_out = [color for part in ("validation", "test") for color, _ in PAIRS[part]]
    assert sorted(held_out) == sorted(COLORS)


def test_scenes_are_seeded(scenes):
    again = draw_scenes(400, PAIRS["train"], seed=7)
    assert all(
        np.array_equal(a.image, b.image) and a[1:] == b[1:] for a, b in zip(scenes, again, strict=True)
    )
    others = draw_scenes(400, PAIRS["train"], seed=8)
    assert not any(np.array_equal(a.image, b.image) for a, b in zip(scenes, others, strict=True))


def test_captions_agree_with_the_things(scenes):
    for scene in scenes:
        assert scene.image.shape == (48, 48, 3) and scene.image.dtype == np.uint8
        assert scene.english == english_caption(scene.things, scene.relation)
        assert scene.chinese == chinese_caption(scene.things, scene.relation)
        assert (scene.relation is None) == (len(scene.things) == 1)
        assert all(pair(thing) in PAIRS["train"] for thing in scene.things)
        assert len(set(scene.things)) == len(scene.things)
        assert re.fullmatch("[\u4e00-\u9fff]+", scene.chinese)
    shares = Counter(len(scene.things) for scene in scenes)
    assert 0.15 < shares[1] / 400 < 0.35
    assert {scene.relation for scene in scenes} == {None, *RELATIONS}
    assert {thing.size for scene in scenes for thing in scene.things} == set(SIZES)


def test_the_smaller_one_is_named_first_and_of_equals_the_upper_or_left_one(scenes):
    for scene in scenes:
        sizes = [thing.size for thing in scene.things]
        assert sizes != ["large", "small"]
        if len(sizes) == 2 and sizes[0] == sizes[1]:
            assert scene.relation in ("above", "left of")


def test_every_scene_holds_an_unseen_pair_when_asked_to():
    mixed = draw_scenes(200, PAIRS["test"], PAIRS["train"], seed=1)
    for scene in mixed:
        pairs = [pair(thing) for thing in scene.things]
        assert set(pairs) & set(PAIRS["test"])
        assert len(pairs) == 1 or set(pairs) & set(PAIRS["train"])


def centers(scene):
    """Where each thing's color is, found in the picture alone: rows and columns."""
    paints = np.array([PAINTS[thing.color] for thing in scene.things], float)
    corners = scene.image[[0, 0, -1, -1], [0, -1, 0, -1]].mean(axis=0)
    distances = ((scene.image[None].astype(float) - np.vstack([paints, corners])[:, None, None]) ** 2).sum(-1)
    nearest = distances.argmin(axis=0)
    return [np.argwhere(nearest == i).mean(axis=0) for i in range(len(paints))]


def test_the_relation_is_what_the_picture_shows():
    pairs = [("red", "square"), ("blue", "circle")]
    checked = Counter()
    for scene in draw_scenes(300, pairs, seed=3):
        if len({thing.color for thing in scene.things}) == 2:
            (row, column), (other_row, other_column) = centers(scene)
            down, right = other_row - row, other_column - column
            expected = {"above": down, "below": -down, "left of": right, "right of": -right}
            assert max(expected, key=expected.get) == scene.relation
            checked[scene.relation] += 1
    assert set(checked) == set(RELATIONS) and min(checked.values()) >= 10


def painted(shape, radius, seed=0):
    """How many pixels a thing covers: white on gray is bright."""
    from random import Random

    image = render([Thing("large", "white", shape)], [(24, 24, radius)], Random(seed))
    return (image.min(axis=-1).astype(int) > image[0, 0].max().astype(int) + 40).sum()


def test_areas_are_those_of_the_shapes():
    """Of a square in a circle of radius r: 2 r²; a circle of 0.9 r: 0.81 π r²; a triangle: 3√3/4 r²."""
    areas = {"square": 2, "circle": 0.81 * np.pi, "triangle": 3 * 3**0.5 / 4}
    areas["star"] = 10 * 0.5 * 0.42 * np.sin(np.pi / 5)
    arm, tip = np.sin(np.radians(21)), np.cos(np.radians(21))
    areas["cross"] = 4 * arm**2 + 4 * 2 * arm * (tip - arm)
    assert set(areas) == set(SHAPES)
    for shape, area in areas.items():
        found = np.mean([painted(shape, 11, seed) for seed in range(5)])
        assert abs(found - area * 121) < 0.08 * area * 121 + 8, shape


def test_a_thing_stays_inside_the_picture():
    """Along the border only the light changes, and slowly; paint would make a step."""
    for scene in draw_scenes(100, [("white", "square"), ("black", "circle")], seed=5):
        image = scene.image.astype(int)
        for border in (image[0], image[-1], image[:, 0], image[:, -1]):
            assert np.abs(np.diff(border, axis=0)).max() <= 3


def test_attribute_accuracy():
    expected = ["a small red circle above a large blue square", "a large white star"]
    predicted = [
        "a small blue circle above a large red square",
        "a large white star left of a small red star",
    ]
    assert attribute_accuracy(expected, expected) == dict.fromkeys(
        ("size", "color", "shape", "relation"), 1.0
    )
    assert attribute_accuracy(expected, predicted) == {"size": 0.5, "color": 0, "shape": 0.5, "relation": 0.5}
    assert attribute_accuracy(expected, ["", "white"]) == {
        "size": 0,
        "color": 0.5,
        "shape": 0,
        "relation": 0.5,
    }
    with pytest.raises(ValueError, match="expected and predicted must be equally many.*received 2 and 1"):
        attribute_accuracy(expected, ["a"])
    with pytest.raises(ValueError, match="at least 1; received 0 and 0"):
        attribute_accuracy([], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1, "pairs": PAIRS["test"]}, "count must not be negative; received count=-1"),
        ({"count": 1, "pairs": []}, r"pairs must be pairs of a known color and shape; received \[\]"),
        ({"count": 1, "pairs": [("pink", "star")]}, "pairs must be pairs of a known color.*pink"),
        ({"count": 1, "pairs": PAIRS["test"], "others": [("red", "egg")]}, "others must be pairs.*egg"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_scenes(**arguments)


def test_one_pair_alone_makes_scenes_of_two_sizes():
    for scene in draw_scenes(40, [("red", "star")], seed=2):
        assert len(scene.things) == 1 or [t.size for t in scene.things] == ["small", "large"]
