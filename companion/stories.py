"""Short stories with questions about them, and how an answer is judged: exact match and F1."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from companion.written import json_rows

ARTICLES = {"a", "an", "the"}
# A space after a full stop that ends no initial and no title, or a quotation; in Chinese no space is needed.
SENTENCE_END = (
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!Mr\.)(?<!Mrs\.)(?<!Dr\.)\s+|(?<=[.!?][\"”])\s+"
    r"|(?<=[。！？])(?![。！？”’」』）])|(?<=[。！？][”’」』）])(?![。！？”’」』）])"
)
UNITS = {"en": r"[\w'’]+", "zh": r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", "python": r"[\w.]+|[^\w\s.]"}


class Question(NamedTuple):
    """A question about a story; answer is a piece of its text, or "" if the story does not tell."""

    question: str
    answer: str


class Story(NamedTuple):
    """A story in English ("en") or Chinese ("zh") and its questions."""

    id: str
    language: str
    title: str
    text: str
    questions: tuple[Question, ...]


def read_stories(path: str | os.PathLike) -> list[Story]:
    """Read stories, one JSON object a line.

    Args:
        path: A file like `data/stories.jsonl`.
    Returns:
        Stories in the order of the file.
    Raises:
        OSError: There is no such file.
        ValueError: A line is no story, or an answer does not occur in its text; the message names the line.
    """
    return [_story(place, row) for place, row in json_rows(path, Story._fields)]


def sentences(text: str) -> list[str]:
    """The sentences of a story, English or Chinese; a quotation that ends one stays with it.

    Args:
        text: Running text.
    Returns:
        Sentences without the space around them; each occurs in the text.
    """
    parts = re.split(SENTENCE_END, text)
    return [part.strip() for part in parts if part.strip()]


def answer_units(text: str, language: str = "en") -> list[str]:
    """What two answers are compared by.

    Args:
        text: An answer.
        language: "en": words in lower case, without articles and punctuation. "zh": characters, and words of
            other scripts. "python": the pieces of an expression as they are.
    Returns:
        The pieces, in order.
    Raises:
        ValueError: Another language.
    """
    if language not in UNITS:
        raise ValueError(f"language must be one of {', '.join(UNITS)}; received {language!r}.")
    if language == "python":
        return re.findall(UNITS[language], text)
    return [unit for unit in re.findall(UNITS[language], text.lower()) if unit not in ARTICLES]


def answer_match(expected: Sequence[str], predicted: Sequence[str], language: str = "en") -> float:
    """Share of answers equal to what was expected, but for what `answer_units` leaves out.

    Args:
        expected: N answers, "" where there is none.
        predicted: N answers, "" to refuse one.
        language: As for `answer_units`.
    Returns:
        float in [0, 1].
    Raises:
        ValueError: The two differ in number or are empty; another language.
        TypeError: One of the two is a string.
    Source: Rajpurkar et al. 2016, section 6.1 (exact match).
    """
    pairs = _pairs(expected, predicted, language)
    return sum(one == other for one, other in pairs) / len(pairs)


def answer_f1(expected: Sequence[str], predicted: Sequence[str], language: str = "en") -> float:
    """Mean over the questions of the F1 of the pieces that answer and expected answer share.

    Args:
        expected, predicted, language: As for `answer_match`.
    Returns:
        float in [0, 1]; where nothing was expected or given, 1 if both are empty, else 0.
    Raises:
        ValueError: As `answer_match`.
    Source: Rajpurkar et al. 2016, section 6.1; Rajpurkar et al. 2018, section 5, for no answer.
    """
    pairs = _pairs(expected, predicted, language)
    return sum(_f1(*pair) for pair in pairs) / len(pairs)


def _f1(one: list[str], other: list[str]) -> float:
    if not one or not other:
        return float(one == other)
    return 2 * (Counter(one) & Counter(other)).total() / (len(one) + len(other))


def _pairs(expected: Sequence[str], predicted: Sequence[str], language: str) -> list[tuple]:
    if isinstance(expected, str) or isinstance(predicted, str):
        raise TypeError("expected and predicted must be collections of strings; received str.")
    if len(expected) != len(predicted) or not len(expected):
        counts = f"{len(expected)} and {len(predicted)}"
        raise ValueError(f"expected and predicted must be equally many, at least 1; received {counts}.")
    both = zip(expected, predicted, strict=True)
    return [(answer_units(one, language), answer_units(other, language)) for one, other in both]


def _story(place: str, row: dict) -> Story:
    try:
        questions = tuple(Question(**question) for question in row["questions"])
    except TypeError as error:
        wanted = "questions with question and answer"
        raise ValueError(f"{place}: {wanted} expected; found {row['questions']!r:.60}.") from error
    for question in questions:
        if not isinstance(question.answer, str) or question.answer not in row["text"]:
            raise ValueError(f"{place}: an answer must occur in the text; received {question.answer!r}.")
    return Story(**{name: row[name] for name in Story._fields} | {"questions": questions})
