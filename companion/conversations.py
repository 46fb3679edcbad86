"""Dialogues and preferences: what people and an assistant say to each other, and which answer is better."""

import os
from typing import NamedTuple

from companion.written import json_rows

SPEAKERS = ("user", "assistant")
REASONS = ("concise", "honest", "polite", "grounded", "complete")


class Turn(NamedTuple):
    """What one side says at a time; speaker: "user" or "assistant"."""

    speaker: str
    text: str


class Dialogue(NamedTuple):
    """A conversation, the user first, the two taking turns; language: "en" or "zh"."""

    id: str
    language: str
    topic: str
    turns: tuple[Turn, ...]


class Preference(NamedTuple):
    """Two answers to a prompt; the chosen one is better in one respect, the reason."""

    prompt: str
    chosen: str
    rejected: str
    reason: str


def read_dialogues(path: str | os.PathLike) -> list[Dialogue]:
    """Reads dialogues: the book's own file, data/dialogues.jsonl, or one like it.

    Args:
        path: A UTF-8 file with one JSON object a line: id, language, topic, turns of speaker and text.
    Returns:
        The dialogues in the order of the file.
    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no such dialogue; the message names it.
    """
    dialogues = []
    for place, row in json_rows(path, Dialogue._fields):
        if not isinstance(row["turns"], list) or not all(map(_is_turn, row["turns"])):
            raise ValueError(f"{place}: turns of speaker and text expected; found {row['turns']!r:.60}.")
        turns = tuple(Turn(turn["speaker"], turn["text"]) for turn in row["turns"])
        expected = [SPEAKERS[i % 2] for i in range(len(turns))]
        if len(turns) < 2 or [turn.speaker for turn in turns] != expected:
            found = ", ".join(str(turn.speaker) for turn in turns)
            raise ValueError(f"{place}: user and assistant in turn expected; found {found}.")
        dialogues.append(Dialogue(row["id"], row["language"], row["topic"], turns))
    return dialogues


def _is_turn(turn):
    text = turn.get("text") if isinstance(turn, dict) else None
    return isinstance(text, str) and bool(text.strip()) and "speaker" in turn


def read_preferences(path: str | os.PathLike) -> list[Preference]:
    """Reads pairs of a better and a worse answer: data/preferences.jsonl, or a file like it.

    Args:
        path: A UTF-8 file with one JSON object a line: prompt, chosen, rejected, reason.
    Returns:
        The pairs in the order of the file.
    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no such pair; the message names it.
    """
    preferences = []
    for place, row in json_rows(path, Preference._fields):
        preference = Preference(*(row[name] for name in Preference._fields))
        if preference.reason not in REASONS:
            raise ValueError(f"{place}: one of {', '.join(REASONS)} expected; found {preference.reason!r}.")
        preferences.append(preference)
    return preferences


def exchanges(dialogue: Dialogue) -> list[tuple[tuple[Turn, ...], str]]:
    """Each reply of the assistant with all that was said before it: (history, reply)."""
    turns = dialogue.turns
    return [(turns[:i], turn.text) for i, turn in enumerate(turns) if turn.speaker == "assistant"]
