"""Flow charts written in Mermaid: read as graphs, asked what cannot be reached, drawn."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.path import Path

from companion.visualization import font_families

TEXT = r'"[^"]+"|[^]["{}()|]+'  # in quotes a label may hold brackets
NODE = re.compile(rf"(\w+)(?:\[(?P<box>{TEXT})\]|\{{(?P<diamond>{TEXT})\}}|\((?P<round>{TEXT})\))?\s*")
ARROW = re.compile(rf"(?:-->|==>|-\.->)\s*(?:\|({TEXT})\|)?\s*")
HEADER = re.compile(r"(?:graph|flowchart)\s+(TD|TB|LR)")


class Node(NamedTuple):
    """What a node shows: its label and its shape, "box", "diamond" or "round"."""

    label: str
    shape: str


class Edge(NamedTuple):
    """An arrow between two nodes, named by their ids; label "" is none."""

    start: str
    end: str
    label: str


class Flowchart(NamedTuple):
    """A directed graph. direction: "TD" or "TB" (down), "LR" (right); nodes by their ids."""

    direction: str
    nodes: dict[str, Node]
    edges: list[Edge]


def parse_flowchart(source: str) -> Flowchart:
    """Reads a Mermaid flow chart: boxes, diamonds and round nodes; arrows, with labels, in chains.

    Args:
        source: Lines such as `graph TD` and then `A[read] -->|yes| B{known?} --> C`; `%%` begins a comment.
    Returns:
        The chart; nodes and edges in the order of the source. A node without a label shows its id.
    Raises:
        ValueError: There is no first line with a direction, no node, or a line this reader does not know.
    Source: Mermaid's documentation, "Flowcharts - Basic Syntax"; of which this is a small part.
    """
    lines = [(i, line.strip().removesuffix(";")) for i, line in enumerate(source.splitlines(), start=1)]
    lines = [(i, line) for i, line in lines if line and not line.startswith("%%")]
    header = HEADER.fullmatch(lines[0][1]) if lines else None
    if not header:
        received = f"line {lines[0][0]}: {lines[0][1]!r}" if lines else "no line"
        raise ValueError(f'source must begin with a line like "graph TD"; received {received}.')
    chart = Flowchart(header[1], {}, [])
    for number, line in lines[1:]:
        try:
            _read(line, chart)
        except ValueError as error:
            message = f"source must hold nodes joined by arrows; received line {number}: {line!r}, {error}."
            raise ValueError(message) from None
    if not chart.nodes:
        raise ValueError("source must hold a node; received none.")
    return chart


def _read(line, chart):
    """Adds the nodes and the edges of one line."""
    place, start, label = 0, None, ""
    while True:
        node = NODE.match(line, place)
        if not node:
            raise ValueError(f"no node at {line[place:]!r}")
        name, shape = node[1], node.lastgroup
        if shape or name not in chart.nodes:
            chart.nodes[name] = Node(_text(node[shape] if shape else name), shape or "box")
        if start:
            chart.edges.append(Edge(start, name, _text(label)))
        if node.end() == len(line):
            return
        arrow = ARROW.match(line, node.end())
        if not arrow:
            raise ValueError(f"no arrow at {line[node.end() :]!r}")
        place, start, label = arrow.end(), name, arrow[1] or ""


def _text(label):
    return label.strip().strip('"').strip()


def dead_ends(chart: Flowchart, goal: str) -> list[str]:
    """Names the nodes from which no path leads to the goal.

    Args:
        chart: A chart.
        goal: The id of a node.
    Returns:
        Ids in the order of the chart; none where every node reaches the goal.
    Raises:
        ValueError: The chart has no such node.
    """
    if goal not in chart.nodes:
        raise ValueError(f"goal must be one of {', '.join(chart.nodes)}; received {goal!r}.")
    reaching, waiting = {goal}, [goal]
    while waiting:
        end = waiting.pop()
        before = {edge.start for edge in chart.edges if edge.end == end} - reaching
        reaching |= before
        waiting += before
    return [node for node in chart.nodes if node not in reaching]


def draw_flowchart(
    chart: Flowchart,
    positions: Mapping[str, tuple[float, float]] | None = None,
    highlight: Collection[str] = (),
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws a chart in rows: each node one row after the last of those that lead to it.

    Args:
        chart: A chart. Arrows that lead back, or past other nodes, run beside it.
        positions: Node id -> (column, row), where the chosen place is not good enough; rows run down, or, in
            a chart of direction "LR", to the right.
        highlight: Ids of nodes to show in another color, hatched.
        title: Above the axes.
        ax: Where to draw; None makes a figure.
    Returns:
        The axes, without ticks.
    Raises:
        ValueError: positions or highlight name a node that the chart does not have.
    """
    if strange := {*highlight, *(positions or ())} - chart.nodes.keys():
        raise ValueError(f"positions and highlight must name nodes of the chart; received {sorted(strange)}.")
    places = _positions(chart) | dict(positions or {})
    around = [edge for edge in chart.edges if _is_blocked(places[edge.start], places[edge.end])]
    columns, rows = ([place[i] for place in places.values()] for i in (0, 1))
    lanes = {edge: max(columns) + 0.75 + 0.3 * i for i, edge in enumerate(around)}
    last = max([*columns, *lanes.values()])
    corners = [(min(columns) - 0.6, min(rows) - 0.4), (last + 0.6, max(rows) + 0.4)]
    across, down = zip(*(_point(chart, corner) for corner in corners), strict=True)
    scale = (1.6, 0.75) if chart.direction == "LR" else (2.0, 0.9)  # inches from node to node
    size = [inches * abs(ends[1] - ends[0]) for inches, ends in zip(scale, (across, down), strict=True)]
    ax = ax or plt.subplots(figsize=(size[0], size[1] + 0.5), layout="constrained")[1]
    shapes = _draw_nodes(ax, chart, places, highlight)
    for edge in chart.edges:
        _draw_edge(ax, chart, edge, places, lanes.get(edge), shapes)
    ax.set(xlim=sorted(across), ylim=sorted(down))
    ax.set_axis_off()
    ax.set_title(title or "Flow chart", fontfamily=font_families())
    return ax


def _point(chart, place):
    """Where a (column, row) lies on the axes."""
    column, row = place
    return (row, -column) if chart.direction == "LR" else (column, -row)


def _is_blocked(start, end):
    """Whether nodes may be in the way: the edge leads back, or past nodes of its own column."""
    return end[1] <= start[1] or (start[0] == end[0] and end[1] - start[1] > 1)


def _positions(chart):
    """(column, row) of each node: the longest way from a start, cycles left open; columns about 0."""
    rows = dict.fromkeys(chart.nodes, 0)
    forward = _without_cycles(chart)
    for _ in chart.nodes:
        for edge in forward:
            rows[edge.end] = max(rows[edge.end], rows[edge.start] + 1)
    sizes, seen, places = Counter(rows.values()), Counter(), {}
    for node, row in rows.items():
        places[node] = (seen[row] - (sizes[row] - 1) / 2, row)
        seen[row] += 1
    return places


def _without_cycles(chart):
    """The edges, without those that lead back to a node on the way to their start."""
    underway, done, kept = set(), set(), []

    def visit(node):
        underway.add(node)
        for edge in chart.edges:
            if edge.start == node and edge.end not in underway:
                kept.append(edge)
                if edge.end not in done:
                    visit(edge.end)
        underway.discard(node)
        done.add(node)

    for node in chart.nodes:
        if node not in done:
            visit(node)
    return kept


def _draw_nodes(ax, chart, places, highlight):
    """Writes the labels, each in its shape, and gives back the shapes."""
    styles = {"box": "square,pad=0.5", "round": "round,pad=0.5,rounding_size=0.8", "diamond": _diamond}
    shapes = {}
    for name, node in chart.nodes.items():
        marked = name in highlight
        face, line = ("#fbe3c2", "#de8f05") if marked else ("#eaf3fa", "#0173b2")
        box = {"boxstyle": styles[node.shape], "facecolor": face, "edgecolor": line, "linewidth": 1.5}
        halo = [patheffects.withStroke(linewidth=4, foreground=face)]  # keeps the hatch off the letters
        box["hatch"] = "///" * marked
        text = _write(ax, _point(chart, places[name]), node.label, bbox=box, path_effects=halo)
        shapes[name] = text.get_bbox_patch()
    return shapes


def _draw_edge(ax, chart, edge, places, lane, shapes):
    """A straight arrow, or one around the outside, in a lane."""
    start, end = places[edge.start], places[edge.end]
    route = [start, end] if lane is None else [start, (lane, start[1]), (lane, end[1]), end]
    points = [_point(chart, place) for place in route]
    style = {"color": "#444444", "linewidth": 1.2}
    ax.plot(*zip(*points[:-1], strict=True), zorder=1, **style)  # below the shapes
    ends = {"patchA": shapes[edge.start] if lane is None else None, "patchB": shapes[edge.end]}
    style |= {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 1}
    arrow = ax.annotate("", points[-1], points[-2], arrowprops=style | ends)
    arrow.set_in_layout(False)  # its ends are known only when the labels are drawn
    if edge.label:
        (x, y), (to_x, to_y) = points[len(points) // 2 - 1 :][:2]
        box = {"facecolor": "white", "linewidth": 0, "pad": 1.5}
        _write(ax, ((x + to_x) / 2, (y + to_y) / 2), edge.label, bbox=box)


def _write(ax, place, text, **style):
    style |= {"ha": "center", "va": "center", "fontfamily": font_families(), "parse_math": False}
    return ax.text(*place, text, **style)


def _diamond(x, y, width, height, mutation_size):
    """The outline of a diamond about a text, as Matplotlib's box styles are called."""
    left, right = x - 0.3 * width - 4, x + 1.3 * width + 4
    bottom, top = y - 0.8 * height, y + 1.8 * height
    corners = [(left, y + height / 2), (x + width / 2, top), (right, y + height / 2), (x + width / 2, bottom)]
    return Path([*corners, corners[0]], closed=True)
