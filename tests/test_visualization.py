import io
import warnings

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from companion import visualization as show  # noqa: E402

CHINESE = ["我", "爱", "北京", "天安门"]
ENGLISH = ["I", "love", "$Beijing$", "_x_", "<end>"]
needs_chinese_font = pytest.mark.skipif(show.chinese_font() is None, reason="no Chinese font is installed")


@pytest.fixture(autouse=True)
def fresh():
    """Each test leaves Matplotlib as it was, and no call shows anything."""
    with matplotlib.rc_context(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "show", lambda *_: pytest.fail("plt.show was called"))
        yield
    plt.close("all")


def weights(*shape):
    scores = np.exp(np.random.default_rng(0).normal(size=shape))
    return scores / scores.sum(-1, keepdims=True)


def names(ticks):
    return [tick.get_text() for tick in ticks]


def drawn(figure):
    """The pixels, with missing glyphs an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def each_figure():
    history = {"loss": [3, 2], "val_loss": [3, 2.5]}
    yield "attention", show.attention_heatmap(weights(4, 5), ENGLISH, CHINESE).figure
    yield "heads", show.head_grid(weights(3, 4, 5), ENGLISH, CHINESE)
    yield "positions", show.positional_encoding_map(weights(6, 8) - 0.1).figure
    yield "vectors", show.vector_map(weights(4, 3), CHINESE, groups=["一", "二", "一", "二"]).figure
    yield "training", show.training_curves(history, title="训练").figure
    yield "confusion", show.confusion_matrix([[3, 1], [0, 2]], ["词", "句"]).figure


@needs_chinese_font
@pytest.mark.parametrize("styled", [False, True])
def test_chinese_is_readable_with_and_without_the_style(styled):
    if styled:
        show.set_style()
    for name, figure in each_figure():
        pixels = drawn(figure)
        assert pixels.std() > 5, f"{name} is blank"


def test_every_axes_says_what_it_shows():
    for name, figure in each_figure():
        if name == "heads":
            continue
        axes = figure.axes[0]
        assert all((axes.get_title(), axes.get_xlabel(), axes.get_ylabel())), name


def test_titles_can_be_chosen():
    assert show.attention_heatmap(weights(4, 4), CHINESE, title="A").get_title() == "A"
    assert show.head_grid(weights(1, 4, 4), CHINESE, title="B").get_suptitle() == "B"
    assert show.positional_encoding_map(np.eye(3), title="C").get_title() == "C"
    assert show.vector_map(np.eye(3), "abc", title="D").get_title() == "D"
    assert show.training_curves({"loss": [1]}, title="E").get_title() == "E"
    assert show.confusion_matrix([[1]], ["a"], title="F").get_title() == "F"


def test_drawing_goes_where_it_is_asked():
    (ax, *_), before = plt.subplots(1, 6)[1], plt.get_fignums()
    assert show.attention_heatmap(weights(4, 4), CHINESE, ax=ax) is ax
    assert show.positional_encoding_map(np.eye(3), ax=ax) is ax
    assert show.vector_map(np.eye(3), "abc", ax=ax) is ax
    assert show.training_curves({"loss": [1]}, ax=ax) is ax
    assert show.confusion_matrix([[1]], ["a"], ax=ax) is ax
    assert plt.get_fignums() == before


def test_style_chooses_an_installed_font(monkeypatch):
    monkeypatch.setattr(show.font_manager, "get_font_names", lambda: ["DejaVu Sans", "SimHei", "PingFang SC"])
    assert show.set_style() == "PingFang SC"
    assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "PingFang SC"]
    monkeypatch.setattr(show.font_manager, "get_font_names", lambda: ["DejaVu Sans"])
    assert show.set_style() is None
    assert matplotlib.rcParams["font.family"] == ["DejaVu Sans"]


def test_palette_is_safe_for_the_color_blind():
    import seaborn

    show.set_style()
    cycle = [color["color"] for color in matplotlib.rcParams["axes.prop_cycle"]]
    assert [matplotlib.colors.to_rgb(color) for color in cycle] == seaborn.color_palette("colorblind")


# Attention


def test_heatmap_shows_the_weights_under_their_tokens():
    values = weights(4, 5)
    ax = show.attention_heatmap(values, ENGLISH, CHINESE)
    assert names(ax.get_xticklabels()) == ENGLISH and names(ax.get_yticklabels()) == CHINESE
    mesh = ax.collections[0]
    np.testing.assert_allclose(mesh.get_array().reshape(4, 5), values)
    assert mesh.get_clim() == (0, 1)
    assert names(ax.texts) == [f"{value:.2f}" for value in values.flat]
    assert ax.figure.axes[1].get_ylabel() == "attention weight"
    assert ax.yaxis_inverted()  # the first target token on top


def test_heatmap_of_self_attention_names_both_sides():
    ax = show.attention_heatmap(weights(4, 4), CHINESE)
    assert names(ax.get_xticklabels()) == names(ax.get_yticklabels()) == CHINESE


def test_large_heatmap_has_every_token_and_no_numbers():
    tokens = [str(i) for i in range(40)]
    ax = show.attention_heatmap(weights(40, 40), tokens)
    drawn(ax.figure)
    assert names(ax.get_xticklabels()) == tokens and not ax.texts


def test_repeated_tokens_keep_their_places():
    ax = show.attention_heatmap(weights(3, 3), ["the", "a", "the"])
    assert names(ax.get_yticklabels()) == ["the", "a", "the"]


def test_dollars_are_no_formula():
    tokens = ["$", "$\\frac$", "a_b^c"]
    for figure in (
        show.attention_heatmap(weights(3, 3), tokens).figure,
        show.vector_map(np.eye(3), tokens).figure,
        show.head_grid(weights(2, 3, 3), tokens),
    ):
        drawn(figure)  # $\frac$ would not parse


@needs_chinese_font
@pytest.mark.parametrize("tokens", [["\n", "\0", "\u202e", "$x$"], ["a" * 500, "很" * 500, "", " "]])
def test_strange_tokens_are_shown_and_break_nothing(tokens):
    drawn(show.vector_map(np.eye(4), tokens).figure)
    shares = np.full((4, 4), 0.25)
    for figure in (
        show.attention_heatmap(shares, tokens).figure,
        show.head_grid([shares, shares], tokens),
        show.confusion_matrix(shares, tokens).figure,
    ):
        drawn(figure)
        assert figure.axes[0].get_window_extent().height > 50  # labels leave room for the map
        labels = names(figure.axes[0].get_xticklabels())
        assert all(label.isprintable() and len(label) <= 24 for label in labels)


def test_labels_and_numbers_fit_their_cells():
    tokens = ["word"] * 128
    ax = show.attention_heatmap(np.full((128, 128), 1 / 128), tokens)
    drawn(ax.figure)
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in zip(boxes, boxes[1:], strict=False))
    for size, count in ((14, 4), (4, 4), (1, 0)):  # inches; numbers that would be too small are left out
        ax = plt.figure(figsize=(size, size)).subplots()
        show.attention_heatmap(np.eye(8), ["a"] * 8, ax=ax)
        assert len(ax.texts) == (64 if count else 0)


def test_short_names_stand_upright_where_there_is_room():
    upright = {}
    for tokens in (["cat", "sat"], ["a much longer name", "sat"], ["cat"] * 60):
        ax = show.attention_heatmap(np.eye(len(tokens)), tokens)
        upright[len(tokens[0]), len(tokens)] = ax.get_xticklabels()[0].get_rotation() == 0
    assert upright == {(3, 2): True, (18, 2): False, (3, 60): False}


def test_heads_share_the_place_of_given_axes():
    figure, (left, right) = plt.subplots(1, 2, layout="constrained", figsize=(12, 4))
    before = plt.get_fignums()
    assert show.head_grid(weights(3, 4, 5), ENGLISH, CHINESE, "here", columns=2, ax=right) is figure
    drawn(figure) if show.chinese_font() else figure.canvas.draw()
    assert plt.get_fignums() == before and left in figure.axes and right not in figure.axes
    (place,) = figure.subfigs
    assert place.get_suptitle() == "here" and place.get_supxlabel() == "source token"
    panels = [ax for ax in place.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["head 1", "head 2", "head 3"]
    assert min(ax.get_window_extent().x0 for ax in panels) > left.get_window_extent().x1
    with pytest.raises(
        ValueError, match="ax must be one of a grid, as plt.subplots makes; received an axes at"
    ):
        show.head_grid(weights(1, 4, 4), CHINESE, ax=plt.figure().add_axes((0, 0, 1, 1)))


def test_heads_share_one_scale():
    values = weights(6, 4, 5)
    figure = show.head_grid(values, ENGLISH, CHINESE)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == [f"head {i}" for i in range(1, 7)]
    for ax, head in zip(panels, values, strict=True):
        np.testing.assert_allclose(ax.collections[0].get_array().reshape(4, 5), head)
        assert ax.collections[0].get_clim() == (0, 1)
        assert names(ax.get_xticklabels()) == ENGLISH
    assert figure.get_supxlabel() == "source token" and figure.get_supylabel() == "target token"
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["attention weight"]


def test_one_head_is_enough():
    figure = show.head_grid(weights(1, 3, 3), "abc", columns=4)
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["head 1"]


def test_bad_weights_are_named():
    with pytest.raises(ValueError, match=r"len\(source_tokens\)\) = \(4, 5\); received \(5, 4\)"):
        show.attention_heatmap(weights(5, 4), ENGLISH, CHINESE)
    with pytest.raises(
        ValueError, match=r"weights must be finite numbers of shape .*; received shape \(2, 4, 4\)"
    ):
        show.attention_heatmap(weights(2, 4, 4), CHINESE)
    with pytest.raises(ValueError, match=r"weights must be in \[0, 1\]; received 0 to 2"):
        show.attention_heatmap(2 * np.eye(4), CHINESE)
    with pytest.raises(ValueError, match="weights must be finite numbers"):
        show.attention_heatmap(np.full((4, 4), np.nan), CHINESE)
    with pytest.raises(ValueError, match="weights must be finite numbers"):
        show.attention_heatmap(np.zeros((0, 0)), [])
    with pytest.raises(
        ValueError, match=r"weights must have shape \(H, .*\) = \(2, 4, 4\); received \(2, 4, 5\)"
    ):
        show.head_grid(weights(2, 4, 5), CHINESE)
    with pytest.raises(ValueError, match="columns must be at least 1; received 0"):
        show.head_grid(weights(2, 4, 4), CHINESE, columns=0)


# Positions, vectors, training, confusion


def test_positions_are_symmetric_about_zero():
    encoding = np.array([[0.0, 0.5], [-2.0, 1.0], [0.0, 0.0]])
    image = show.positional_encoding_map(encoding).images[0]
    np.testing.assert_array_equal(image.get_array(), encoding)
    assert image.get_clim() == (-2, 2)
    assert show.positional_encoding_map(np.zeros((2, 2))).images[0].get_clim() == (-1, 1)
    with pytest.raises(
        ValueError, match=r"encoding must be finite .* shape \(length, M\); received shape \(3,\)"
    ):
        show.positional_encoding_map([1, 2, 3])


def test_vectors_lie_along_their_principal_components():
    # on a line of length 4 along one axis and 2 along another: shares 16 : 4
    vectors = np.array([[0, 2.0, 0], [0, -2, 0], [1, 0, 0], [-1, 0, 0]])
    ax = show.vector_map(vectors, ["up", "down", "right", "left"])
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points, [[2, 0], [-2, 0], [0, 1], [0, -1]], atol=1e-12)
    assert ax.get_xlabel() == "principal component 1 (80% of variance)"
    assert ax.get_ylabel() == "principal component 2 (20% of variance)"
    for text, point in zip(ax.texts, points, strict=True):
        np.testing.assert_allclose(text.xy, point)
    assert names(ax.texts) == ["up", "down", "right", "left"]


def test_vectors_agree_with_sklearn():
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(0).normal(size=(12, 5))
    points = show.vector_map(vectors, "abcdefghijkl").collections[0].get_offsets()
    np.testing.assert_allclose(np.abs(points), np.abs(PCA(2).fit_transform(vectors)), atol=1e-9)


def test_groups_have_a_legend():
    ax = show.vector_map(np.eye(4), CHINESE, groups=["甲", "乙", "甲", "乙"])
    assert names(ax.get_legend().get_texts()) == ["甲", "乙"]
    drawn(show.vector_map(np.eye(4), "abcd", groups=["$\\frac$", "b", "b", "$"]).figure)  # no formula


def test_bad_vectors_are_named():
    with pytest.raises(ValueError, match="words must name each of 4 vectors; received 3 names"):
        show.vector_map(np.eye(4), "abc")
    with pytest.raises(ValueError, match="groups must name each of 4 vectors; received 1 names"):
        show.vector_map(np.eye(4), CHINESE, groups=["a"])
    with pytest.raises(
        ValueError, match=r"vectors must be at least 2 of width 2 or more; received shape \(1, 3\)"
    ):
        show.vector_map(np.ones((1, 3)), ["a"])


def test_training_curves_count_epochs_from_one():
    history = {"loss": [3.0, 2.0, 1.0], "val_loss": [3.5, 2.5, 2.0], "accuracy": [0.1, 0.2, 0.3]}
    ax = show.training_curves(history)
    training, validation = ax.lines
    np.testing.assert_array_equal(training.get_xydata(), [[1, 3], [2, 2], [3, 1]])
    np.testing.assert_array_equal(validation.get_ydata(), history["val_loss"])
    assert names(ax.get_legend().get_texts()) == ["training", "validation"]
    assert ax.get_ylabel() == "loss"
    only = show.training_curves(history, metric="accuracy")
    assert names(only.get_legend().get_texts()) == ["training"]


def test_training_curves_take_what_fit_returns():
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    history = model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=2, verbose=0)
    assert show.training_curves(history).lines[0].get_ydata().tolist() == history.history["loss"]


def test_a_missing_metric_is_named():
    with pytest.raises(
        ValueError, match=r"metric must be in history; received metric='f1', history of \['loss'\]"
    ):
        show.training_curves({"loss": [1]}, metric="f1")
    with pytest.raises(
        ValueError, match="metric must be in history; received metric='loss', history of list"
    ):
        show.training_curves([1, 2])


def test_confusion_colors_shares_and_writes_counts():
    ax = show.confusion_matrix([[30, 10], [0, 0]], ["yes", "no"])
    assert names(ax.texts) == ["30", "10", "0", "0"]
    np.testing.assert_allclose(ax.collections[0].get_array().ravel(), [0.75, 0.25, 0, 0])
    assert ax.collections[0].get_clim() == (0, 1)
    assert names(ax.get_xticklabels()) == names(ax.get_yticklabels()) == ["yes", "no"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "expected")


def test_a_bad_matrix_is_named():
    with pytest.raises(
        ValueError, match=r"matrix must have a row and a column for each label; received \(2, 2\)"
    ):
        show.confusion_matrix(np.eye(2), ["a", "b", "c"])
    with pytest.raises(ValueError, match="matrix must hold counts, at least 0; received -1"):
        show.confusion_matrix([[1, -1], [0, 1]], ["a", "b"])


def test_figures_can_be_saved():
    for _, figure in each_figure():
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without a Chinese font glyphs are missing
            figure.savefig(file, format="svg")
        assert b"</svg>" in file.getvalue()
