"""Section 1 of the article: its structure, as its own headings show it (data/errata/01.json)."""

import json
import re
from collections import Counter
from pathlib import Path

CHAPTER = Path(__file__).resolve().parents[1] / "chapters" / "01_background.ipynb"
# The article's numbered headings: line, level, number as printed.
HEADINGS = """
7 2 1. | 26 3 2. | 30 4 2.1. | 42 4 2.2. | 63 4 2.3. | 79 3 3. | 81 4 3.1 | 87 4 3.2 | 101 4 3.3 | 112 4 3.4
123 3 4. | 127 4 4.1 | 155 4 4.2 | 177 4 4.3 | 195 3 5. | 199 4 5.1 | 223 4 5.2 | 285 4 5.3 | 310 4 5.4
332 3 6. | 336 4 6.1 | 346 4 6.2 | 354 4 6.3 | 360 4 6.4 | 374 3 7. | 378 4 7.1 | 392 4 7.2 | 406 4 7.3
418 3 8. | 420 4 8.1 | 424 4 8.2 | 434 4 8.3 | 444 4 8.4 | 458 3 9.
"""
ROAD_MAP = [1, 2, 3, 4, 5, 6, 7, 8]  # lines 15 to 22
# Where a formula softmax(Q K^T / sqrt(d_k)) V stands, and what is to the left of its sign of equality.
FORMULAS = {139: "attention", 145: "cross_attention", 161: "attention", 170: "cross_attention"}
FOUR_STEPS = {96: "数据准备", 97: "模型初始化", 98: "微调训练", 99: "评估与优化"}
AGAIN = {150: "数据准备", 151: "模型初始化", 152: "微调训练", 153: "评估与优化"}
AREAS = ["自然语言处理", "生成式人工智能", "推荐系统", "搜索引擎"]  # of 3.4
SECTION_6 = ["自然语言处理（NLP）", "生成式人工智能", "推荐系统", "未来应用展望"]
# How often a subject is named in sections 1 to 7, and in 8.
NAMED = {"编码器": (31, 0), "解码器": (24, 0), "词向量": (31, 0), "注意力": (29, 0)}
NAMED |= {"公式": (16, 0), "代码": (11, 0), "案例": (3, 0), "T5": (0, 1)}


def headings():
    """(line, level, number as printed) of each heading, in order."""
    found = [part.split() for line in HEADINGS.split("\n") for part in line.split("|") if part.strip()]
    return [(int(line), int(level), number) for line, level, number in found]


def section_at(line):
    return [number for start, _, number in headings() if start <= line][-1].rstrip(".")


def chapter_text():
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def test_e20_sections_of_one_rank_have_headings_of_two():
    """By their levels 2 to 9 would be parts of 1; by their numbers they are its equals."""
    levels = {number: level for _, level, number in headings() if re.fullmatch(r"\d\.", number)}
    assert list(levels) == [f"{n}." for n in range(1, 10)]
    assert levels["1."] == 2 and {levels[f"{n}."] for n in range(2, 10)} == {3}
    deeper = {level for _, level, number in headings() if re.match(r"\d\.\d", number)}
    assert deeper == {4}


def test_e20_numbers_end_in_a_dot_in_section_2_alone():
    dotted = Counter((number[0], number.endswith(".")) for _, _, number in headings() if len(number) > 2)
    assert dotted["2", True] == 3 and {section for section, dot in dotted if dot} == {"2"}
    assert {section for section, dot in dotted if not dot} == set("345678")


def test_e20_the_road_map_forgets_the_last_section():
    sections = {int(number[0]) for _, _, number in headings()}
    assert sections - set(ROAD_MAP) == {9}
    road = re.findall(r"^\| *(\d)", chapter_text(), re.MULTILINE)
    assert {int(number) for number in road} == sections, "the chapter's own road map names all nine"


def test_e20_section_8_does_not_look_back():
    """What sections 1 to 7 are about is not named in 8; what 8 names was not there before."""
    subjects = [word for word, (before, _) in NAMED.items() if before]
    assert len(subjects) == 7 and all(NAMED[word][1] == 0 for word in subjects)
    assert NAMED["T5"][0] == 0 < NAMED["T5"][1]


def test_e20_steps_and_formula_are_printed_again():
    assert list(FOUR_STEPS.values()) == list(AGAIN.values())
    assert {section_at(line) for line in FOUR_STEPS} == {"3.2"}
    assert {section_at(line) for line in AGAIN} == {"4.1"}
    assert Counter(section_at(line) for line in FORMULAS) == {"4.1": 2, "4.2": 2}
    assert Counter(FORMULAS.values()) == {"attention": 2, "cross_attention": 2}


def test_e20_search_has_no_section_of_its_own():
    missing = [area for area in AREAS if not any(area in title for title in SECTION_6)]
    assert missing == ["搜索引擎"] and len(AREAS) == len(SECTION_6)
