"""Sets written for uses that need care: messages to a shop, exercises, clinical notes, clauses."""

import os
from typing import NamedTuple

from companion.written import json_rows, table_rows

IDENTIFIERS = ("NAME", "DATE", "PLACE", "PHONE", "ID")  # say who it is: to be removed
CLINICAL = ("DRUG", "DOSE", "FREQUENCY", "CONDITION")  # say what it is


class Message(NamedTuple):
    """What a customer writes, in which language ("en" or "zh"), and what it is about."""

    text: str
    language: str
    intent: str


class Exercise(NamedTuple):
    """A short exercise, its answer, how many operations that takes, and so its level, 1 to 4."""

    text: str
    answer: str
    steps: int
    level: int


class Clause(NamedTuple):
    """A clause, what it should warn its reader of ("ordinary": nothing), and the kind of contract."""

    text: str
    label: str
    domain: str


class Entity(NamedTuple):
    """A piece of a note: its label, the characters themselves, and the place of the first of them."""

    label: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """The place after the last character."""
        return self.start + len(self.text)


class Note(NamedTuple):
    """An invented clinical note and its entities, in the order of the text."""

    id: str
    text: str
    entities: tuple[Entity, ...]


def read_messages(path: str | os.PathLike) -> list[Message]:
    """Reads data/intents.tsv.

    Args:
        path: A UTF-8 table with tabs whose first line names the columns text, language, intent.
    Raises:
        ValueError: A line has other fields; the message names it.
    """
    return [Message(*row) for _, row in table_rows(path, Message._fields)]


def read_exercises(path: str | os.PathLike) -> list[Exercise]:
    """Reads data/exercises.tsv.

    Args:
        path: A UTF-8 table with tabs whose first line names the columns text, answer, steps, level.
    Raises:
        ValueError: A line is no such exercise; the message names it.
    """
    exercises = []
    for number, (text, answer, steps, level) in table_rows(path, Exercise._fields):
        if not steps.isdecimal() or level not in ("1", "2", "3", "4"):
            found = f"{steps!r} and {level!r}"
            raise ValueError(f"{path}, line {number}: steps and a level 1 to 4 expected; found {found}.")
        exercises.append(Exercise(text, answer, int(steps), int(level)))
    return exercises


def read_clauses(path: str | os.PathLike) -> list[Clause]:
    """Reads data/clauses.tsv.

    Args:
        path: A UTF-8 table with tabs whose first line names the columns text, label, domain.
    Raises:
        ValueError: A line has other fields; the message names it.
    """
    return [Clause(*row) for _, row in table_rows(path, Clause._fields)]


def read_notes(path: str | os.PathLike) -> list[Note]:
    """Reads data/notes.jsonl.

    Args:
        path: UTF-8 lines {"id", "text", "entities": [{"label", "text", "start"}]}.
    Raises:
        ValueError: A line is no such object; an entity is not in its note at its start, or two of them
            overlap or are out of order. The message names the line.
    """
    notes = []
    for place, record in json_rows(path, Note._fields):
        if not isinstance(record["entities"], list) or not all(map(_is_entity, record["entities"])):
            found = f"{record['entities']!r:.60}"
            raise ValueError(f"{place}: entities of label, text, start expected; found {found}.")
        entities = tuple(Entity(**entity) for entity in record["entities"])
        free = 0
        for entity in entities:
            if entity.start < free or record["text"][entity.start : entity.end] != entity.text:
                raise ValueError(
                    f"{place}: each entity must stand in its note where it says, after the one "
                    f"before; received {entity} in {record['id']}."
                )
            free = entity.end
        notes.append(Note(record["id"], record["text"], entities))
    return notes


def _is_entity(entity):
    kinds = {"label": str, "text": str, "start": int}
    return isinstance(entity, dict) and {name: type(value) for name, value in entity.items()} == kinds
