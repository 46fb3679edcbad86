"""Words turned into ids, their shares and noise, and the pieces of an epoch: against counting one by one."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion import word_corpus
from companion.word_corpus import WordCorpus, encode_corpus, kept_shares, noise_distribution, pieces


def of_lengths(*lengths):
    """A corpus in which every token is a word of its own: its id is its place."""
    size = sum(lengths)
    words = [str(i) for i in range(size)]
    return WordCorpus(words, np.ones(size, int), np.arange(size, dtype="int32"), np.cumsum(lengths), size)


def sentences_of(corpus):
    starts = [0, *corpus.ends[:-1]]
    return [
        [corpus.words[i] for i in corpus.ids[start:end]]
        for start, end in zip(starts, corpus.ends, strict=True)
    ]


# Encoding


def test_words_are_ordered_by_frequency_then_spelling():
    corpus = encode_corpus([["b", "a", "c"], ["c", "d", "b", "c"]], min_count=1)
    assert corpus.words == ["c", "b", "a", "d"] and corpus.counts.tolist() == [3, 2, 1, 1]
    assert corpus.ids.tolist() == [1, 2, 0, 0, 3, 1, 0] and corpus.ends.tolist() == [3, 7]
    assert corpus.counts.dtype == corpus.ends.dtype == np.int64 and corpus.ids.dtype == np.int32
    assert corpus.num_tokens == 7


def test_rare_words_are_taken_out_as_if_they_were_not_there():
    corpus = encode_corpus([["rare", "a", "b"], ["x"], [], ["a", "y", "b"], ["z"]], min_count=2)
    assert corpus.words == ["a", "b"] and corpus.counts.tolist() == [2, 2]
    assert corpus.ids.tolist() == [0, 1, 0, 1] and corpus.ends.tolist() == [2, 2, 2, 4, 4]
    assert corpus.num_tokens == 8


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "中", ""]), max_size=6), max_size=8),
       st.integers(1, 4))  # fmt: skip
def test_any_corpus_is_encoded_as_counting_says(sentences, min_count):
    counted = Counter(word for sentence in sentences for word in sentence)
    frequent = {word: count for word, count in counted.items() if count >= min_count}
    if not frequent:
        with pytest.raises(ValueError, match="corpus must hold tokens|min_count must leave a word"):
            encode_corpus(sentences, min_count)
        return
    corpus = encode_corpus(sentences, min_count)
    assert dict(zip(corpus.words, corpus.counts.tolist(), strict=True)) == frequent
    assert corpus.words == sorted(frequent, key=lambda word: (-frequent[word], word))
    assert corpus.num_tokens == counted.total()
    assert sentences_of(corpus) == [[word for word in one if word in frequent] for one in sentences]


def test_five_occurrences_are_asked_for_by_default():
    assert encode_corpus([["a"] * 5 + ["b"] * 4]).words == ["a"]


def test_a_generator_is_read_once():
    read = []

    def sentences():
        for number in range(3):
            read.append(number)
            yield ("a", "b") if number else ["a"]

    corpus = encode_corpus(sentences(), 1)
    assert read == [0, 1, 2] and sentences_of(corpus) == [["a"], ["a", "b"], ["a", "b"]]


def test_an_array_of_words_is_a_corpus():
    assert sentences_of(encode_corpus(np.array([["a", "b"], ["a", "c"]]), 1)) == [["a", "b"], ["a", "c"]]


@pytest.mark.parametrize(
    "corpus, message",
    [
        ("a b a b", r"corpus must be an iterable of lists of tokens; received str\."),
        (b"a b", "an iterable of lists of tokens; received bytes"),
        (None, "an iterable of lists of tokens; received NoneType"),
        (iter([3, 4]), r"must hold lists of tokens, one for each .*; received int as sentence 0: '3'\."),
        ([["a"], "a b"], "must hold lists of tokens, .*; received str as sentence 1: 'a b'"),
        ([["a"], ["b"], b"a"], "must hold lists of tokens, .*; received bytes as sentence 2"),
        ([(word for word in "ab")], "must hold lists of tokens, .*; received generator as sentence 0"),
        ([["a", 7]], r"corpus must hold strings; received 7, int\."),
        ([["a"], ["b", None]], "corpus must hold strings; received None, NoneType"),
    ],
)
def test_what_is_no_corpus_is_refused(corpus, message):
    with pytest.raises(TypeError, match=message):
        encode_corpus(corpus, 1)


@pytest.mark.parametrize(
    "corpus, min_count, message",
    [
        ([], 1, r"corpus must hold tokens; received 0 sentences without any\."),
        ([[], []], 1, "corpus must hold tokens; received 2 sentences without any"),
        ([["b", "a", "b"]], 3, "min_count must leave a word; received min_count=3, and the most frequent of "
         r"2 words, 'b', occurs 2 times\."),
        ([["a"]], 0, r"min_count must be at least 1; received min_count=0\."),
    ],
)  # fmt: skip
def test_an_empty_corpus_is_refused(corpus, min_count, message):
    with pytest.raises(ValueError, match=message):
        encode_corpus(corpus, min_count)


def test_memory_is_little_more_than_the_ids():
    words = [[f"w{i % 100}" for i in range(k, k + 20)] for k in range(0, 100, 20)]
    tracemalloc.start()
    corpus = encode_corpus((words[number % 5] for number in range(20_000)), 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * len(corpus.ids)  # bytes: 4 are kept, 8 more are needed while they are counted


# Shares


def test_kept_shares_follow_their_formula():
    counts = np.array([900, 90, 9, 1])
    frequencies = counts / 1000
    kept = kept_shares(counts, 0.01)
    expected = np.sqrt(0.01 / frequencies) + 0.01 / frequencies
    assert kept.dtype == np.float32 and expected[1] < 1 < expected[2]
    np.testing.assert_allclose(kept, np.minimum(expected, 1), rtol=1e-6)
    assert kept_shares(counts, 0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("subsample", [-1e-3, float("nan"), float("inf")])
def test_impossible_shares_are_refused(subsample):
    message = rf"subsample must be 0 or positive; received subsample={subsample}\."
    with pytest.raises(ValueError, match=message):
        kept_shares(np.array([1]), subsample)


def test_noise_is_drawn_in_proportion_to_a_power():
    np.testing.assert_allclose(noise_distribution(np.array([16, 81, 1])), np.array([8, 27, 1]) / 36)
    np.testing.assert_allclose(noise_distribution(np.array([16, 81, 1]), 1.0), np.array([16, 81, 1]) / 98)
    np.testing.assert_allclose(noise_distribution(np.array([5, 10**9]), 0), [0.5, 0.5])
    assert noise_distribution(np.arange(1, 10**5)).sum() == pytest.approx(1, abs=1e-12)


# Pieces of an epoch


def sides(kept, corpus):
    """How many kept tokens of the same sentence stand before and after each: one by one."""
    sentence = [int(np.sum(corpus.ends <= place)) for place in kept]
    before = [sentence[:i].count(own) for i, own in enumerate(sentence)]
    return before, [sentence[i + 1 :].count(own) for i, own in enumerate(sentence)]


@pytest.mark.parametrize("piece", [1, 4, 7, 100])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_neighbors_are_those_that_are_kept_in_the_same_sentence_and_piece(monkeypatch, rng, piece, share):
    monkeypatch.setattr(word_corpus, "PIECE", piece)
    corpus = of_lengths(3, 0, 5, 1, 1, 0, 0, 9, 2)
    seen = []
    for number, (ids, before, after, size) in enumerate(pieces(corpus, np.full(21, share), rng)):
        drawn_from = range(number * piece, min((number + 1) * piece, 21))
        assert size == len(drawn_from) and set(ids.tolist()) <= set(drawn_from)
        assert (before.tolist(), after.tolist()) == sides(ids, corpus)
        seen += ids.tolist()
    assert number == -(-21 // piece) - 1 and seen == sorted(set(seen))
    assert seen == list(range(21)) if share == 1 else 5 < len(seen) < 20


def test_neighbors_by_hand(rng):
    (piece,) = pieces(of_lengths(3, 0, 1, 2), np.ones(6), rng)
    ids, before, after, size = piece
    assert ids.tolist() == [0, 1, 2, 3, 4, 5] and size == 6
    assert before.tolist() == [0, 1, 2, 0, 0, 1] and after.tolist() == [2, 1, 0, 0, 1, 0]


def test_words_are_kept_in_their_shares(monkeypatch, rng):
    monkeypatch.setattr(word_corpus, "PIECE", 999)
    ids, kept = rng.integers(0, 4, 100_000).astype("int32"), np.array([1, 0.7, 0.2, 0], "float32")
    corpus = WordCorpus(list("abcd"), np.bincount(ids), ids, np.array([len(ids)]), len(ids))
    found = np.bincount(np.concatenate([piece[0] for piece in pieces(corpus, kept, rng)]), minlength=4)
    assert found[0] == corpus.counts[0] and found[3] == 0
    deviation = np.sqrt(corpus.counts * kept * (1 - kept))
    assert (np.abs(found - corpus.counts * kept) <= 4 * deviation).all()


def test_what_is_kept_is_drawn_anew_in_each_epoch_and_by_the_seed():
    corpus, half = of_lengths(200), np.full(200, 0.5)
    random = np.random.default_rng(3)
    first, second = (next(pieces(corpus, half, random))[0].tolist() for _ in range(2))
    assert first != second
    assert next(pieces(corpus, half, np.random.default_rng(3)))[0].tolist() == first


def test_a_piece_may_lose_all_its_words(rng):
    (piece,) = pieces(of_lengths(2, 3), np.zeros(5), rng)
    assert [len(part) for part in piece[:3]] == [0, 0, 0] and piece[3] == 5
