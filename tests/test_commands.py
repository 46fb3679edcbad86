"""The commands: what make lists and refuses, how the chapters are executed."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
MAKE = shutil.which("make")
needs_make = pytest.mark.skipif(MAKE is None, reason="make is not installed")

RECORDS = """\
import os, sys, warnings
from pathlib import Path
Path("trace.txt").write_text(f"{sys.executable}\\n{os.getcwd()}")
print("0 of 2", end="\\r")
print("2 of 2")
print("I0000 00:00:1700000000.000001     123 port.cc:153] a line of a log", file=sys.stderr)
warnings.warn("careful")
print(os.getcwd())"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A book of two chapters, the second broken in its third cell, beside a copy of the executor."""
    folder = tmp_path_factory.mktemp("book") / "chapters"
    (folder / "solutions").mkdir(parents=True)
    shutil.copy(ROOT / "chapters" / "run.py", folder)
    good = new_notebook(cells=[new_markdown_cell("# One"), new_code_cell(RECORDS), new_code_cell("1 + 1")])
    good.metadata["widgets"] = {"state": {}}
    good.metadata["kernelspec"] = {"name": "elsewhere", "display_name": "Another kernel"}
    good.cells[1].metadata.update(tags=["setup"], execution={"shell.execute_reply": "2020-01-01"})
    cells = [new_code_cell("value = 3"), new_markdown_cell("text"), new_code_cell("print(value)\nvalue / 0")]
    for name, notebook in {
        "01_one": good,
        "02_two": new_notebook(cells=cells),
        "solutions/01_one": new_notebook(cells=[new_code_cell("6 * 7")]),
    }.items():
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


def execute(book, *arguments):
    """Run the executor; return its exit status and everything it printed."""
    command = [sys.executable, book / "run.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=book.parents[1], timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def executed(book):
    """The book after it was executed as far as it goes: (folder, exit status, what was printed)."""
    return book, *execute(book)


def test_chapters_stop_at_the_first_error_and_say_where(executed):
    book, status, printed = executed
    assert status == 1
    assert "02_two.ipynb, cell 3 of 3" in printed
    assert "print(value)\nvalue / 0" in printed and "ZeroDivisionError: division by zero" in printed
    assert "1 passed, 1 failed, 0 not run" in printed
    assert all(not cell.get("outputs") for cell in nbformat.read(book / "02_two.ipynb", 4).cells)
    assert nbformat.read(book / "01_one.ipynb", 4).cells[2].outputs[0].data["text/plain"] == "2"


def test_a_chapter_runs_in_its_folder_on_this_python(executed):
    python, folder = (executed[0] / "trace.txt").read_text().splitlines()
    assert (python, Path(folder)) == (sys.executable, executed[0])


def test_written_outputs_hold_nothing_that_changes_from_run_to_run(executed):
    book = executed[0]
    first = (book / "01_one.ipynb").read_text(encoding="utf-8")
    status, printed = execute(book, "01")
    assert status == 0 and "1 passed, 0 failed, 0 not run" in printed
    assert (book / "01_one.ipynb").read_text(encoding="utf-8") == first
    notebook = nbformat.reads(first, 4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[1].metadata == {"tags": ["setup"]}
    stdout, stderr = notebook.cells[1].outputs
    assert stdout.text == "2 of 2\nchapters\n"
    assert stderr.text == '<cell>:7: UserWarning: careful\n  warnings.warn("careful")\n'
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]


def test_streams_are_joined_across_log_lines_without_colors_and_times():
    parts = [
        ("stdout", "70/70 - 50s - 47ms/step - loss: 0.25\n1 of 2\r"),
        ("stderr", "E0000 00:00:1795480351.317180   20446 util.cc:131] one"),
        ("stderr", "DNN supports\n"),
        ("stdout", "2 of 2\n7/7 - 1s - 900us/step\n"),
        ("stderr", "\x1b[1mcareful\x1b[0m\nI0000 00:00:1795480351.317180   20446 util.cc:131] more\n"),
    ]
    cell = new_code_cell(outputs=[new_output("stream", name=name, text=text) for name, text in parts])
    runpy.run_path(str(ROOT / "chapters" / "run.py"))["tidy"](cell)
    streams = [(output.name, output.text) for output in cell.outputs]
    assert streams == [("stdout", "70/70 - loss: 0.25\n2 of 2\n7/7\n"), ("stderr", "careful\n")]


def test_check_writes_nothing(book):
    before = (book / "solutions" / "01_one.ipynb").read_bytes()
    assert execute(book, "--check", "solutions")[0] == 0
    assert (book / "solutions" / "01_one.ipynb").read_bytes() == before
    assert not list(book.rglob("*.tmp"))


def test_chapters_run_two_at_a_time_and_the_first_error_lets_none_begin(tmp_path):
    """Each of the first two waits until the other has begun; then one fails."""
    shutil.copy(ROOT / "chapters" / "run.py", tmp_path)
    for own, other, end in (("04", "05", ""), ("05", "04", "1 / 0"), ("06", "04", "")):
        meet = f"import pathlib, time\npathlib.Path('{own}').touch()\n"
        meet += f"while not pathlib.Path('{other}').exists(): time.sleep(0.1)\n"
        late = "time.sleep(3)" if own == "04" else end
        nbformat.write(new_notebook(cells=[new_code_cell(meet + late)]), tmp_path / f"{own}_meet.ipynb")
    command = [sys.executable, tmp_path / "run.py", "--jobs", "2", "--timeout", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and not (tmp_path / "06").exists(), done.stdout
    assert "05_meet.ipynb, cell 1 of 1" in done.stdout and "1 passed, 1 failed, 1 not run" in done.stdout
    assert nbformat.read(tmp_path / "04_meet.ipynb", 4).cells[0].execution_count == 1


def test_a_cell_that_hangs_is_given_up(book):
    nbformat.write(new_notebook(cells=[new_code_cell("while True: pass")]), book / "03_three.ipynb")
    status, printed = execute(book, "03", "--timeout", "2")
    assert status == 1
    assert "03_three.ipynb, cell 1 of 1" in printed and "after 2 seconds" in printed


def test_an_unknown_chapter_is_refused_with_those_there_are(book):
    status, printed = execute(book, "07")
    assert status == 2
    assert "no notebook begins with '07'; there are:\n  01_one.ipynb\n  02_two.ipynb" in printed


@needs_make
def test_help_lists_every_target():
    listed = subprocess.run([MAKE, "--no-print-directory"], cwd=ROOT, capture_output=True, text=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.findall(r"^  make (\S+) +\S", listed, re.MULTILINE) == phony[1].split()


@needs_make
def test_setup_refuses_an_old_python_and_names_the_ones_that_do(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "cat", "cksum", "cut", "grep", "rm", "touch"):
        (tools / name).symlink_to(shutil.which(name))
    old = tools / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.18\nexit 1\n')
    old.chmod(0o755)
    environment = {**os.environ, "PATH": str(tools)}
    command = [MAKE, "setup", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "companion needs Python 3.11, 3.12 or 3.13; python3 is Python 3.8.18." in done.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_an_environment_that_is_up_to_date_is_left_alone(tmp_path):
    """What the image relies on: offline, nothing is installed again."""
    command = [MAKE, "--no-print-directory", "--dry-run", "lint", f"VENV={tmp_path}"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert "pip --disable-pip-version-check install" in printed
    (tmp_path / "bin").mkdir()
    for stamp in ["bin/python", *re.findall(r"touch \S*/(\.(?:book|test)-\d+)", printed)]:
        (tmp_path / stamp).touch()
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert printed.splitlines() == [f"{tmp_path}/bin/ruff check", f"{tmp_path}/bin/ruff format --check"]
