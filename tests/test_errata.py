"""The register of errata: data/errata/<section>.json, one list of entries per section of the article.

An entry is an object with these fields, all strings:

    id          "E21": the erratum's number; "L278": the line of the printed program that fails. Unique.
    section     "5.2": the sub-section of the article; an erratum that touches several sections stands in one
    lines       "204" or "225, 287, 330" or "46–74": lines of the article
    printed     what the article says, in English
    printed_zh  optional: the Chinese words themselves, a few
    right       what is right
    source      paper and section, or the documentation, or "executed: Keras 3.15"; no link that may rot
    chapter     "05_1_listing.ipynb#E21": the executed cell that shows it, by its id or its tag
    test        "tests/test_errata_05.py::test_e21_python_version": the test that proves it; more tests
                of the same file may begin with its number

A code erratum's test runs the article's own lines, asserts that they fail for the stated reason, then that
ours works; a mathematical one is a numeric proof. After editing a file: `python data/make_errata.py`.
"""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "data" / "errata").glob("*.json"))
ENTRIES = [(path.stem, entry) for path in FILES for entry in json.loads(path.read_text(encoding="utf-8"))]
REQUIRED = {"id", "section", "lines", "printed", "right", "source", "chapter", "test"}
PATTERNS = {
    "id": r"[EL]\d+[a-z]?",
    "section": r"\d(\.\d(\(\d\))?)?",
    "lines": r"\d+(–\d+)?(, \d+(–\d+)?)*",
    "chapter": r"\d\d_\w+\.ipynb#[\w-]+",
    "test": r"tests/test_\w+\.py::test_\w+",
}

each_erratum = pytest.mark.parametrize("section, erratum", ENTRIES, ids=[entry["id"] for _, entry in ENTRIES])


def test_ids_are_unique_and_none_is_missing():
    ids = [entry["id"] for _, entry in ENTRIES]
    assert len(ids) == len(set(ids))
    assert {f"E{number}" for number in range(1, 44)} <= set(ids)


@each_erratum
def test_fields(section, erratum):
    assert REQUIRED <= set(erratum) <= REQUIRED | {"printed_zh"}
    assert all(isinstance(value, str) and value.strip() == value and value for value in erratum.values())
    for field, pattern in PATTERNS.items():
        assert re.fullmatch(pattern, erratum[field]), f"{erratum['id']}: {field} = {erratum[field]!r}"
    assert erratum["section"].startswith(str(int(section)))


@each_erratum
def test_chapter_cell_exists_and_was_executed(section, erratum):
    notebook, cell_id = erratum["chapter"].split("#")
    cells = json.loads((ROOT / "chapters" / notebook).read_text(encoding="utf-8"))["cells"]
    named = [cell for cell in cells if cell_id == cell["id"] or cell_id in cell["metadata"].get("tags", [])]
    assert len(named) == 1, f"{erratum['id']}: {len(named)} cells called {cell_id} in {notebook}"
    assert named[0]["cell_type"] == "code" and named[0]["execution_count"]


@each_erratum
def test_test_exists(section, erratum):
    path, name = erratum["test"].split("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    function = next(
        (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None
    )
    assert function is not None, f"{erratum['id']}: no {erratum['test']}"
    names = {getattr(n, "attr", "") for n in ast.walk(function)} | {
        type(n).__name__ for n in ast.walk(function)
    }
    proves = names & {"Assert", "raises", "warns"} or any(name.startswith("assert_") for name in names)
    assert proves, f"{erratum['test']} asserts nothing"


@pytest.mark.parametrize("section", [path.stem for path in FILES])
def test_every_proof_belongs_to_an_erratum_of_its_section(section):
    source = (ROOT / "tests" / f"test_errata_{section}.py").read_text(encoding="utf-8")
    proven = {number.upper() for number in re.findall(r"^def test_([el]\d+[a-z]?)_", source, re.MULTILINE)}
    assert proven == {erratum["id"] for of, erratum in ENTRIES if of == section}


def test_errata_page_is_up_to_date():
    render = runpy.run_path(str(ROOT / "data" / "make_errata.py"))["render"]
    assert (ROOT / "ERRATA.md").read_text(encoding="utf-8") == render(), "run: python data/make_errata.py"
