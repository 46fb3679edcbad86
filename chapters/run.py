"""Execute the chapters in order, each in a fresh kernel, and write their outputs back.

python chapters/run.py              all chapters
python chapters/run.py --jobs 2     the same, two at a time
python chapters/run.py 05           the chapters whose name begins with 05
python chapters/run.py solutions    the solutions of the exercises
"""

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

HERE = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LOG_LINE = re.compile(r"^(WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d:).*\n", re.MULTILINE)
COLOR = re.compile(r"\x1b\[[\d;]*m")
STEP_TIME = re.compile(r" - \d+s - \d+[mu]?s/\w+")  # in the lines of Keras's verbose=2


class ThisPython(AsyncKernelManager):
    """Starts the Python that runs this file, whatever kernels Jupyter finds elsewhere."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


class Progress:
    """Prints the cell at work on a terminal, and each cell that took seconds anywhere."""

    def __init__(self, name: str, num_cells: int):
        self.name = name
        self.num_cells = num_cells
        self.index = 0

    def start(self, cell, cell_index):
        self.index, self.began = cell_index, time.monotonic()
        if sys.stdout.isatty():
            say(f"{self.name}, cell {cell_index + 1} of {self.num_cells}", end="\r")

    def finish(self, cell, cell_index, **reply):
        seconds = time.monotonic() - self.began
        if seconds >= 2:
            first_line = cell.source.strip().partition("\n")[0]
            where = f"{self.name}, cell {cell_index + 1:2d} of {self.num_cells}"
            say(f"{where} {seconds:6.1f} s  {first_line[:50]}")


def say(text: str, end: str = "\n") -> None:
    """Print an indented line; on a terminal, over the cell at work."""
    print("    " + (text.ljust(95) if sys.stdout.isatty() else text), end=end, flush=True)


def minutes(since: float) -> str:
    passed = round(time.monotonic() - since)
    return f"{passed // 60}:{passed % 60:02d}"


def find(prefixes: list[str]) -> list[Path]:
    """The notebooks whose path below chapters/ begins with one of the prefixes; without one, all chapters."""
    if not prefixes:
        return sorted(HERE.glob("*.ipynb"))
    paths = sorted(path for path in HERE.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    return [path for path in paths if path.relative_to(HERE).as_posix().startswith(tuple(prefixes))]


def portable(text: str) -> str:
    """The text without this machine's folders: of the environment, of the book, of IPython's cells."""
    for folder in (sys.prefix, str(HERE.parent)):
        for name in (folder, folder.replace(str(Path.home()), "~")):
            text = text.replace(name + os.sep, "")
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}[/\\]tmp\w+", "<temporary>", text)
    return re.sub(r"(?<![^\s\"'])[^\s\"']*ipykernel_\d+[/\\]\d+\.py", "<cell>", text)


def as_shown(text: str) -> str:
    """What a terminal shows of a stream: backspaces and returns obeyed, so a progress bar is one line."""
    text = COLOR.sub("", text)
    while (shorter := re.sub("[^\n\x08]\x08", "", text)) != text:
        text = shorter
    return re.sub("[^\n]*\r(?!\n|$)", "", text.replace("\x08", ""))


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs without empty ones, neighbors of one stream made one."""
    kept = []
    for output in outputs:
        if kept and output.get("name") and output.get("name") == kept[-1].get("name"):
            kept[-1].text += output.text
        elif output.get("text") != "":
            kept.append(output)
    return kept


def tidy(cell: nbformat.NotebookNode) -> None:
    """Join a cell's streams and take out what changes from run to run."""
    outputs = joined(cell.outputs)
    for output in outputs:
        if output.output_type == "stream":
            output.text = LOG_LINE.sub("", output.text)
    outputs = joined(outputs)  # a log line stood between two parts of one stream
    for output in outputs:
        if output.output_type == "stream":
            output.text = portable(STEP_TIME.sub("", LOG_LINE.sub("", as_shown(output.text))))
        elif output.output_type == "error":
            output.evalue = portable(output.evalue)
            output.traceback = [portable(line) for line in output.traceback]
        else:
            texts = {"text/plain", "text/html", "text/markdown"} & set(output.data)
            output.data.update({kind: portable(output.data[kind]) for kind in texts})
    cell.outputs = [output for output in outputs if output.get("text") != ""]
    cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in cell.metadata if key == "tags"})


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Replace the notebook as a whole, or not at all."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tidy(cell)
    notebook.metadata = nbformat.from_dict(METADATA)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8")
    os.replace(temporary, path)


async def execute(path: Path, timeout: int, keep: bool) -> str | None:
    """Run one notebook from a fresh kernel in its own folder; return what went wrong, if anything did."""
    notebook = nbformat.read(path, as_version=4)
    progress = Progress(path.stem, len(notebook.cells))
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisPython,
        timeout=timeout,
        record_timing=False,
        store_widget_state=False,
        on_cell_start=progress.start,
        on_cell_executed=progress.finish,
    )
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        try:
            await client.async_execute(cwd=str(path.parent), stderr=log)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            where = f"{path.relative_to(HERE)}, cell {progress.index + 1} of {progress.num_cells}"
            return f"{where}\n\n{reason(error, notebook.cells[progress.index].source, log)}"
    if keep:
        write(notebook, path)
    return None


def reason(error: Exception, source: str, log: IO[str]) -> str:
    """The cell and its traceback, in color on a terminal only; the last words of a kernel that died."""
    if isinstance(error, DeadKernelError):
        log.seek(0)
        return f"{source}\n\n{error}\n{log.read()[-2000:]}"
    return str(error) if sys.stdout.isatty() else COLOR.sub("", str(error))


async def run(paths: list[Path], jobs: int, timeout: int, keep: bool) -> int:
    """Execute the notebooks, some at a time; begin no other once one has failed. Returns the exit status."""
    start = time.monotonic()
    waiting, passed, problems = iter(enumerate(paths, start=1)), [], []

    async def work():
        while not problems and (turn := next(waiting, None)):
            number, path = turn
            began = time.monotonic()
            print(f"[{number}/{len(paths)}] {path.relative_to(HERE)}", flush=True)
            problem = await execute(path, timeout, keep)
            (problems.append(problem) if problem else passed.append(path))
            say(f"{path.stem} {'failed' if problem else 'done'} after {minutes(began)}")

    await asyncio.gather(*[work() for _ in range(jobs)])
    for problem in problems:
        print(f"\n{problem}\n")
    left = len(paths) - len(passed) - len(problems)
    print(f"{len(passed)} passed, {len(problems)} failed, {left} not run, in {minutes(start)}")
    return 1 if problems else 0


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("prefix", nargs="*", help="beginning of a notebook's path below chapters/")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for a cell (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="execute only, write nothing")
    arguments = parser.parse_args()
    paths = find(arguments.prefix)
    if arguments.jobs < 1:
        parser.error(f"--jobs must be 1 or more; received {arguments.jobs}")
    if not paths:
        names = "".join(f"\n  {path.relative_to(HERE)}" for path in find([""]))
        parser.error(f"no notebook begins with {' or '.join(arguments.prefix)!r}; there are:{names}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with tempfile.TemporaryDirectory() as profile:
        os.environ["IPYTHONDIR"] = profile  # the reader's own start-up files stay out of the book
        return asyncio.run(run(paths, arguments.jobs, arguments.timeout, not arguments.check))


if __name__ == "__main__":
    sys.exit(main())
