import numpy as np
import pytest
from gensim.models.fasttext_inner import compute_ngrams_bytes, ft_hash_bytes
from hypothesis import given
from hypothesis import strategies as st

from companion.subwords import Subwords, character_ngrams, ngram_hash, ngram_rows, ngram_table

WORD = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
LIMITS = st.tuples(st.integers(1, 6), st.integers(0, 6)).map(lambda pair: (pair[0], sum(pair)))


def test_the_example_of_the_paper():
    assert character_ngrams("where", 3, 3) == ["<wh", "whe", "her", "ere", "re>"]
    assert "her" in character_ngrams("where") and "<her>" in character_ngrams("her")


def test_ngrams_are_ordered_by_place_then_length_and_repeat():
    assert character_ngrams("aa", 1, 2) == ["<a", "a", "aa", "a", "a>"]


def test_chinese_is_counted_in_characters():
    assert character_ngrams("北京", 3, 4) == ["<北京", "<北京>", "北京>"]


def test_the_marks_alone_are_no_ngrams_but_the_same_characters_in_a_word_are():
    assert character_ngrams("<>", 1, 1) == ["<", ">"]
    assert character_ngrams("", 1, 6) == ["<>"] and character_ngrams("", 3, 6) == []


@given(WORD, LIMITS)
def test_ngrams_and_their_hashes_are_those_of_gensim(word, limits):
    ngrams = character_ngrams(word, *limits)
    assert [ngram.encode() for ngram in ngrams] == compute_ngrams_bytes(word, *limits)
    assert [ngram_hash(ngram) for ngram in ngrams] == [ft_hash_bytes(ngram.encode()) for ngram in ngrams]


def test_hashes_by_hand():
    assert ngram_hash("") == 2166136261
    assert ngram_hash("a") == (2166136261 ^ 97) * 16777619 % 2**32
    first = (2166136261 ^ 0xFFFFFFC3) * 16777619 % 2**32  # é is C3 A9, both taken as negative numbers
    assert ngram_hash("é") == (first ^ 0xFFFFFFA9) * 16777619 % 2**32


def test_rows_are_hashes_in_buckets():
    assert ngram_rows("ab", 3, 6, 100) == [ngram_hash(ngram) % 100 for ngram in ("<ab", "<ab>", "ab>")]
    assert ngram_rows("</s>", 1, 6, 100) == []


@given(st.lists(WORD | st.just("</s>"), max_size=8), LIMITS, st.integers(1, 2**31 - 1))
def test_the_table_of_many_words_has_the_rows_of_each(words, limits, buckets):
    rows, starts = ngram_table(words, *limits, buckets)
    assert rows.dtype == np.int32 and starts.dtype == np.int64 and starts.shape == (len(words) + 1,)
    assert starts[0] == 0 and starts[-1] == len(rows)
    parts = [rows[start:stop].tolist() for start, stop in zip(starts, starts[1:], strict=False)]
    assert parts == [ngram_rows(word, *limits, buckets) for word in words]


def test_the_table_is_the_same_in_pieces(monkeypatch):
    words = ["", "我爱北京", "</s>", "a", "programming", "b"]
    whole = ngram_table(words, 1, 4, 1000)
    monkeypatch.setattr("companion.subwords.BLOCK", 2)
    for part, again in zip(whole, ngram_table(words, 1, 4, 1000), strict=True):
        np.testing.assert_array_equal(part, again)


def test_bytes_are_cut_like_text_and_where_they_are_none_like_fasttext():
    text, data = (ngram_table([word], 1, 3, 10**6)[0].tolist() for word in ("北a", "北a".encode()))
    assert text == data
    # a byte 10xxxxxx belongs to the character before it, whatever that is
    broken = ngram_table([b"a\x80b"], 2, 2, 2**31 - 1)[0].tolist()
    ngrams = [b"<a\x80", b"a\x80b", b"b>"]
    assert broken == [ft_hash_bytes(ngram) % (2**31 - 1) for ngram in ngrams]


def test_a_vector_is_the_mean_of_its_rows(rng):
    table = rng.standard_normal((50, 4), dtype="float32")
    subwords, own = Subwords(table, 3, 4), np.arange(4, dtype="float32")
    rows = table[ngram_rows("word", 3, 4, 50)]
    np.testing.assert_allclose(subwords.compose("word"), rows.mean(axis=0), atol=1e-6)
    expected = (rows.sum(axis=0) + own) / (len(rows) + 1)
    np.testing.assert_allclose(subwords.compose("word", own), expected, atol=1e-6)
    assert subwords.compose("word").dtype == subwords.compose("word", own.astype(float)).dtype == np.float32


def test_a_word_without_ngrams_has_its_own_row_or_nothing(rng):
    subwords = Subwords(rng.standard_normal((50, 4), dtype="float32"), 3, 4)
    np.testing.assert_array_equal(subwords.compose("</s>", np.ones(4)), np.ones(4))
    for word in ("</s>", ""):
        assert not subwords.compose(word).any() and subwords.compose(word).shape == (4,)


def test_sums_of_many_words(rng):
    subwords = Subwords(rng.standard_normal((50, 4), dtype="float32"), 3, 4)
    words = ["</s>", "word", "", "北京", "</s>"]
    sums, numbers = subwords.sums(words)
    assert numbers.tolist() == [0, 7, 0, 3, 0] and sums.dtype == np.float32
    for word, total, number in zip(words, sums, numbers, strict=True):
        np.testing.assert_allclose(subwords.compose(word), total / max(number, 1), atol=1e-6)
    assert subwords.sums([])[0].shape == (0, 4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 3, 10), "min_n must be at least 1; received min_n=0"),
        ((3, 2, 10), "max_n must be at least 3; received max_n=2"),
        ((3, 257, 10), "max_n must be at most 256; received max_n=257"),
        ((3, 6, 0), "buckets must be at least 1; received buckets=0"),
        ((3, 6, 2**31), "buckets must be at most 2147483647; received buckets=2147483648"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ngram_rows("word", *arguments)
    with pytest.raises(ValueError, match=message):
        ngram_table(["word"], *arguments)
    if "at least" in message and "buckets" not in message:
        with pytest.raises(ValueError, match=message):
            character_ngrams("word", *arguments[:2])
