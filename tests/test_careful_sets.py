"""The sets of section 6.4, written for this book, and their readers."""

import contextlib
import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from companion.careful_sets import (
    CLINICAL,
    IDENTIFIERS,
    read_clauses,
    read_exercises,
    read_messages,
    read_notes,
)
from companion.splits import near_duplicates, normalize

DATA = Path(__file__).resolve().parents[1] / "data"
MESSAGES = read_messages(DATA / "intents.tsv")
EXERCISES = read_exercises(DATA / "exercises.tsv")
NOTES = read_notes(DATA / "notes.jsonl")
CLAUSES = read_clauses(DATA / "clauses.tsv")
ALL = {"messages": MESSAGES, "exercises": EXERCISES, "notes": NOTES, "clauses": CLAUSES}
# A calculation alone: numbers, operators, parentheses, and the words around them.
CALCULATION = r"(?:Compute |What is |What whole number is )?([\d(][\d\s+*/%().-]*[\d)])(?:\.|\?| = \?)"


def prose(text):
    """The text without what `near_duplicates` cannot tell apart: to it, numbers and operators are alike."""
    return re.sub(r"What does `.+` print\?|" + CALCULATION, "", text)


@pytest.mark.parametrize("name", ALL)
def test_no_text_comes_twice_or_nearly_so(name):
    texts = [record.text for record in ALL[name]]
    assert all(text == text.strip() and "\t" not in text for text in texts)
    assert len({text.casefold() for text in texts}) == len(texts)
    texts = [text for text in map(prose, texts) if len(re.findall(r"[\u4e00-\u9fff]|\w+", text)) >= 4]
    twins = [(texts[first], texts[i]) for i, first in enumerate(near_duplicates(texts)) if first != i]
    assert not twins and len(texts) > 0.5 * len(ALL[name])


def test_messages_are_balanced_in_intent_and_language():
    count = Counter((message.intent, message.language) for message in MESSAGES)
    assert len(MESSAGES) == 360 and len(count) == 18 and set(count.values()) == {20}
    for message in MESSAGES:
        chinese = bool(re.search(r"[\u4e00-\u9fff]", message.text))
        assert chinese == (message.language == "zh"), message
        assert chinese or message.text.isascii(), message


def test_a_message_and_its_neighbor_in_the_other_language_share_no_number():
    numbers = {language: Counter() for language in ("en", "zh")}
    for message in MESSAGES:
        numbers[message.language].update(re.findall(r"\d{2,}", message.text))
    assert not set(numbers["en"]) & set(numbers["zh"])


def test_levels_follow_from_steps_and_are_balanced():
    assert len(EXERCISES) == 160
    assert Counter(exercise.level for exercise in EXERCISES) == dict.fromkeys((1, 2, 3, 4), 40)
    for exercise in EXERCISES:
        limits = {1: (1, 1), 2: (2, 2), 3: (3, 4), 4: (5, 12)}[exercise.level]
        assert limits[0] <= exercise.steps <= limits[1], exercise


def test_length_tells_little_of_the_level():
    lengths = [len(exercise.text) for exercise in EXERCISES]
    assert abs(spearmanr(lengths, [exercise.level for exercise in EXERCISES]).statistic) < 0.25
    for level in (1, 2, 3, 4):
        within = [len(exercise.text) for exercise in EXERCISES if exercise.level == level]
        assert np.quantile(within, 0.25) < 75 and np.quantile(within, 0.9) > 150


def test_programs_print_their_answer():
    programs = [(match[1], e.answer) for e in EXERCISES if (match := re.search("`(.+)`", e.text))]
    assert len(programs) >= 45
    for program, answer in programs:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(program, {})
        assert printed.getvalue() == answer + "\n", program


def test_calculations_give_their_answer_in_as_many_steps_as_operators():
    found = [(match[1], e) for e in EXERCISES if (match := re.fullmatch(CALCULATION, e.text))]
    assert len(found) >= 25
    for calculation, exercise in found:
        assert eval(calculation) == float(exercise.answer), exercise
        assert len(re.findall(r"\*\*|//|[-+*/%]", calculation)) == exercise.steps, exercise


@pytest.mark.parametrize(
    ("answer", "beginning"),
    [
        ((8 * 12 - 10) * 2 // 4 - 8 * 12 // 4, "Eight rows of 12 vines"),
        (3 * 15 * 4 + 2 * 20 * 4 - 60 - 25, "A bakery makes 15 loaves"),
        (5 * 22 - 3 * 10, "A school buys 5 ladders"),
        (30 + 45 + 2 * 15, "Of 90 books"),
        (300 // 20 * 3, "The workshop is open"),
        (0.9 * (3 * 40 + 20) / 2, "Three nights at 40"),
        (7 * 24 / 2, "The lighthouse keeper"),
        (5 * 60 + 20 - 45, "The ship leaves 5 hours"),
        (2 * 60 + 90 - 30, "A train runs 2 hours"),
        (3 * 4 + 2 * 7 + 5 - 10, "You buy 3 pens"),
        (1000 - 750, "The mill had a thousand"),
        (18, "Two brothers have 30 marbles"),  # 18 + 12
        (72 // 4 + 2, "Three trays of 24"),
    ],
)
def test_stories_have_the_answer_that_another_way_gives(answer, beginning):
    (exercise,) = [exercise for exercise in EXERCISES if exercise.text.startswith(beginning)]
    assert float(exercise.answer) == pytest.approx(answer)


def test_notes_have_entities_of_each_kind_where_they_say():
    assert len(NOTES) == len({note.id for note in NOTES}) == 80
    count = Counter(entity.label for note in NOTES for entity in note.entities)
    assert set(count) == {*IDENTIFIERS, *CLINICAL} and min(count.values()) >= 12
    for note in NOTES:
        assert 2 <= len(re.findall(r"[a-z0-9)\"][.?!](?: [A-Z]|$)", note.text)) <= 6, note.text
        for entity in note.entities:
            assert note.text[entity.start : entity.end] == entity.text == entity.text.strip()
            before, after = note.text[: entity.start][-1:], note.text[entity.end :][:1]
            assert not before.isalnum() and not after.isalnum(), entity


def test_no_name_and_no_number_of_a_patient_is_in_two_notes():
    for label in ("NAME", "PHONE", "ID"):
        texts = [entity.text for note in NOTES for entity in note.entities if entity.label == label]
        assert len(texts) == len(set(texts)), label


def test_telephone_numbers_are_of_ranges_kept_for_fiction():
    for note in NOTES:
        for entity in note.entities:
            if entity.label == "PHONE":
                digits = re.sub(r"\D", "", entity.text)
                assert re.search(r"^55501\d\d$|^(44|0)207946\d{4}$|^01632960\d{3}$|^01134960\d{3}$", digits)


def test_clauses_are_balanced_over_labels_and_each_label_is_in_many_domains():
    count = Counter(clause.label for clause in CLAUSES)
    assert len(CLAUSES) == 240 and count.pop("ordinary") == 90 and set(count.values()) == {30}
    domains = {clause.domain for clause in CLAUSES}
    assert len(domains) == 10
    for label in count:
        assert {clause.domain for clause in CLAUSES if clause.label == label} == domains


def test_ordinary_clauses_use_the_words_of_the_others():
    """Near misses: "renewed only if both sign" is ordinary."""
    ordinary = " ".join(normalize(clause.text) for clause in CLAUSES if clause.label == "ordinary")
    for word in ("renew", "extend", "altered", "changed", "liable", "share", "disclosed", "fee", "early"):
        assert word in ordinary


@pytest.mark.parametrize("read", [read_messages, read_exercises, read_clauses])
def test_a_table_with_other_columns_is_refused(tmp_path, read):
    path = tmp_path / "some.tsv"
    path.write_text("text\tmood\na\tb\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"some.tsv, line 1: .*'text'.* expected; found \['text', 'mood'\]"):
        read(path)


@pytest.mark.parametrize(("steps", "level"), [("two", "2"), ("2", "5"), ("2", "II"), ("-1", "1")])
def test_an_exercise_without_steps_or_level_is_refused(tmp_path, steps, level):
    path = tmp_path / "some.tsv"
    path.write_text(f"text\tanswer\tsteps\tlevel\na\tb\t{steps}\t{level}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"line 2: steps and a level 1 to 4 .* '{steps}' and '{level}'"):
        read_exercises(path)


@pytest.mark.parametrize("starts", [(1, 4), (0, 2), (4, 0)])
def test_a_misplaced_entity_is_refused(tmp_path, starts):
    path = tmp_path / "some.jsonl"
    entities = [{"label": "NAME", "text": "Ann", "start": starts[0]}]
    entities += [{"label": "DRUG", "text": "nn a" if starts[1] else "Ann", "start": starts[1]}]
    path.write_text(json.dumps({"id": "n1", "text": "Ann ate", "entities": entities}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"some.jsonl, line 1: each entity must stand in its note .* in n1"):
        read_notes(path)


def test_a_line_that_is_no_note_is_named(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"id": "n1", "text": "Ann ate", "entities": []}\n{"id": "n2"}', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: an object with id, text, entities expected"):
        read_notes(path)


@pytest.mark.parametrize(
    "entity",
    [
        "Ann",
        {"label": "NAME", "text": "Ann"},
        {"label": None, "text": "Ann", "start": 0},
        {"start": "x", "text": "", "label": ""},
    ],
)
def test_an_entity_without_its_place_is_named(tmp_path, entity):
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps({"id": "n1", "text": "Ann ate", "entities": [entity]}), encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: entities of label, text, start expected; found"):
        read_notes(path)


def test_length_tells_little_of_what_a_clause_is():
    lengths, flagged = zip(
        *((len(clause.text), clause.label != "ordinary") for clause in CLAUSES), strict=True
    )
    lengths, flagged = np.array(lengths), np.array(flagged)
    longer = np.sign(lengths[flagged][:, None] - lengths[~flagged])  # of each pair
    assert abs(longer.mean()) < 0.25  # 1: every flagged clause is longer than every ordinary one
