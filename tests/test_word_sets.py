"""The word sets written for this book: data/analogies.txt and data/word_similarity.tsv."""

from collections import Counter
from pathlib import Path

import pytest

from companion import WordTokenizer
from companion.data import docstrings

DATA = Path(__file__).resolve().parents[1] / "data"
ENOUGH = 20  # occurrences in the corpus


def analogies():
    """{relation: [(word, word)]}."""
    relations = {}
    for line in (DATA / "analogies.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(": "):
            pairs = relations.setdefault(line.removeprefix(": "), [])
        else:
            pairs.append(tuple(line.split(" ")))
    return relations


def similarities():
    """[(word, word, score)]."""
    rows = (DATA / "word_similarity.tsv").read_text(encoding="utf-8").splitlines()
    return [(one, other, float(score)) for one, other, score in (row.split("\t") for row in rows)]


@pytest.fixture(scope="module")
def counts():
    split = WordTokenizer.train(["a"]).split
    return Counter(word for docstring in docstrings() for word in split(docstring.text))


def test_analogies_have_many_relations_of_some_pairs_each():
    relations = analogies()
    assert len(relations) >= 8 and min(map(len, relations.values())) >= 8
    assert 140 <= sum(map(len, relations.values())) <= 200


def test_in_a_relation_each_word_stands_once_so_that_a_question_has_one_answer():
    for name, pairs in analogies().items():
        words = [word for pair in pairs for word in pair]
        assert all(len(pair) == 2 for pair in pairs) and len(words) == len(set(words)), name
        assert all(word.isascii() and word.isalpha() and word.islower() for word in words), name


def test_no_pair_is_judged_twice_and_scores_are_spread_over_the_scale():
    rows = similarities()
    assert 180 <= len(rows) <= 240
    assert len({frozenset(row[:2]) for row in rows}) == len(rows)
    assert all(one != other for one, other, _ in rows)
    scores = [score for *_, score in rows]
    assert all(0 <= score <= 10 for score in scores) and scores == sorted(scores, reverse=True)
    for low, high in ((0, 2.5), (2.5, 5), (5, 7.5), (7.5, 10.1)):
        assert 0.2 < sum(low <= score < high for score in scores) / len(scores) < 0.3


def test_no_word_stands_in_many_pairs():
    assert max(Counter(word for row in similarities() for word in row[:2]).values()) <= 5


def test_the_scores_follow_their_rules_where_the_sets_meet():
    """Opposites are not similar, though they occur alike; an abbreviation is the word itself."""
    relation = {frozenset(pair): name for name, pairs in analogies().items() for pair in pairs}
    met = {}
    for one, other, score in similarities():
        met.setdefault(relation.get(frozenset((one, other))), []).append(score)
    opposites = met["opposite qualities"] + met["opposite actions"] + met["negated adjective"]
    assert len(opposites) >= 8 and max(opposites) < 2.5
    assert len(met["abbreviation to word"]) >= 3 and min(met["abbreviation to word"]) > 9.5


def test_the_words_are_frequent_in_the_corpus(counts):
    sets = (
        {word for pairs in analogies().values() for pair in pairs for word in pair},
        {word for row in similarities() for word in row[:2]},
    )
    for words in sets:
        rare = sorted(word for word in words if counts[word] < ENOUGH)
        assert len(rare) <= 0.05 * len(words), rare
