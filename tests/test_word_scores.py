"""Files of word pairs and of analogies: those of the literature, the book's own, and damaged ones."""

import math
from pathlib import Path

import numpy as np
import pytest

from companion import AnalogyScore, SimilarityScore, read_analogies, read_similarities
from companion.word_scores import solved

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture
def put(tmp_path):
    """Write text to a file; returns its path."""

    def written(text):
        path = tmp_path / "file"
        path.write_bytes(text.encode())
        return path

    return written


# Pairs


@pytest.mark.parametrize(
    "text",
    [
        "tiger\tcat\t7.35\nbook\tPaper\t7\n",
        "tiger cat 7.35\nbook Paper 7",
        "Word 1,Word 2,Human (mean)\r\ntiger,cat,7.35\r\nbook,Paper,7\r\n",
        "Word 1,Word 2,Human (mean),1,2\ntiger,cat,7.35,9,9\nbook,Paper,7,8,6\n",
        "one\tother\tscore\ntiger\tcat\t7.35\n\nbook\tPaper\t7.00\n",
        "word1\tword2\tPOS\tSimLex999\tconc(w1)\ntiger\tcat\tN\t7.35\t1.0\nbook\tPaper\tN\t7\t2.0\n",
        "Word 1,Word 2,Human (mean)\n" + 'tiger,"cat",7.35\n"book",Paper,7\n',
    ],
    ids=["tabs", "spaces", "WordSim", "raters", "header", "SimLex", "quotes"],
)
def test_files_of_pairs(put, text):
    assert read_similarities(put(text)) == [("tiger", "cat", 7.35), ("book", "Paper", 7.0)]


def test_capitals_of_pairs_are_folded_on_demand(put):
    path = put("Tiger\tÉcole\t1\n北京\tB\t2.5\n")
    assert read_similarities(path) == [("Tiger", "École", 1.0), ("北京", "B", 2.5)]
    assert read_similarities(path, lowercase=True) == [("tiger", "école", 1.0), ("北京", "b", 2.5)]


def test_the_first_pair_is_no_header(put):
    assert len(read_similarities(put("a\tb\t1\nc\td\t2\n"))) == 2
    assert read_similarities(put("a\tb\tscore\n")) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\tb\t1\nc\td\n", r"file, line 2: two words and a score expected; found \['c', 'd'\]\."),
        ("a\tb\t1\nc\td\tx\n", r"line 2: two words and a score expected; found \['c', 'd', 'x'\]"),
        ("a\tb\t1\n\nc d 1\n", r"line 3: two words and a score expected; found \['c d 1'\]"),
        ("a,b\n", r"line 1: two words and a score expected; found \['a', 'b'\]"),
        ("one,other,score\na,b,high\n", r"line 2: two words and a score expected; .*'high'"),
        ("word1\tword2\tPOS\tSimLex999\na\tb\tN\n", r"line 2: two words and a score expected; .*'N'"),
    ],
)
def test_a_line_that_is_no_pair_is_named(put, text, message):
    with pytest.raises(ValueError, match=message):
        read_similarities(put(text))


# Analogies


def test_questions_as_google_has_them(put):
    path = put(
        ": capital-common\nAthens Greece Baghdad Iraq\nAthens Greece Bern Switzerland\n: gram1\na b c d"
    )
    questions = read_analogies(path)
    assert list(questions) == ["capital-common", "gram1"] and questions["gram1"] == [("a", "b", "c", "d")]
    assert questions["capital-common"][1] == ("Athens", "Greece", "Bern", "Switzerland")


def test_every_two_pairs_of_a_section_make_a_question_in_both_orders(put):
    questions = read_analogies(put(": big and small\na A\nb B\nc C\n\n: two words\nd\tD\ne  E\n"))
    assert sorted(questions["big and small"]) == sorted(
        [("a", "A", "b", "B"), ("b", "B", "a", "A"), ("a", "A", "c", "C"), ("c", "C", "a", "A"),
         ("b", "B", "c", "C"), ("c", "C", "b", "B")]
    )  # fmt: skip
    assert questions["two words"] == [("d", "D", "e", "E"), ("e", "E", "d", "D")]


def test_both_kinds_of_lines_may_stand_in_one_section(put):
    questions = read_analogies(put(": x\na b\np q r s\nc d\n: empty\n: alone\ny z\n"))
    assert questions == {
        "x": [("p", "q", "r", "s"), ("a", "b", "c", "d"), ("c", "d", "a", "b")],
        "empty": [],
        "alone": [],
    }


def test_a_section_may_be_taken_up_again(put):
    questions = read_analogies(put(": x\na b\n: y\nc d\n: x\ne f\n"))
    assert questions == {"x": [("a", "b", "e", "f"), ("e", "f", "a", "b")], "y": []}


def test_capitals_of_analogies_are_folded_on_demand(put):
    path = put(": x\nAthens Greece Bern Switzerland\nÜber B\nc D\n")
    folded = [("athens", "greece", "bern", "switzerland"), ("über", "b", "c", "d"), ("c", "d", "über", "b")]
    assert read_analogies(path, lowercase=True) == {"x": folded}
    assert read_analogies(path)["x"][0][0] == "Athens"


@pytest.mark.parametrize(
    "text, message",
    [
        ("a b c d\n: x\n", r'file, line 1: ": section" expected; found \'a b c d\'\.'),
        ("\na b\n", "line 2: \": section\" expected; found 'a b'"),
        (":x\na b\n", "line 1: \": section\" expected; found ':x'"),
        (": x\na b\na b c\n", r"line 3: two words, four words expected; found 'a b c'\."),
        (": x\na b c d e\n", "line 2: two words, four words expected; found 'a b c d e'"),
        (": x\n:\na b\n", "line 2: two words, four words expected; found ':'"),
        (": x\n" + "long " * 99, "line 2: two words, four words expected; found '(long ){11}long ?.{0,5}'"),
    ],
)
def test_a_line_that_is_no_question_is_named(put, text, message):
    with pytest.raises(ValueError, match=message):
        read_analogies(put(text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    for read in (read_similarities, read_analogies):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere")


def test_the_sets_of_the_book_are_read():
    questions = read_analogies(DATA / "analogies.txt")
    assert sum(map(len, questions.values())) > 1500 and len(questions) >= 8
    for asked in questions.values():
        (number,) = {n for n in range(50) if n * (n - 1) == len(asked)}  # of n pairs
        assert len(set(asked)) == len(asked) and len({question[:2] for question in asked}) == number
    pairs = read_similarities(DATA / "word_similarity.tsv")
    assert len(pairs) >= 200 and all(0 <= score <= 10 for *_, score in pairs)
    text = (DATA / "word_similarity.tsv").read_text(encoding="utf-8")
    assert len(pairs) == len(text.splitlines())  # the first line is no header


# Scores


def test_accuracy_is_the_share_of_right_answers():
    assert AnalogyScore(3, 4, 9).accuracy == 0.75
    assert math.isnan(AnalogyScore(0, 0, 2).accuracy)
    assert SimilarityScore(0.5, 10, 2) == (0.5, 10, 2)


@pytest.mark.parametrize("at_once", [1, 7, 512])
def test_questions_are_solved_as_one_by_one(rng, at_once):
    unit = rng.standard_normal((12, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    questions = np.array([rng.permutation(12)[:4] for _ in range(300)])
    right = 0
    for a, b, c, d in questions:
        scores = unit @ (unit[b] - unit[a] + unit[c])
        candidates = [i for i in range(12) if i not in (a, b, c)]
        right += max(candidates, key=scores.__getitem__) == d
    assert 20 < right < 280 and solved(unit, questions, at_once) == right


def test_the_words_of_a_question_are_no_answers():
    unit = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]])
    assert solved(unit, np.array([[0, 1, 2, 3]])) == 1  # the vector of c itself would be nearer
    assert solved(unit, np.array([[0, 1, 2, 2]])) == 0
    assert solved(unit, np.zeros((0, 4), int)) == 0
