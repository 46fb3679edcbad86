"""The sets that were written for this book, read from its folder data/."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

OPINIONS = ("negative", "positive")


class Opinion(NamedTuple):
    """A sentence, and whether it speaks well of its subject.

    label: "negative" or "positive". pair: the same for two sentences with opposite labels that a small edit
    parts; "" without such a partner. word: what carries the opinion, in lower case, a part of the text; ""
    where no single word does.
    """

    text: str
    label: str
    pair: str
    word: str


def read_sentiment(path: str | os.PathLike) -> list[Opinion]:
    """Reads sentences with an opinion: the book's own file, data/sentiment.tsv, or one like it.

    Args:
        path: A UTF-8 file of lines with four fields, parted by tabs: text, label, pair, word; the first line
            names them. pair and word may be empty.
    Returns:
        The sentences in the order of the file. `split(opinions, key=lambda o: o.pair or o.text)` keeps the
        two of a pair on one side.
    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no such sentence; the message names it.
    """
    opinions = []
    for number, row in table_rows(path, Opinion._fields, may_be_empty=("pair", "word")):
        opinion = Opinion(*row)
        if opinion.label not in OPINIONS:
            wanted = " or ".join(map(repr, OPINIONS))
            raise ValueError(f"{path}, line {number}: label {wanted} expected; found {opinion.label!r}.")
        if opinion.word not in opinion.text.lower():
            raise ValueError(
                f"{path}, line {number}: a word of the text expected; found word {opinion.word!r}."
            )
        opinions.append(opinion)
    return opinions


def table_rows(
    path: str | os.PathLike, names: Sequence[str], may_be_empty: Sequence[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and fields of a tab-separated file whose first line is `names`.

    Raises:
        ValueError: A line has not as many fields, an empty one that may not be, or is no UTF-8; or there is
            none below the names.
    """
    lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines() or [b""]
    for number, line in enumerate(lines, start=1):
        try:
            fields = line.decode().split("\t")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: UTF-8 expected; found {line[:60]!r}.") from error
        if number == 1 and fields != list(names):
            raise ValueError(f"{path}, line 1: the names {list(names)} expected; found {fields}.")
        if len(fields) != len(names):
            raise ValueError(f"{path}, line {number}: {len(names)} fields expected; found {fields}.")
        for name, field in zip(names, fields, strict=True):
            if not field.strip() and name not in may_be_empty:
                raise ValueError(f"{path}, line {number}: some {name} expected; found {field!r}.")
        if number > 1:
            yield number, fields
    if len(lines) == 1:
        raise ValueError(f"{path}: lines below the names expected; found none.")


def json_rows(path: str | os.PathLike, fields: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Yields the place ("file, line 3") and the object of each line of a file that is not blank.

    Raises:
        ValueError: A line is no JSON object, or lacks one of the fields.
    """
    lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # JSON may hold other ends of lines
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: a JSON object expected; found {line[:40]!r}.") from error
        if not isinstance(row, dict) or not set(fields) <= set(row):
            raise ValueError(f"{place}: an object with {', '.join(fields)} expected; found {line[:40]!r}.")
        yield place, row
