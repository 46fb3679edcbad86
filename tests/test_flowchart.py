import warnings

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import colors  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

from companion import visualization  # noqa: E402
from companion.flowchart import Edge, Flowchart, Node, dead_ends, draw_flowchart, parse_flowchart  # noqa: E402

LOOP = """
%% a loop with a way out
flowchart TD
    A[提示] --> B(读) -->|词元| C{"done (?)"};
    C -->|no, go on| B
    C ==> D
    X -.-> X
"""
needs_chinese_font = pytest.mark.skipif(
    visualization.chinese_font() is None, reason="no Chinese font is installed"
)


@pytest.fixture(autouse=True)
def fresh():
    with matplotlib.rc_context():
        yield
    plt.close("all")


def place(ax, label):
    """Where a label is written."""
    (text,) = (text for text in ax.texts if text.get_text() == label)
    return text.get_position()


def drawn(ax):
    """The pixels, with missing glyphs an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())


def shape(ax, label):
    return next(text.get_bbox_patch() for text in ax.texts if text.get_text() == label)


def test_shapes_labels_and_chains():
    chart = parse_flowchart(LOOP)
    assert chart.direction == "TD"
    assert chart.nodes == {
        "A": Node("提示", "box"),
        "B": Node("读", "round"),
        "C": Node("done (?)", "diamond"),
        "D": Node("D", "box"),
        "X": Node("X", "box"),
    }
    assert chart.edges == [
        Edge("A", "B", ""),
        Edge("B", "C", "词元"),
        Edge("C", "B", "no, go on"),
        Edge("C", "D", ""),
        Edge("X", "X", ""),
    ]


def test_a_node_may_be_used_before_it_is_described():
    chart = parse_flowchart("graph LR\nA --> B\nB[the end]\nA")
    assert chart == Flowchart(
        "LR", {"A": Node("A", "box"), "B": Node("the end", "box")}, [Edge("A", "B", "")]
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("A --> ", "line 3: 'A -->', no node at ''"),
        ("A[one B", "no arrow at '[one B'"),
        ("A[one}", "no arrow at '[one}'"),
        ("A --- B", "no arrow at '--- B'"),
        ("A B", "no arrow at 'B'"),
        ("A[go (now)] --> B", r"no arrow at '[go (now)] --> B'"),  # Mermaid, too, wants quotes here
        ("--> B", "no node at '--> B'"),
        ("A -->|yes B", "no node at '|yes B'"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line, complaint):
    with pytest.raises(ValueError, match="nodes joined by arrows; received line 3") as caught:
        parse_flowchart(f"graph TD\n    A --> B\n    {line}\n")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("", "received no line"),
        ("%% nothing\n", "received no line"),
        ("A --> B", "received line 1: 'A --> B'"),
        ("\ngraph XY\nA --> B", "received line 2: 'graph XY'"),
        ("graph TD", "must hold a node"),
    ],
)
def test_a_chart_begins_with_its_direction(source, complaint):
    with pytest.raises(ValueError, match="source must") as caught:
        parse_flowchart(source)
    assert complaint in str(caught.value)


def test_dead_ends_are_the_nodes_without_a_path_to_the_goal():
    chart = parse_flowchart(LOOP)
    assert dead_ends(chart, "D") == ["X"]  # B and C are in a loop, which has a way out
    assert dead_ends(chart, "A") == ["B", "C", "D", "X"]
    with pytest.raises(ValueError, match="goal must be one of A, B, C, D, X; received 'Z'"):
        dead_ends(chart, "Z")


@pytest.mark.parametrize("seed", range(5))
def test_dead_ends_agree_with_the_powers_of_the_adjacency_matrix(seed):
    random, names = np.random.default_rng(seed), [f"n{i}" for i in range(9)]
    adjacency = (random.random((9, 9)) < 0.14).astype(int)
    edges = [Edge(names[i], names[j], "") for i, j in np.argwhere(adjacency)]
    chart = Flowchart("TD", {name: Node(name, "box") for name in names}, edges)
    reaches = np.linalg.matrix_power(adjacency + np.eye(9, dtype=int), 9)[:, 4] > 0
    assert dead_ends(chart, "n4") == [name for name, good in zip(names, reaches, strict=True) if not good]


def test_rows_follow_the_longest_way_and_cycles_end():
    ax = draw_flowchart(parse_flowchart("graph TD\na --> b --> c --> d\na --> d\nd --> b\na --> e"))
    assert [place(ax, name)[1] for name in "abcd"] == [0, -1, -2, -3]
    (left, row), (right, same_row) = place(ax, "b"), place(ax, "e")
    assert row == same_row == -1 and left == -right != 0
    across = draw_flowchart(parse_flowchart("graph LR\na --> b --> c"))
    assert [place(across, name) for name in "abc"] == [(0, 0), (1, 0), (2, 0)]


def test_arrows_that_lead_back_run_in_lanes_of_their_own_outside_the_nodes():
    ax = draw_flowchart(parse_flowchart("graph TD\na --> b --> c\nc --> a\na --> c\nb --> e"), {"c": (0, 2)})
    nodes = {place(ax, name)[0] for name in "abce"}
    lanes = sorted({max(line.get_xdata()) for line in ax.lines} - nodes)
    assert len(lanes) == 2 and max(nodes) < lanes[0] and lanes[1] < ax.get_xlim()[1]


def test_positions_and_highlight():
    chart = parse_flowchart("graph TD\na --> b\nb --> c")
    ax = draw_flowchart(chart, {"b": (2, 5)}, highlight=["c"], title="走")
    assert place(ax, "b") == (2, -5) and place(ax, "a") == (0, 0) and ax.get_title() == "走"
    plain, marked = shape(ax, "a"), shape(ax, "c")
    assert marked.get_hatch() and not plain.get_hatch()  # told apart without color ...
    grays = [np.dot(colors.to_rgb(patch.get_edgecolor()), (0.3, 0.6, 0.1)) for patch in (plain, marked)]
    assert abs(grays[0] - grays[1]) > 0.15  # ... and in gray
    for wrong in ({"positions": {"z": (0, 0)}}, {"highlight": ["z"]}):
        with pytest.raises(ValueError, match=r"positions and highlight must name nodes .* received \['z'\]"):
            draw_flowchart(chart, **wrong)


@needs_chinese_font
@pytest.mark.parametrize("styled", [False, True])
def test_chinese_is_readable_and_shapes_hold_their_labels(styled):
    if styled:
        visualization.set_style()
    ax = draw_flowchart(parse_flowchart(LOOP), title="流程图")
    assert drawn(ax).std() > 5
    for label in ("提示", "读", "done (?)"):
        (text,) = (text for text in ax.texts if text.get_text() == label)
        inside, outside = text.get_window_extent(), text.get_bbox_patch().get_window_extent()
        assert outside.x0 < inside.x0 < inside.x1 < outside.x1
        assert outside.y0 < inside.y0 < inside.y1 < outside.y1
    diamond = shape(ax, "done (?)")
    assert len(diamond.get_path().vertices) == 5  # four corners, closed


def test_arrows_touch_the_shapes_and_draw_on_the_given_axes():
    _, (_, right) = plt.subplots(1, 2)
    assert draw_flowchart(parse_flowchart("graph TD\na --> b"), ax=right) is right
    drawn(right)
    arrow = next(text.arrow_patch for text in right.texts if getattr(text, "arrow_patch", None))
    tips = arrow.get_window_extent()
    assert (
        shape(right, "b").get_window_extent().y1 - 2
        < tips.y0
        < tips.y1
        < shape(right, "a").get_window_extent().y0 + 2
    )
