"""The chapters as they are committed, and the solutions of their exercises, executed."""

import base64
import io
import re
import runpy
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "chapters"
CHAPTERS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
# The article's headings; a chapter keeps each Chinese title beside its own English one.
SECTIONS = {
    "1": "背景介绍",
    "2": "核心概念与联系",
    "2.1": "核心概念",
    "2.2": "整体架构",
    "2.3": "Mermaid 流程图",
    "3": "核心算法原理 & 具体操作步骤",
    "3.1": "算法原理概述",
    "3.2": "算法步骤详解",
    "3.3": "算法优缺点",
    "3.4": "算法应用领域",
    "4": "数学模型和公式 & 详细讲解 & 举例说明",
    "4.1": "数学模型构建",
    "4.2": "公式推导过程",
    "4.3": "案例分析与讲解",
    "5": "项目实践：代码实例和详细解释说明",
    "5.1": "开发环境搭建",
    "5.2": "源代码详细实现",
    "5.3": "代码解读与分析",
    "5.4": "运行结果展示",
    "6": "实际应用场景",
    "6.1": "自然语言处理（NLP）",
    "6.2": "生成式人工智能",
    "6.3": "推荐系统",
    "6.4": "未来应用展望",
    "7": "工具和资源推荐",
    "7.1": "学习资源推荐",
    "7.2": "开发工具推荐",
    "7.3": "相关论文推荐",
    "8": "总结：未来发展趋势与挑战",
    "8.1": "研究成果总结",
    "8.2": "未来发展趋势",
    "8.3": "面临的挑战",
    "8.4": "研究展望",
    "9": "附录：常见问题与解答",
}
tidy = runpy.run_path(str(FOLDER / "run.py"))["tidy"]
PRESENT = sorted({str(int(path.name[:2])) for path in CHAPTERS})
WRITTEN = [number for number in SECTIONS if number.partition(".")[0] in PRESENT]

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
each_solution = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
each_section = pytest.mark.parametrize("number", WRITTEN)


@cache
def cells(path):
    return nbformat.read(path, 4).cells


def outputs(path):
    """The outputs of a notebook, each with its cell."""
    return [(cell, output) for cell in cells(path) if cell.cell_type == "code" for output in cell.outputs]


def figures(path):
    pictures = [
        output.data["image/png"] for _, output in outputs(path) if "image/png" in output.get("data", {})
    ]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L")) for data in pictures]


def has_heading(cell, number):
    """Whether the cell holds the heading of this section of the article."""
    pattern = rf"^#+ .*(?<![\d.]){re.escape(number)}(?![\d]|\.\d).*{re.escape(SECTIONS[number])}"
    return cell.cell_type == "markdown" and re.search(pattern, cell.source, re.MULTILINE)


@each_section
def test_every_section_of_the_article_has_its_heading_and_runs_something(number):
    chapter = [path for path in CHAPTERS if path.name.startswith(f"{int(number.partition('.')[0]):02d}_")]
    book = [cell for path in chapter for cell in cells(path)]
    at = [index for index, cell in enumerate(book) if has_heading(cell, number)]
    assert at, f"no heading of chapter {number[0]} has {number} and {SECTIONS[number]}"
    later = [n for n in SECTIONS if n != number and not n.startswith(f"{number}.")]
    ends = [
        index for index, cell in enumerate(book) if index > at[0] and any(has_heading(cell, n) for n in later)
    ]
    section = book[at[0] : ends[0] if ends else None]
    assert any(cell.cell_type == "code" and cell.outputs for cell in section), (
        f"{number} shows nothing that ran"
    )


@each_chapter
def test_errors_are_shown_only_where_they_are_meant(path):
    failed = {id(cell): cell for cell, output in outputs(path) if output.output_type == "error"}
    meant = {id(cell): cell for cell in cells(path) if "raises-exception" in cell.metadata.get("tags", [])}
    assert failed.keys() == meant.keys(), [cell.source for key, cell in {**failed, **meant}.items()]


@each_chapter
def test_figures_show_something(path):
    assert figures(path), "a chapter shows at least one figure"
    for figure in figures(path):
        assert min(figure.shape) >= 100 and figure.std() > 5, f"a blank figure of {figure.shape}"


@each_chapter
def test_no_character_is_missing_from_a_figure(path):
    streams = [output.text for _, output in outputs(path) if output.output_type == "stream"]
    assert not [text for text in streams if "missing from font" in text or "findfont" in text]


@each_chapter
def test_a_chapter_sets_its_seed_and_links_to_what_exists(path):
    code = "\n".join(cell.source for cell in cells(path) if cell.cell_type == "code")
    assert "set_random_seed(" in code
    prose = "\n".join(cell.source for cell in cells(path) if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(((?!https?:|#|attachment:)[^)#\s]+)", prose):
        assert (FOLDER / target).exists(), f"{path.name} points at {target}, which does not exist"


@each_chapter
def test_outputs_are_as_make_chapters_leaves_them(path):
    """No log lines, colors, times or folders; not a stream in pieces."""
    for cell in deepcopy(cells(path)):
        if cell.cell_type == "code":
            committed = deepcopy(cell.outputs)
            tidy(cell)
            assert cell.outputs == committed, cell.source


@each_chapter
def test_exercises_have_solutions(path):
    texts = [cell.source for cell in cells(path) if cell.cell_type == "markdown"]
    exercises = any(re.search("^#+ .*Exercises", text, re.MULTILINE) for text in texts)
    assert not exercises or FOLDER / "solutions" / path.name in SOLUTIONS
    assert not exercises or any(f"(solutions/{path.name})" in text for text in texts)


@each_solution
def test_solutions_run_from_a_fresh_kernel(path):
    command = [sys.executable, FOLDER / "run.py", "--check", f"solutions/{path.name}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
