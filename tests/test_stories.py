"""The stories of the book and their questions; how answers are judged."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from companion.splits import near_duplicates, normalize
from companion.stories import Question, answer_f1, answer_match, answer_units, read_stories, sentences

PATH = Path(__file__).resolve().parents[1] / "data" / "stories.jsonl"
STORY = {"id": "a", "language": "en", "title": "A", "text": "Ann ran. Bo sat.", "questions": []}


@pytest.fixture(scope="module")
def stories():
    return read_stories(PATH)


def questions(stories):
    return [question for story in stories for question in story.questions]


def test_there_are_sixty_in_two_languages_of_the_length_of_a_paragraph(stories):
    assert Counter(story.language for story in stories) == {"en": 45, "zh": 15}
    assert len({story.id for story in stories}) == len({story.title for story in stories}) == 60
    for story in stories:
        assert story.id.startswith(f"{story.language}-") and story.title
        pattern, least, most = (r"\S+", 60, 130) if story.language == "en" else (r"[\u4e00-\u9fff]", 100, 220)
        assert least <= len(re.findall(pattern, story.text)) <= most, story.id
        chinese = re.search(r"[\u4e00-\u9fff]", story.text) is not None
        assert chinese == (story.language == "zh") and 4 <= len(sentences(story.text)) <= 7, story.id


def test_each_has_five_questions_and_one_is_not_answered(stories):
    for story in stories:
        assert [bool(question.answer) for question in story.questions] == [True] * 4 + [False], story.id
        assert len({question.question for question in story.questions}) == 5
        assert all(question.question.endswith(("?", "？")) for question in story.questions)
    assert sum(question.answer == "" for question in questions(stories)) == 60


def test_answers_are_short_pieces_of_one_sentence_and_are_not_in_the_question(stories):
    for story in stories:
        for asked, answer in story.questions[:4]:
            assert answer == answer.strip(" .,，。") and answer in story.text
            assert any(answer in sentence for sentence in sentences(story.text)), answer
            assert 1 <= len(answer_units(answer, story.language)) <= 9, answer
            assert answer.casefold() not in asked.casefold(), asked


def test_questions_are_of_many_kinds(stories):
    begun = Counter(question.question.split()[0] for question in questions(stories[:45]))
    assert min(begun[word] for word in ("What", "How", "Who", "When", "Where", "Why")) >= 10
    answers = [question.answer for question in questions(stories) if question.answer]
    assert len(set(answers)) > 0.95 * len(answers)  # none can be guessed from the others
    assert max(Counter(question.question for question in questions(stories)).values()) <= 2


def test_no_story_and_no_sentence_nearly_repeats_another_one(stories):
    texts = [story.text for story in stories]
    assert near_duplicates(texts, 0.2) == list(range(len(texts)))
    parts = [normalize(sentence) for text in texts for sentence in sentences(text)]
    assert near_duplicates(parts, 0.6) == list(range(len(parts)))


def test_a_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "stories.jsonl"
    row = STORY | {"questions": [{"question": "Who ran?", "answer": "Ann"}, {"question": "?", "answer": ""}]}
    path.write_text(json.dumps(row) + "\n" + json.dumps(STORY), encoding="utf-8")
    first, second = read_stories(path)
    assert first.questions == (Question("Who ran?", "Ann"), Question("?", "")) and second.questions == ()
    assert first.text == second.text == "Ann ran. Bo sat."


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        '{"id": "a"}',
        json.dumps(STORY | {"questions": [1]}),
        json.dumps(STORY | {"questions": 1}),
    ],
)
def test_what_is_no_story_is_refused_by_its_line(tmp_path, line):
    path = tmp_path / "stories.jsonl"
    path.write_text(json.dumps(STORY) + "\n" + line, encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: (a JSON object|an object with id|questions with question)"):
        read_stories(path)


@pytest.mark.parametrize("answer", ["Cy", None])
def test_an_answer_that_the_text_does_not_hold_is_refused(tmp_path, answer):
    path = tmp_path / "stories.jsonl"
    row = STORY | {"questions": [{"question": "Who?", "answer": answer}]}
    path.write_text(json.dumps(row) + "\n\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"line 1: an answer must occur in the text; received {answer!r}"):
        read_stories(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Li met Dr. No. They ate.", ["Mr. Li met Dr. No.", "They ate."]),
        ('"Go!" he said. "Stop." She did', ['"Go!"', "he said.", '"Stop."', "She did"]),
        ("At 6:40 it cost 3.5. E. K. won?", ["At 6:40 it cost 3.5.", "E. K. won?"]),
        ("他说：“走！”她没走。真的？", ["他说：“走！”", "她没走。", "真的？"]),
        ("什么？！他走了。", ["什么？！", "他走了。"]),
        ("（他走了。）好。", ["（他走了。）", "好。"]),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


def test_what_answers_are_compared_by():
    assert answer_units("The old Captain's cup, an ONE.") == ["old", "captain's", "cup", "one"]
    assert answer_units("三天, A1 号", "zh") == ["三", "天", "a1", "号"]
    assert answer_units("[1, 'a', -0.5]", "python") == ["[", "1", ",", "'", "a", "'", ",", "-", "0.5", "]"]
    assert answer_units("") == []
    with pytest.raises(ValueError, match="language must be one of en, zh, python; received 'fr'"):
        answer_units("oui", "fr")


def test_exact_match_and_f1_by_hand():
    expected, predicted = ["the red train", "two cups", "", ""], ["Red train!", "two red cups", "", "six"]
    assert answer_match(expected, predicted) == 2 / 4
    assert answer_f1(expected, predicted) == pytest.approx((1 + 2 * 2 / (2 + 3) + 1 + 0) / 4)
    assert answer_f1(["三天三夜"], ["三夜"], "zh") == pytest.approx(
        2 * 2 / (4 + 2)
    )  # the second 三 is not there
    assert answer_f1(["''"], [""], "python") == 0 and answer_match(["''"], ["''"], "python") == 1
    assert answer_f1(predicted, expected) == answer_f1(expected, predicted)


@pytest.mark.parametrize("judge", [answer_match, answer_f1])
def test_answers_that_do_not_pair_are_refused(judge):
    with pytest.raises(ValueError, match="equally many, at least 1; received 1 and 2"):
        judge(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="received 0 and 0"):
        judge([], [])
    with pytest.raises(TypeError, match="must be collections of strings; received str"):
        judge("a", ["a"])
