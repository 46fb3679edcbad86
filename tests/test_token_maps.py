"""Maps with a column for each token: what is drawn, what can be read, what is refused."""

import warnings

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from companion import drawing  # noqa: E402
from companion.token_maps import attribution_map, logit_lens_map  # noqa: E402

TOKENS = ["我", "爱", "$x$", "\n", "<script>"]
SCORES = {"遮挡": [0.0, 0.02, -0.04, 0.01, 0.0], "rollout": [0.1, 0.2, 0.3, 0.2, 0.2], "none": [0.0] * 5}
VOCABULARY = ["大", "$\\frac$", "\0", "a very long word indeed", "cat", "sat", "mat"]
SHOWN = ["大", "$\\frac$", "\\x00", "a very lo…", "cat", "sat", "mat"]
needs_chinese_font = pytest.mark.skipif(drawing.chinese_font() is None, reason="no Chinese font is installed")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def lens(layers=3, tokens=5, vocabulary=7):
    powers = np.exp(2 * np.random.default_rng(0).normal(size=(layers, tokens, vocabulary)))
    return powers / powers.sum(axis=-1, keepdims=True)


def names(texts):
    return [text.get_text() for text in texts]


def drawn(ax):
    """The pixels, with missing glyphs and squeezed axes an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())


@needs_chinese_font
@pytest.mark.parametrize("count", [1, 2, 40, 128])
def test_both_are_readable_with_few_tokens_and_with_many(count):
    tokens = (TOKENS * 26)[:count]
    scores = {"遮挡 occlusion": np.linspace(-1, 1, count), "积分梯度": np.linspace(2, 0, count)}
    for ax in (
        attribution_map(scores, tokens, "归因"),
        logit_lens_map(lens(12, count), tokens, VOCABULARY, "逐层读出"),
    ):
        assert drawn(ax).std() > 5
        assert all((ax.get_title(), ax.get_xlabel(), ax.get_ylabel(), ax.figure.axes[1].get_ylabel()))
        assert len(ax.get_xticklabels()) == count and max(ax.figure.get_size_inches()) <= 14
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
        assert all(left.x1 <= right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_drawing_goes_where_it_is_asked():
    (left, right), before = plt.subplots(1, 2)[1], plt.get_fignums()
    assert attribution_map(SCORES, TOKENS, "A", left) is left and left.get_title() == "A"
    assert logit_lens_map(lens(), TOKENS, VOCABULARY, "B", right) is right and right.get_title() == "B"
    assert plt.get_fignums() == before


def test_each_method_is_colored_by_its_own_largest_score_and_written_in_its_own_unit():
    ax = attribution_map(SCORES, TOKENS)
    colors = ax.collections[0].get_array().reshape(3, 5)
    np.testing.assert_allclose(colors, [[0, 0.5, -1, 0.25, 0], [1 / 3, 2 / 3, 1, 2 / 3, 2 / 3], [0] * 5])
    assert ax.collections[0].get_clim() == (-1, 1)
    expected = ["0.000", "0.020", "-0.040", "0.010", "0.000", "0.10", "0.20", "0.30", "0.20", "0.20"]
    assert names(ax.texts) == expected + ["0.00"] * 5
    assert names(ax.get_yticklabels()) == [*SCORES] and ax.yaxis_inverted()
    assert names(ax.get_xticklabels()) == ["我", "爱", "$x$", "\\n", "<script>"]
    assert not attribution_map({name: row * 5 for name, row in SCORES.items()}, TOKENS * 5).texts


def test_the_scale_is_safe_for_the_color_blind():
    """Orange and purple: what a red-green deficiency confuses is not what the sign is told by."""
    for ax, name in (
        (attribution_map(SCORES, TOKENS), "PuOr"),
        (logit_lens_map(lens(), TOKENS, VOCABULARY), "Blues"),
    ):
        assert ax.collections[0].get_cmap().name == name


def test_the_lens_names_the_most_probable_token_with_the_last_block_on_top():
    probabilities = lens()
    ax = logit_lens_map(probabilities, TOKENS, VOCABULARY)
    best = probabilities.argmax(axis=-1)[::-1].ravel()
    assert names(ax.texts) == [SHOWN[i] for i in best] and len(set(best)) > 3
    colors = ax.collections[0].get_array().reshape(3, 5)
    np.testing.assert_allclose(colors, probabilities.max(axis=-1)[::-1])
    assert ax.collections[0].get_clim() == (0, 1)
    assert names(ax.get_yticklabels()) == ["3", "2", "1"] and ax.yaxis_inverted()


def test_the_lens_writes_only_what_can_be_read():
    assert names(logit_lens_map(lens(2, 40), ["a"] * 40, VOCABULARY).texts)
    assert not logit_lens_map(lens(2, 128), ["a"] * 128, VOCABULARY).texts


# Bad input


def test_bad_scores_are_named():
    for scores in ({}, [[0.1] * 5]):
        with pytest.raises(
            ValueError, match=r"scores must be {method: \(T,\) numbers}; received (dict|list)"
        ):
            attribution_map(scores, TOKENS)
    with pytest.raises(ValueError, match=r"scores\['a'\] must hold one for each of 5 tokens; received 2"):
        attribution_map({"a": [1, 2]}, TOKENS)
    for row in ([[0.1] * 5], [np.nan] * 5, []):
        with pytest.raises(ValueError, match=r"scores\['a'\] must be finite numbers of shape \(T,\)"):
            attribution_map({"a": row}, TOKENS)


def test_bad_probabilities_are_named():
    wanted = r"\(layers, len\(tokens\), len\(vocabulary\)\) = \(layers, 5, 7\)"
    for shape in ((3, 4, 7), (3, 5, 6)):
        with pytest.raises(ValueError, match=f"must have shape {wanted}; received \\({shape[0]}, {shape[1]}"):
            logit_lens_map(lens(*shape), TOKENS, VOCABULARY)
    with pytest.raises(
        ValueError, match=r"finite numbers of shape \(layers, T, V\); received shape \(5, 7\)"
    ):
        logit_lens_map(lens()[0], TOKENS, VOCABULARY)
    with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\]; received 0 to 2"):
        logit_lens_map(np.full((1, 5, 7), 2.0) * (np.arange(7) > 0), TOKENS, VOCABULARY)


# Names


def test_names_are_cut_to_a_width_and_show_what_is_invisible():
    assert drawing.shown("word") == "word" and drawing.shown("") == ""
    assert drawing.shown("a\n\0\u202e") == "a\\n\\x00\\u202e"
    assert drawing.shown("abcdef", 4) == "abc…" and drawing.shown("大语言模型", 6) == "大语…"
    assert drawing.letters("大b") == 3
    for most in range(1, 9):
        for token in ("abcdefghijkl", "大语言模型的原理", "a大b语c言", "\n\n\n\n"):
            assert drawing.letters(drawing.shown(token, most)) <= most
    assert len(drawing.shown("很" * 10**6)) == 12
