"""What word vectors are scored by: pairs that people judged for likeness, and analogies; files of both."""

import csv
import itertools
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class SimilarityScore(NamedTuple):
    """Spearman's rank correlation in [-1, 1] over so many pairs; missing: pairs with a word without a
    vector."""

    correlation: float
    pairs: int
    missing: int


class AnalogyScore(NamedTuple):
    """How many questions were answered exactly, of how many; missing ones hold a word without a vector."""

    right: int
    questions: int
    missing: int

    @property
    def accuracy(self) -> float:
        """The share of right answers; NaN if no question was asked."""
        return self.right / self.questions if self.questions else float("nan")


def solved(unit: np.ndarray, questions: np.ndarray, at_once: int = 512) -> int:
    """Counts the analogies whose last word is the best answer.

    Args:
        unit: (N, D) vectors of length 1.
        questions: (n, 4) rows of unit: a, b, c, and d, which should be nearest to b - a + c.
        at_once: So many questions share one product of (at_once, N) numbers.
    """
    right = 0
    for start in range(0, len(questions), at_once):
        a, b, c, d = questions[start : start + at_once].T
        scores = (unit[b] - unit[a] + unit[c]) @ unit.T
        for asked in (a, b, c):
            scores[np.arange(len(asked)), asked] = -np.inf
        right += int(np.sum(scores.argmax(axis=1) == d))
    return right


def read_similarities(path: str | os.PathLike, lowercase: bool = False) -> list[tuple[str, str, float]]:
    """Reads pairs of words with a score: WordSim-353, SimLex-999, MEN, or the book's own file.

    Args:
        path: A text file with one pair in a line, its fields parted by tabs, commas or spaces. A first line
            without a number names the fields; the score is then the one named "Human (mean)" or "SimLex999",
            else the third.
        lowercase: Fold capitals.
    Returns:
        (word, word, score).
    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no such pair; the message names it.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = [line.rstrip("\r\n") for line in file]
    delimiter = next((sign for sign in "\t," if lines and sign in lines[0]), " ")
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    rows = list(csv.reader(lines, delimiter=delimiter, quoting=quoting))
    column, pairs = 2, []
    for number, row in enumerate(rows, start=1):
        try:
            a, b, score = row[0], row[1], float(row[column])
        except (IndexError, ValueError) as error:
            if number == 1 and len(row) > 2 and "" not in row:
                column = next((i for i, name in enumerate(row) if name in ("Human (mean)", "SimLex999")), 2)
                continue
            if not row:
                continue
            raise ValueError(
                f"{path}, line {number}: two words and a score expected; found {row}."
            ) from error
        pairs.append((a.lower(), b.lower(), score) if lowercase else (a, b, score))
    return pairs


def read_analogies(path: str | os.PathLike, lowercase: bool = False) -> dict[str, list[tuple[str, ...]]]:
    """Reads analogies by section: the file of Google's questions, or the book's own.

    Args:
        path: A text file. ": name" begins a section; a line of four words a b c d is a question, "a is to b
            as c is to d"; a line of two words is a pair, and every two pairs of a section, in both orders,
            make a question.
        lowercase: Fold capitals.
    Returns:
        {section: quadruples}.
    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is none of these; the message names it.
    """
    sections, pairs = {}, {}
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            words = tuple((line.lower() if lowercase else line).split())
            if words[:1] == (":",) and len(words) > 1:
                name = " ".join(words[1:])
                sections.setdefault(name, []), pairs.setdefault(name, [])
            elif sections and len(words) in (2, 4):
                (pairs if len(words) == 2 else sections)[name].append(words)
            elif words:
                wanted = "two words, four words" if sections else '": section"'
                raise ValueError(f"{path}, line {number}: {wanted} expected; found {line.strip()[:60]!r}.")
    return {name: sections[name] + list(_crossed(pairs[name])) for name in sections}


def _crossed(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str, str, str]]:
    return ((*first, *second) for first, second in itertools.permutations(pairs, 2))
