"""The sets written for this book, and their reader."""

import difflib
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from companion.splits import near_duplicates, split
from companion.written import Opinion, read_sentiment

DATA = Path(__file__).resolve().parents[1] / "data"
HEADER = "text\tlabel\tpair\tword\n"


@pytest.fixture(scope="module")
def opinions():
    return read_sentiment(DATA / "sentiment.tsv")


def words_of(text):
    return re.findall(r"[\w']+", text.lower())


def pairs_of(opinions):
    pairs = defaultdict(list)
    for number, opinion in enumerate(opinions):
        if opinion.pair:
            pairs[opinion.pair].append((number, opinion))
    return list(pairs.values())


def group_of(opinion):
    return opinion.pair or opinion.text


def test_there_are_a_thousand_sentences_half_of_each_opinion(opinions):
    assert 1000 <= len(opinions) <= 1500
    positive = sum(opinion.label == "positive" for opinion in opinions)
    assert abs(positive / len(opinions) - 0.5) < 0.02
    single = [opinion for opinion in opinions if not opinion.pair]
    assert abs(sum(opinion.label == "positive" for opinion in single) / len(single) - 0.5) < 0.02


def test_sentences_are_short_and_end_as_sentences(opinions):
    for opinion in opinions:
        assert 4 <= len(opinion.text.split()) <= 25, opinion.text
        assert re.fullmatch(r"[A-Z][ -~]+[.!?]", opinion.text) and "  " not in opinion.text, opinion.text


def test_half_of_the_sentences_stand_in_pairs_that_a_small_edit_turns(opinions):
    pairs = pairs_of(opinions)
    assert 2 * len(pairs) >= len(opinions) / 2
    for pair in pairs:
        assert len(pair) == 2 and pair[1][0] == pair[0][0] + 1, pair  # two lines, one below the other
        (_, one), (_, other) = pair
        assert {one.label, other.label} == {"positive", "negative"}, one
        shared = difflib.SequenceMatcher(None, words_of(one.text), words_of(other.text), autojunk=False)
        assert shared.ratio() >= 0.4, (one.text, other.text)


def test_each_word_stands_in_four_contexts_with_both_opinions(opinions):
    labels = defaultdict(Counter)
    for opinion in opinions:
        labels[opinion.word][opinion.label] += 1
    named = [count for word, count in labels.items() if word]
    assert 150 <= len(named) <= 250
    assert min(count.total() for count in named) >= 4
    assert min(min(count["positive"], count["negative"]) for count in named) >= 1
    assert labels[""].total() >= 100  # where the event tells


def test_no_two_sentences_are_equal_and_none_is_made_from_a_template(opinions):
    """Outside a pair no two sentences share five words in a row, nor are they near-duplicates."""
    assert len({" ".join(words_of(opinion.text)) for opinion in opinions}) == len(opinions)
    groups = defaultdict(set)
    for opinion in opinions:
        words = words_of(opinion.text)
        for start in range(len(words) - 4):
            groups[tuple(words[start : start + 5])].add(group_of(opinion))
    assert not [run for run, found in groups.items() if len(found) > 1]
    firsts = near_duplicates([opinion.text for opinion in opinions])
    for opinion, first in zip(opinions, firsts, strict=True):
        assert group_of(opinion) == group_of(opinions[first]), (opinion.text, opinions[first].text)


def test_a_split_by_pair_leaves_no_pair_on_two_sides(opinions):
    for salt in "abc":
        sides = split(opinions, key=group_of, salt=salt)
        groups = [{group_of(opinion) for opinion in side} for side in sides]
        assert len(set.union(*groups)) == sum(map(len, groups))
        assert sum(map(len, sides)) == len(opinions) and min(map(len, sides)) > 80


def test_no_length_and_no_little_word_gives_the_opinion_away(opinions):
    """What a reader could guess by without reading is worth little: at most 58 of 100."""
    positive = [opinion.label == "positive" for opinion in opinions]
    size = [len(words_of(opinion.text)) for opinion in opinions]
    negated = [bool(re.search(r"\b(not?|never|nothing|nobody|hardly)\b", o.text.lower())) for o in opinions]
    guesses = [negated] + [[words <= most for words in size] for most in range(5, 20)]
    for guess in guesses:
        right = sum(a == b for a, b in zip(guess, positive, strict=True)) / len(opinions)
        assert 0.42 < right < 0.58


def test_a_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "some.tsv"
    lines = (
        HEADER + "A good day.\tpositive\t1\tgood\r\nNo good day.\tnegative\t1\tgood\nRain.\tnegative\t\t\n"
    )
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert read_sentiment(path) == [
        Opinion("A good day.", "positive", "1", "good"),
        Opinion("No good day.", "negative", "1", "good"),
        Opinion("Rain.", "negative", "", ""),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", r"some\.tsv, line 1: the names \['text', 'label', 'pair', 'word'\] expected; found \[''\]\."),
        ("text\tlabel\nA\tpositive\n", r"line 1: the names .* expected; found \['text', 'label'\]\."),
        (HEADER, r"some\.tsv: lines below the names expected; found none\."),
        (HEADER + "A day.\tpositive\n", r"line 2: 4 fields expected; found \['A day\.', 'positive'\]\."),
        (HEADER + "A day.\tpositive\t\t\n\n", r"line 3: 4 fields expected; found \[''\]\."),
        (HEADER + " \tpositive\t\t\n", r"line 2: some text expected; found ' '\."),
        (HEADER + "A day.\t\t\t\n", r"line 2: some label expected; found ''\."),
        (HEADER + "A day.\tgood\t\t\n", r"line 2: label 'negative' or 'positive' expected; found 'good'\."),
        (HEADER + "A day.\tpositive\t\tgood\n", r"line 2: a word of the text expected; found word 'good'\."),
        (HEADER + "Caf\udce9.\tpositive\t\t\n", r"line 2: UTF-8 expected; found b'Caf"),
    ],
)
def test_a_bad_line_is_named(tmp_path, lines, message):
    path = tmp_path / "some.tsv"
    path.write_bytes(lines.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read_sentiment(path)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read_sentiment(tmp_path / "none.tsv")
