"""Section 2 of the article: its two flow charts, as printed, read as graphs (data/errata/02.json)."""

import re

import pytest

from companion.flowchart import dead_ends, parse_flowchart

CHINESE = """graph TD
    A[文本输入] --> B[词向量转换]
    B --> C{是否预训练？}
    C -->|是| D[编码器]
    C -->|否| E[预训练]
    D --> F[解码器]
    F --> G[输出文本]
"""
ENGLISH = """graph TD
    A[Text Input] --> B[Word Embedding]
    B --> C[Pre-training?]
    C -->|Yes| D[Encoder]
    C -->|No| E[Pre-training]
    D --> F[Decoder]
    F --> G[Output Text]
"""
LEGEND = """1. **文本输入（A）**
2. **词向量转换（B）**
3. **是否预训练？（C）**
4. **编码器（D）**
5. **解码器（F）**
6. **输出文本（G）**
"""
OURS = """graph TD
    corpus --> pre["pre-training"] --> fine["fine-tuning"] --> decoder
    prompt --> embedding --> decoder --> next["next token"] --> done{"end?"}
    done -->|no| embedding
    done -->|yes| text
"""
both = pytest.mark.parametrize("source", [CHINESE, ENGLISH], ids=["2.2", "2.3"])


def on_a_cycle(chart):
    """The nodes that a path leaves and comes back to: those with an edge to a node that reaches them."""
    return {edge.start for edge in chart.edges if edge.end not in dead_ends(chart, edge.start)}


@both
def test_e19_from_pre_training_nothing_leads_on(source):
    """E is no output and no arrow leaves it; all other nodes reach the output. One arrow would be enough."""
    chart = parse_flowchart(source)
    ends = chart.nodes.keys() - {edge.start for edge in chart.edges}
    assert ends == {"E", "G"} and dead_ends(chart, "G") == ["E"]
    assert re.search("预训练|Pre-training", chart.nodes["E"].label)
    assert dead_ends(parse_flowchart(source + "E --> D"), "G") == []
    assert dead_ends(parse_flowchart(OURS), "text") == []


def test_e19_the_legend_leaves_it_out():
    chart, explained = parse_flowchart(CHINESE), re.findall(r"\*\*(.+)（(\w)）\*\*", LEGEND)
    assert len(chart.nodes) == 7 and len(explained) == 6
    assert chart.nodes.keys() - {node for _, node in explained} == {"E"}
    assert all(chart.nodes[node].label == label for label, node in explained)


@both
def test_e19_pre_training_comes_after_the_vectors_that_it_trains(source):
    """Printed, each text passes A and B before E; ours reaches pre-training from the corpus alone."""
    chart, ours = parse_flowchart(source), parse_flowchart(OURS)
    assert {"A", "B"} <= chart.nodes.keys() - set(dead_ends(chart, "E")) - {"E"}
    assert ours.nodes.keys() - set(dead_ends(ours, "pre")) == {"corpus", "pre"}
    assert "pre" not in dead_ends(ours, "fine") and "fine" not in dead_ends(ours, "decoder")
    assert not re.search("微调|[Ff]ine", source)


@both
def test_e19_there_is_no_loop_to_write_a_second_token(source):
    assert on_a_cycle(parse_flowchart(source)) == set()
    assert on_a_cycle(parse_flowchart(OURS)) == {"embedding", "decoder", "next", "done"}


def test_e19_the_charts_are_one_graph_and_special_characters_no_reason():
    """Both can be read; the first has no bracket or comma in a label; only the diamond was lost."""
    chinese, english = parse_flowchart(CHINESE), parse_flowchart(ENGLISH)
    assert not re.search("[()（）,，]", "".join(node.label for node in chinese.nodes.values()))
    arrows = [
        [(edge.start, edge.end, bool(edge.label)) for edge in chart.edges] for chart in (chinese, english)
    ]
    assert arrows[0] == arrows[1] and list(chinese.nodes) == list(english.nodes)
    shapes = {name: (node.shape, english.nodes[name].shape) for name, node in chinese.nodes.items()}
    assert {name: pair for name, pair in shapes.items() if pair[0] != pair[1]} == {"C": ("diamond", "box")}
