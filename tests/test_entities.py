"""Names of code: where authors marked them, a dictionary of them, a tagger that learns them."""

import re

import pytest
import spacy

from companion import entities
from companion.entities import (
    Marked,
    known_names,
    look_up,
    marked_sentences,
    span_f1,
    tag,
    train_tagger,
)


def marked(line):
    """A sentence out of a line in which «» stand around the names."""
    text, spans = "", []
    for part in re.split(r"(«[^»]+»)", line):
        name = part.strip("«»")
        if part != name:
            spans.append((len(text), len(text) + len(name)))
        text += name
    return Marked(text, tuple(spans), "some", "some.py")


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        ("Return the ``axis`` of the array.", ["Return the «axis» of the array."]),
        ("Call `fit()` before you call `predict`.", ["Call «fit()» before you call «predict»."]),
        (
            "Each `np.ndarray` is copied, and \n so is each list.",
            ["Each «np.ndarray» is copied, and so is each list."],
        ),
        (
            "It calls `one` at first. It never calls `two` again.",
            ["It calls «one» at first.", "It never calls «two» again."],
        ),
        ("It calls `one` at first.\n\nNo other paragraph names any code.", ["It calls «one» at first."]),
        ("See :class:`Graph` for all that it does.", []),  # a role, not a plain mark
        ("The text of `x + y` is no name at all.", []),  # an expression
        ("The plurals of `name`s are left out here.", []),
        ("Only `three` words.", []),
        ("Returns: the `array` that was given to it.", []),
        ("    >>> print(`x`) and so on and on.", []),
    ],
)
def test_marks_become_spans(doc, expected):
    found = [Marked(text, spans, "some", "some.py") for text, spans in entities._marked(doc)]
    assert found == [marked(line) for line in expected]


def test_marked_sentences_of_a_library():
    found = marked_sentences(["nltk"])
    assert len(found) > 30 and len({sentence.text for sentence in found}) == len(found)
    for sentence in found:
        assert "`" not in sentence.text and sentence.package == "nltk" and sentence.spans
        for name in sentence.names:
            assert re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", name), sentence
        assert 5 <= len(sentence.text.split()) <= 40


def test_a_dictionary_leaves_out_what_is_mostly_prose():
    sentences = [
        marked("The «axis» along which to sum."),
        marked("One axis more, «ndim», and one axis less."),
        marked("Sum over «axis», please do."),
    ]
    assert known_names(sentences) == {"axis", "ndim"}
    assert known_names(sentences, least=0.5) == {"axis", "ndim"}  # two of four
    assert known_names(sentences, least=0.6) == {"ndim"}
    assert known_names(sentences, least=1) == {"ndim"}


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_a_share_outside_its_range_is_named(least):
    with pytest.raises(ValueError, match=rf"least must be from 0 to 1; received least={least}\."):
        known_names([], least)


def test_look_up_takes_whole_words_and_the_longest_name():
    names = {"array", "fit", "model.fit()", "fit()"}
    assert look_up(names, ["Call fit() and arrays.", "An array.", "No Fit, no.", ""]) == [
        [(5, 10)],
        [(3, 8)],
        [],
        [],
    ]
    assert look_up(set(), ["An array."]) == [[]]


@pytest.mark.parametrize(
    ("expected", "predicted", "score"),
    [
        ([[(0, 3)], [(4, 6)]], [[(0, 3)], [(4, 6)]], 1.0),
        ([[(0, 3)], [(4, 6)]], [[(4, 6)], [(0, 3)]], 0.0),  # right spans, wrong texts
        ([[(0, 3), (4, 6)]], [[(0, 3), (4, 7)]], 0.5),
        ([[(0, 3), (4, 6), (7, 9)]], [[(0, 3)]], 0.5),  # precision 1, recall 1/3
        ([[]], [[(0, 3)]], 0.0),
        ([[], []], [[], []], 1.0),
    ],
)
def test_span_f1_by_hand(expected, predicted, score):
    assert span_f1(expected, predicted) == pytest.approx(score)


def test_span_f1_wants_as_many():
    with pytest.raises(ValueError, match=r"expected and predicted must be equally many; received 1 and 2\."):
        span_f1([[]], [[], []])


def test_an_empty_pipeline_finds_nothing():
    assert spacy.blank("en")("Call numpy.sum in London.").ents == ()
    assert tag(spacy.blank("en"), ["Call numpy.sum in London."]) == [[]]


def test_a_tagger_finds_names_that_it_never_saw():
    verbs = ("Call", "Use", "Try", "See", "Mind", "Avoid", "Prefer", "Import")
    names = ("get_item", "set_value", "read_csv", "to_list", "is_nan", "add_loss", "num_heads", "max_len")
    sentences = [marked(f"{verb} «{name}» before the end of it.") for verb in verbs for name in names]
    nlp = train_tagger(sentences, epochs=12, batch_size=16)
    unseen = [
        marked("Call «new_name» before the end of it."),
        marked("Use «other_word» before the end of it."),
    ]
    texts = [sentence.text for sentence in unseen]
    assert look_up(known_names(sentences), texts) == [[], []]
    assert span_f1([sentence.spans for sentence in unseen], tag(nlp, texts)) == 1
    again = train_tagger(sentences[:16], epochs=1), train_tagger(sentences[:16], epochs=1)
    first, second = (nlp.get_pipe("ner").model.to_bytes() for nlp in again)
    assert first == second  # the seed decides


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"epochs must be at least 1; received epochs=0\."):
        train_tagger([marked("Call «it» again now.")], epochs=0)
    with pytest.raises(
        ValueError, match=r"sentences must hold one whose spans fall on tokens; received none\."
    ):
        train_tagger([Marked("Call them.", ((6, 8),), "some", "some.py")])
