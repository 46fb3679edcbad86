import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from nltk.chat.util import Chat, reflections
from sklearn.feature_extraction.text import TfidfVectorizer

from companion.conversations import REASONS, Turn, exchanges, read_dialogues, read_preferences
from companion.dialogue import (
    UNKNOWN,
    Assistant,
    Passage,
    docstring_passages,
    eliza_reply,
    features,
    language_of,
    reply_passages,
    threshold_at,
    weights_hash,
)
from companion.library import Docstring, Rule, eliza
from companion.splits import near_duplicates, normalize

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="module")
def dialogues():
    return read_dialogues(DATA / "dialogues.jsonl")


@pytest.fixture(scope="module")
def preferences():
    return read_preferences(DATA / "preferences.jsonl")


def said(*texts):
    """A history: the user first."""
    return tuple(Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))


KNOWN = [
    Passage("sort a list", "use sorted", "d1"),
    Passage("mean of the columns", "use axis 0", "d2"),
    Passage("列表怎么排序", "用 sorted", "d3"),
    Passage("will it rain tomorrow", "no live data", "d4", refuses=True),
]


def test_the_dialogues_are_as_many_as_said_and_alternate(dialogues):
    assert Counter(d.language for d in dialogues) == {"en": 120, "zh": 120}
    assert len({d.id for d in dialogues}) == 240
    topics = {g: Counter(d.topic for d in dialogues if d.language == g) for g in ("en", "zh")}
    assert topics["en"] == topics["zh"] and len(topics["en"]) == 11 and topics["en"]["beyond"] == 20
    for d in dialogues:
        assert 2 <= len(d.turns) <= 8 and len(d.turns) % 2 == 0, d.id
        assert [turn.speaker for turn in d.turns] == ["user", "assistant"] * (len(d.turns) // 2), d.id
        assert all(turn.text == turn.text.strip() != "" for turn in d.turns), d.id
    for language in ("en", "zh"):
        assert sum(len(d.turns) > 2 for d in dialogues if d.language == language) >= 60


def test_each_dialogue_is_in_its_language(dialogues):
    for d in dialogues:
        text = " ".join(turn.text for turn in d.turns if turn.speaker == "user")
        assert language_of(text) == d.language, d.id
        if d.language == "en":
            assert not re.search(r"[，。？！]", text), d.id


def test_no_two_turns_are_alike_and_no_two_dialogues_nearly(dialogues):
    turns = [normalize(turn.text) for d in dialogues for turn in d.turns]
    assert not [text for text, count in Counter(turns).items() if count > 1]
    texts = [" ".join(turn.text for turn in d.turns) for d in dialogues]
    assert near_duplicates(texts, 0.4) == list(range(240))
    vectors = TfidfVectorizer(analyzer=features, sublinear_tf=True).fit_transform(texts)
    alike = (vectors @ vectors.T).toarray() - np.eye(240)
    assert alike.max() < 0.6, [dialogues[i].id for i in np.unravel_index(alike.argmax(), alike.shape)]


def test_what_is_beyond_is_declined(dialogues):
    words = r"\b(not|cannot|never|no)\b|不|没|急症"
    for d in dialogues:
        if d.topic == "beyond":
            assert re.search(words, d.turns[1].text), d.id


def test_the_preferences_are_as_many_as_said_and_in_both_languages(preferences):
    counts = Counter((language_of(p.prompt), p.reason) for p in preferences)
    assert counts == {(language, reason): 15 for language in ("en", "zh") for reason in REASONS}
    assert len({normalize(p.prompt) for p in preferences}) == 150
    prompts = [p.prompt for p in preferences]
    assert near_duplicates(prompts, 0.6) == list(range(150))
    assert near_duplicates([p.chosen for p in preferences], 0.7) == list(range(150))


def test_only_concise_is_about_length(preferences):
    for p in preferences:
        ratio = len(p.chosen) / len(p.rejected)
        assert p.chosen != p.rejected
        assert ratio < 0.6 if p.reason == "concise" else 0.7 <= ratio <= 1.43, p
    others = [len(p.chosen) / len(p.rejected) for p in preferences if p.reason != "concise"]
    assert 0.85 < np.mean(others) < 1.15


def test_the_dialogues_share_no_answer_with_the_preferences(dialogues, preferences):
    turns = {normalize(turn.text) for d in dialogues for turn in d.turns if len(turn.text) > 12}
    assert not turns & {normalize(text) for p in preferences for text in (p.prompt, p.chosen, p.rejected)}


TURNS = [{"speaker": "user", "text": "a"}, {"speaker": "assistant", "text": "b"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 1: a JSON object expected; found '{'"),
        ("[1]", "line 1: an object with id, language, topic, turns expected"),
        (json.dumps({"id": "x", "turns": []}), "line 1: an object with id, language"),
        (
            json.dumps({"id": "x", "language": "en", "topic": "t", "turns": TURNS[::-1]}),
            "line 1: user and assistant in turn expected; found assistant, user",
        ),
        (
            json.dumps({"id": "x", "language": "en", "topic": "t", "turns": TURNS[:1]}),
            "in turn expected; found user",
        ),
        *(
            (
                json.dumps({"id": "x", "language": "en", "topic": "t", "turns": turns}),
                "line 1: turns of speaker and text expected; found",
            )
            for turns in (
                "ab",
                ["a", "b"],
                [{"speaker": "user"}, TURNS[1]],
                [TURNS[0] | {"text": " "}, TURNS[1]],
            )
        ),
    ],
)
def test_bad_dialogues_are_named(row, message, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(row, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_dialogues(path)


def test_bad_preferences_are_named(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c", "reason": "short"}', encoding="utf-8")
    with pytest.raises(ValueError, match="one of concise, .* complete expected; found 'short'"):
        read_preferences(path)


def test_exchanges_give_each_reply_what_came_before(tmp_path):
    path = tmp_path / "d.jsonl"
    row = {"id": "x", "language": "en", "topic": "t", "turns": TURNS * 2}
    path.write_text(json.dumps(row), encoding="utf-8")
    (dialogue,) = read_dialogues(path)
    assert exchanges(dialogue) == [(said("a"), "b"), (said("a", "b", "a"), "b")]


def test_features_by_hand():
    assert features("To np.sum 12") == ["to", " to ", "np", " np ", "sum", " sum", "sum ", "12", " 12 "]
    assert features("列表排序?") == ["列", "表", "排", "序", "列表", "表排", "排序"]
    assert features("用 len") == ["用", "len", " len", "len "] and features("?!") == []


def test_eliza_says_what_nltk_may_say():
    rules = eliza()
    chat = Chat([(rule.pattern, list(rule.answers)) for rule in rules], reflections)
    texts = [
        "I need my book",
        "Are you a human?",
        "I feel tired",
        "Hello",
        "My loop ends",
        "你好",
        "I am your friend",
    ]

    def plain(text):
        return re.sub(r"[.?!]+$", "", text)

    for text in texts:
        possible = {plain(chat.respond(text)) for _ in range(300)}
        assert plain(eliza_reply(text, rules)) in possible
        assert eliza_reply(text, rules) == eliza_reply(text, rules)
    assert "your book" in eliza_reply("I need my book", rules)
    rule = [Rule("Because (.*)", ("If %1, what else?",))]
    assert (
        eliza_reply("Because I am tired of you, my dear.", rule)
        == "If you are tired of me, your dear, what else?"
    )
    assert eliza_reply("anything", []) == ""


def test_scores_are_cosines_of_weighted_turns():
    texts = ["sort a list", "mean of rows", "mean of columns"]
    assistant = Assistant([Passage(text, "", "") for text in texts], decay=0.5)
    idf = {w: 1 + np.log(4 / (1 + sum(w in features(t) for t in texts))) for t in texts for w in features(t)}

    def vector(text):
        counts = Counter(features(text))
        weights = {w: (1 + np.log(n)) * idf.get(w, 1 + np.log(4)) for w, n in counts.items()}
        return {w: x / np.sqrt(sum(y * y for y in weights.values())) for w, x in weights.items()}

    history = said("mean of the rows", "use axis one", "and columns")
    query = Counter()
    for k, turn in enumerate(reversed(history)):
        for word, weight in vector(turn.text).items():
            query[word] += 0.5**k * weight
    length = np.sqrt(sum(x * x for x in query.values()))
    wanted = [sum(query[w] * x for w, x in vector(text).items()) / length for text in texts]
    np.testing.assert_allclose(assistant.similarities(history), wanted, rtol=1e-9)


def test_unknown_words_push_a_question_away():
    assistant = Assistant(KNOWN)
    known, strange = (assistant.similarities(said(text))[0] for text in ("sort a list", "sort a xylophone"))
    assert known == pytest.approx(1) and 0 < strange < 0.6


def test_the_history_decides_and_fades():
    passages = [Passage("mean of rows", "rows", "1"), Passage("mean of columns", "columns", "2")]
    passages.append(Passage("color of columns in a plot", "plot", "3"))
    history = said("mean of rows", "axis", "and columns")
    assert Assistant(passages, decay=0.8).reply(history).text == "columns"
    alone, forgetful = Assistant(passages, decay=0), Assistant(passages, decay=0.8)
    np.testing.assert_allclose(alone.similarities(history), forgetful.similarities(history[-1:]))
    assert np.abs(alone.similarities(history) - forgetful.similarities(history)).max() > 0.05


def test_replies_and_abstentions():
    assistant = Assistant(KNOWN, threshold=0.1)
    assert assistant.reply(said("sort a list")) == ("use sorted", "d1", pytest.approx(1), False)
    rain = assistant.reply(said("will it rain tomorrow"))
    assert rain.abstained and rain.text == UNKNOWN["en"] and rain.source == "" and rain.score < -0.5
    assert assistant.reply(said("彩票中奖号码")).text == UNKNOWN["zh"]
    assert assistant.reply(said("列表怎么排序？")).text == "用 sorted"
    talkative = Assistant(KNOWN, threshold=0.1, rules=eliza())
    assert talkative.reply(said("I need money"))[1:] == ("eliza", 0, False)
    assert language_of("`pip`。") == "zh" and language_of("pip.") == "en"
    assert talkative.reply(said("sort a list")).source == "d1"


def test_a_reply_is_new_and_in_the_language_of_the_question():
    assistant = Assistant(KNOWN, threshold=-2)
    assert assistant.reply(said("sort 列表")).source == "d3"
    assert assistant.reply(said("sort a list", "use sorted", "sort a list")).source == "d2"
    assert assistant.reply(said("sort a list", "something else", "sort a list")).source == "d1"
    only_english = Assistant(KNOWN[:2], threshold=-2)
    assert only_english.reply(said("列表怎么排序")) == (UNKNOWN["zh"], "", -1, True)


def test_the_score_is_the_mean_of_two_margins():
    assistant = Assistant(KNOWN, threshold=-2)
    history = said("sort a list", "something", "and rain tomorrow")
    margins = []
    for some in (history, history[-1:]):
        similar = assistant.similarities(some)
        margins.append(max(similar[:2]) - similar[3])  # without the Chinese passage
    assert abs(margins[0] - margins[1]) > 0.05
    assert assistant.reply(history).score == pytest.approx(np.mean(margins))


def test_the_threshold_itself_is_answered():
    score = Assistant(KNOWN).reply(said("sort a tuple")).score
    for threshold, abstained in ((score, False), (np.nextafter(score, 2), True)):
        for given in (threshold, {"en": threshold, "zh": 0}):
            assert Assistant(KNOWN, given).reply(said("sort a tuple")).abstained == abstained


def test_passages_of_dialogues_and_docstrings(dialogues):
    with_questions, without = reply_passages(dialogues), reply_passages(dialogues, with_questions=False)
    assert len(with_questions) == len(without) == sum(len(d.turns) // 2 for d in dialogues)
    first, bare = with_questions[0], without[0]
    assert (
        first.key == f"{dialogues[0].turns[0].text} {first.reply}" and bare.key == bare.reply == first.reply
    )
    refused = {p.source for p in without if p.refuses}
    assert refused == {d.id for d in dialogues if d.topic == "beyond"}
    assert all(p.key != p.reply for p in without if p.refuses)  # a question, not its answer
    doc = Docstring("Sorts.", "", "Sorts.", "numpy", "numpy", "sort", "sort.py")
    assert docstring_passages([doc]) == [Passage("numpy.sort Sorts.", "Sorts.", "numpy.sort")]


def test_a_chat_changes_nothing(dialogues):
    assistant = Assistant(reply_passages(dialogues))
    before, history = weights_hash(assistant), ()
    for text in ("My name is Mei.", "how do I sort?", "我叫小梅。"):
        history += said(text)
        first = assistant.reply(history)
        history += (Turn("assistant", first.text),)
        assert assistant.reply(history[:-1]) == first
    assert weights_hash(assistant) == before
    assert assistant.reply(said("What is my name?")) == Assistant(reply_passages(dialogues)).reply(
        said("What is my name?")
    )


@pytest.mark.parametrize(
    ("share", "threshold"), [(0, 1), (0.1, 1), (0.19, 1), (0.2, 2), (0.4, 3), (0.6, 4), (0.99, 5)]
)
def test_threshold_refuses_at_most_the_share(share, threshold):
    scores = [3, 1, 5, 2, 4]
    assert threshold_at(scores, share) == threshold
    assert np.mean(np.array(scores) < threshold) <= share


def test_equal_scores_are_refused_together_or_not_at_all():
    assert threshold_at([1, 1, 1, 2], 0.5) == 1


def test_weights_hash_sees_every_change():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    before = weights_hash(model)
    model(np.ones((1, 3), "float32"))
    assert weights_hash(model) == before and re.fullmatch("[0-9a-f]{64}", before)
    for weight in model.weights:
        value = np.array(weight)
        changed = value.copy()
        changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(9))
        weight.assign(changed)
        assert weights_hash(model) != before
        weight.assign(value)
    assert weights_hash(model) == before

    def of(*arrays):
        return weights_hash(SimpleNamespace(weights=list(arrays)))

    flat = np.arange(6)
    assert of(flat) == of(flat.copy()) != of(flat.reshape(2, 3))
    assert of(np.zeros(2, "float32")) != of(np.zeros(1, "float64"))
    assert of(flat[::2]) == of(flat[::2].copy())


def test_bad_arguments():
    with pytest.raises(ValueError, match="passages must hold one that does not refuse; received none"):
        Assistant(KNOWN[3:])
    with pytest.raises(ValueError, match="passages must hold one"):
        Assistant([])
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\]; received 1.5"):
        Assistant(KNOWN, decay=1.5)
    with pytest.raises(ValueError, match="decay must be at least 0; received decay=-1"):
        Assistant(KNOWN, decay=-1)
    with pytest.raises(ValueError, match="history must hold a turn or more; received none"):
        Assistant(KNOWN).reply(())
    with pytest.raises(ValueError, match="received 0 scores and 0.1"):
        threshold_at([], 0.1)
    with pytest.raises(ValueError, match="received 2 scores and 1"):
        threshold_at([1, 2], 1)
