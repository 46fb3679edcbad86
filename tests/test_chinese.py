"""The Chinese sentences written for this book."""

import re
from collections import Counter
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path

import pytest

from companion.splits import near_duplicates

FILE = Path(__file__).resolve().parents[1] / "data" / "chinese.txt"


@pytest.fixture(scope="module")
def sentences():
    return FILE.read_text(encoding="utf-8").splitlines()


def bigrams(sentence):
    return {sentence[i : i + 2] for i in range(len(sentence) - 1)}


def test_there_are_250_of_8_to_40_characters_each_once(sentences):
    assert len(sentences) == len(set(sentences)) == 250
    assert not [sentence for sentence in sentences if not 8 <= len(sentence) <= 40]


def test_they_are_written_in_chinese_characters_with_few_names_in_latin_ones(sentences):
    for sentence in sentences:
        assert re.fullmatch(r"[\u4e00-\u9fff，。、：；？！“”《》A-Za-z0-9 ]+", sentence), sentence
        assert re.search(r"[。？！]$", sentence) and not re.search(r"[。？！].", sentence), sentence
        chinese = re.findall(r"[\u4e00-\u9fff]", sentence)
        assert len(chinese) >= 0.6 * len(sentence), sentence
    latin = [sentence for sentence in sentences if re.search(r"[A-Za-z]", sentence)]
    assert len(latin) <= 10


def test_none_is_nearly_another(sentences):
    clusters = near_duplicates(sentences, threshold=0.4)
    assert clusters == list(range(len(sentences)))
    for one, other in combinations(sentences, 2):
        shared = len(bigrams(one) & bigrams(other)) / min(len(one), len(other))
        if shared > 0.3:  # cheap first
            assert SequenceMatcher(None, one, other, autojunk=False).ratio() < 0.6, (one, other)


def test_they_follow_no_template(sentences):
    for length in (2, 3, 4):
        starts = Counter(sentence[:length] for sentence in sentences)
        ends = Counter(sentence[-length - 1 :] for sentence in sentences)
        assert max(starts.values()) <= 4 and max(ends.values()) <= 4, length
    lengths = Counter(len(sentence) for sentence in sentences)
    assert len(lengths) >= 15 and max(lengths.values()) <= 50


def test_they_say_many_different_things(sentences):
    characters = Counter(character for sentence in sentences for character in sentence)
    assert len(characters) > 900
    # no word but grammar is everywhere
    pairs = Counter(pair for sentence in sentences for pair in bigrams(sentence))
    assert max(count for pair, count in pairs.items() if re.fullmatch(r"[\u4e00-\u9fff]+", pair)) <= 20
