"""A reader's own texts with labels: read from a file, and split so that copies stay together."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from companion.splits import near_duplicates
from companion.written import json_rows

SUFFIXES = ".csv", ".tsv", ".jsonl"


def read_labeled(
    path: str | os.PathLike, text_column: str = "text", label_column: str = "label"
) -> tuple[list[str], list[str]]:
    """Reads texts and their labels.

    Args:
        path: A UTF-8 file, by its suffix: .csv (fields with commas, quotes or line breaks in quotes) or .tsv
            (parted by tabs, quotes being characters like others), whose first line names the columns; or
            .jsonl, an object a line. Blank lines are skipped.
        text_column, label_column: Names of the columns or fields. A label may be a whole number, 1 for "1".
    Returns:
        N texts and N labels.
    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The suffix is another, a column is missing, or a line is not as it should be; the message
            names it.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    _check_utf8(path)
    read = _json_pairs if path.suffix.lower() == ".jsonl" else _table_pairs
    texts, labels = [], []
    for place, text, label in read(path, text_column, label_column):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{place}: a text in {text_column!r} expected; found {text!r}.")
        if not isinstance(label, str | int) or not str(label).strip():
            raise ValueError(f"{place}: a label in {label_column!r} expected; found {label!r}.")
        texts.append(text)
        labels.append(str(label).strip())
    if not texts:
        raise ValueError(f"{path}: texts expected; found none.")
    return texts, labels


def grouped_split(
    texts: Sequence[str], labels: Sequence[str], fraction: float, seed: int = 0
) -> tuple[tuple[list, list], tuple[list, list]]:
    """Takes a share of every class apart; texts that nearly repeat one another stay on one side.

    Args:
        texts, labels: N texts, N labels.
        fraction: Share of the second side, in (0, 1): of each class at least one text, and no more than the
            share where copies come in large groups.
        seed: Another seed gives another split.
    Returns:
        (texts, labels) of the first side and of the second, in the given order.
    Raises:
        ValueError: fraction is out of range; or a class has too few texts that differ for two sides.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1; received {fraction}.")
    groups: dict[int, list[int]] = {}
    for row, first in enumerate(near_duplicates(texts)):
        groups.setdefault(first, []).append(row)
    room = {label: max(1, round(fraction * count)) for label, count in Counter(labels).items()}
    left, held_out = Counter(labels), set()
    for first in np.random.default_rng(seed).permutation(sorted(groups)).tolist():
        counts = Counter(labels[row] for row in groups[first])
        if all(count <= room[label] and count < left[label] for label, count in counts.items()):
            held_out.update(groups[first])
            for label, count in counts.items():
                room[label] -= count
                left[label] -= count
    _check_sides(labels, held_out)
    sides = [[row for row in range(len(texts)) if (row in held_out) == side] for side in (False, True)]
    return tuple(([texts[row] for row in rows], [labels[row] for row in rows]) for rows in sides)


def _check_sides(labels, held_out):
    there = {labels[row] for row in held_out}
    for label in sorted(set(labels)):
        if label not in there:
            raise ValueError(
                f"labels must each have texts that differ, to part them; {label!r} has too few or nearly the "
                f"same ones: add to its {labels.count(label)}."
            )


def _check_utf8(path):
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        found = content[error.start : error.start + 10]
        raise ValueError(f"{path}, line {number}: UTF-8 expected; found {found!r}.") from error


def _table_pairs(path, *columns) -> Iterator[tuple]:
    style = {"strict": True}
    if path.suffix.lower() == ".tsv":
        style |= {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, **style)
        try:
            names = next(rows, [])
            if absent := [name for name in columns if name not in names]:
                raise ValueError(f"{path}, line 1: the column {absent[0]!r} expected; found {names}.")
            places = [names.index(name) for name in columns]
            for row in filter(None, rows):
                place = f"{path}, line {rows.line_num}"
                if len(row) != len(names):
                    raise ValueError(f"{place}: {len(names)} fields expected; found {len(row)}.")
                yield place, *(row[i] for i in places)
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}.") from error


def _json_pairs(path, *columns) -> Iterator[tuple]:
    for place, row in json_rows(path, columns):
        yield place, *(row[name] for name in columns)
