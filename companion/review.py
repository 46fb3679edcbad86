"""A table for people to read or fill in: written, and checked when it comes back."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def filled(text: str) -> str:
    """A value that must not be blank."""
    if not text.strip():
        raise ValueError("a value")
    return text


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:  # NaN neither
        raise ValueError("a number from 0 to 1")
    return number


def one_of(*names: str) -> Callable[[str], str]:
    """A check for values of which only these are known."""

    def known(text: str) -> str:
        if text not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text

    return known


def write_review(rows: Iterable[Sequence[Any]], columns: Iterable[str]) -> str:
    """The text of a CSV.

    Args:
        rows: Of as many values as there are columns.
        columns: Their names, the first line.
    Returns:
        The text; fields with commas, quotes or line breaks stand in quotes. A value that begins with = + - or
        @ is written as it is, and a spreadsheet takes it for a formula: import such a column as text.
    Raises:
        ValueError: A row has more or fewer values.
    """
    file, columns = io.StringIO(), list(columns)
    writer = csv.writer(file)
    writer.writerow(columns)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise ValueError(f"row {number}: {len(columns)} values expected; received {len(row)}.")
        writer.writerow(row)
    return file.getvalue()


def read_review(table: str, columns: Mapping[str, Callable[[str], Any]]) -> list[dict[str, Any]]:
    """Reads a CSV that people may have filled in, and checks every value.

    Args:
        table: The text of a CSV whose first line names the columns.
        columns: For each column, in order, what makes a value of its text: `filled`, `share`, `one_of(...)`,
            `str`, or a function of your own whose ValueError says what it expects. No two rows have the
            same value in a column called "id".
    Returns:
        A dictionary for each row.
    Raises:
        ValueError: The columns are others, a row has more or fewer values, a value is refused, or an id
            comes twice; the message names the row, 1 being that below the names. Blank rows are skipped.
    """
    try:  # a spreadsheet may put a mark before the first name, and blank lines
        lines = list(csv.reader(io.StringIO(table.removeprefix("\ufeff"), newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"table must be a CSV: {error}.") from None
    if not lines or lines[0] != list(columns):
        raise ValueError(f"the columns must be {list(columns)}; received {lines[0] if lines else []}.")
    rows, seen = [], set()
    for number, values in enumerate(lines[1:], start=1):
        if not any(map(str.strip, values)):
            continue
        row = _row(number, values, columns)
        if "id" in row and row["id"] in seen:
            raise ValueError(f"row {number}: each id must come once; {row['id']!r} comes again.")
        seen.add(row.get("id"))
        rows.append(row)
    return rows


def _row(number, values, columns):
    if len(values) != len(columns):
        raise ValueError(f"row {number}: {len(columns)} values expected; received {len(values)}.")
    row = {}
    for (name, check), value in zip(columns.items(), values, strict=True):
        try:
            row[name] = check(value)
        except ValueError as error:
            raise ValueError(f"row {number}, {name}: {error} expected; received {value!r}.") from None
    return row
