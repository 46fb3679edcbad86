import json
import os
import stat
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from companion import SubwordTokenizer, WordTokenizer, load_tokenizer

ENGLISH = ["I love programming", "Python is great for data analysis", "Machine learning is fascinating"]
CHINESE = ["我爱北京天安门", "他在上午 11:42 写 Python 代码。"]
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)))
HARD = ["<end>", "<padding><unknown><begin>", "\x00", "e\u0301 a\u0308", "👩\u200d👧🇨🇳"]
HARD += [" \t\r\n\u3000 ", "\ufeffa\u200bb", "\ufffd"]
SUBWORDS = SubwordTokenizer.train([*ENGLISH, *CHINESE, "<end> <begin> 12 345"] * 20, vocabulary_size=400)


@pytest.fixture(scope="module")
def words():
    return WordTokenizer.train(ENGLISH)


def regular(text):
    return " ".join(text.split())


# Subwords


@settings(max_examples=400, deadline=None)
@given(ANY_TEXT)
def test_subwords_give_back_any_text(text):
    ids = SUBWORDS.encode(text)
    assert SUBWORDS.decode(ids) == text
    assert min(ids, default=4) > SUBWORDS.end_id


@pytest.mark.parametrize("text", HARD)
def test_subwords_give_back_hard_text(text):
    ids = SUBWORDS.encode(text, begin=True, end=True)
    assert SUBWORDS.decode(ids) == text
    assert (ids[0], ids[-1]) == (2, 3) and min(ids[1:-1]) > 3


def test_a_frequent_special_name_stays_text():
    tokenizer = SubwordTokenizer.train(["<end><end> <end>"] * 1000, vocabulary_size=400)
    assert min(tokenizer.encode("<end>")) > 3


def test_a_single_merge_by_hand():
    tokenizer = SubwordTokenizer.train(["ab", "ab", "ac"], vocabulary_size=261)
    assert tokenizer.vocabulary_size == 261
    assert tokenizer.tokens(tokenizer.encode("abac")) == ["ab", "a", "c"]


def test_digits_can_stay_apart():
    texts = ["1974", "in"] * 10
    joined, split = (SubwordTokenizer.train(texts, 300, split_digits=option) for option in (False, True))
    assert joined.tokens(joined.encode("1974")) == ["1974"]
    assert split.tokens(split.encode("1974")) == ["1", "9", "7", "4"]
    assert split.decode(split.encode("in 1974")) == "in 1974"


def test_subword_training_repeats_in_another_process(fresh_python, tmp_path):
    texts = ["abc bcd cde abd", "我爱北京"] * 5
    path = str(tmp_path / "theirs")
    code = f"from companion.text import SubwordTokenizer as S; S.train({texts}, 300).save({path!r})"
    fresh_python(code, PYTHONHASHSEED="7", KERAS_BACKEND="numpy")  # the backend that starts fastest
    SubwordTokenizer.train(texts, 300).save(tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_parts_of_a_character_have_a_name():
    tokenizer = SubwordTokenizer.train(["a"], 260)
    assert tokenizer.tokens(tokenizer.encode("我 \n")) == ["\\xe6", "\\x88", "\\x91", "␣", "\\n"]


def test_unknown_shows_and_other_special_ids_do_not():
    assert SUBWORDS.decode([2, *SUBWORDS.encode("a"), 3, 1, 0, *SUBWORDS.encode("b"), 0]) == "a<unknown>b"


# Words


def test_the_sentence_of_the_article_has_four_words_and_seven_characters():
    by_word = WordTokenizer.train(CHINESE, language="zh", segmenter="jieba")
    by_character = WordTokenizer.train(CHINESE, language="zh")
    assert by_word.split("我爱北京天安门") == ["我", "爱", "北京", "天安门"]
    assert by_character.split("我爱北京天安门") == list("我爱北京天安门")


@pytest.mark.parametrize("language, segmenter", [("en", "char"), ("zh", "char"), ("zh", "jieba")])
@settings(max_examples=150, deadline=None)
@given(text=ANY_TEXT.filter(str.strip))
@example(text="I don't (really) know \"it\", state-of-the-art 50% cannot [x] a - b U.S. 'quoted' , odd")
@example(text="上午 11:42，  <end> 我 爱Python")
@example(text="<end>")
def test_known_words_give_back_the_text(language, segmenter, text):
    tokenizer = WordTokenizer.train([text], language, segmenter, lowercase=False)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == regular(text)
    assert min(ids) > tokenizer.end_id


def test_usual_english_spacing_costs_no_piece():
    text = "He doesn't know (yet), does he?"
    tokenizer = WordTokenizer.train([text], lowercase=False)
    assert tokenizer.tokens(tokenizer.encode(text)) == tokenizer.split(text)


def test_unusual_spacing_is_shown():
    tokenizer = WordTokenizer.train(["we cannot , yet"])
    assert tokenizer.tokens(tokenizer.encode("we cannot , yet")) == ["we", "can", "‿", "not", "␣", ",", "yet"]


def test_unknown_words_do_not_vanish(words):
    ids = words.encode("I hate programming")
    assert ids[1] == words.unknown_id and len(ids) == 3
    assert ids != words.encode("I programming")
    assert words.decode(ids) == "i <unknown> programming"
    assert words.encode("zzz qqq") == [1, 1]


@settings(max_examples=100, deadline=None)
@given(ANY_TEXT)
def test_each_unseen_word_has_an_id(text):
    tokenizer = WordTokenizer.train(["a"], lowercase=False)
    assert len(tokenizer.encode(text)) == len(tokenizer.split(text))


def test_vocabulary_is_ordered_by_count_then_spelling(words):
    texts = ["b a b", "c a b d d d d"]
    tokenizer = WordTokenizer.train(texts)
    assert tokenizer.tokens(range(tokenizer.vocabulary_size))[4:] == ["d", "b", "a", "c"]
    assert WordTokenizer.train(texts, max_words=2).vocabulary_size == 6
    assert WordTokenizer.train(texts, min_count=3).vocabulary_size == 6
    assert words.vocabulary_size == 4 + len({word for text in ENGLISH for word in text.lower().split()})


def test_spacing_is_not_counted_among_the_words():
    texts = ["we cannot , yet"]
    for count in (1, 2, 3, 5):
        tokenizer = WordTokenizer.train(texts, max_words=count)
        kept = tokenizer.tokens(range(4, tokenizer.vocabulary_size))
        assert len(set(kept) - {"␣", "‿"}) == count and {"␣", "‿"} <= set(kept)
    some, every = WordTokenizer.train(texts, max_words=5), WordTokenizer.train(texts)
    assert some.encode(texts[0]) == every.encode(texts[0])
    with pytest.raises(ValueError, match="texts must hold a word seen min_count=2 times"):
        WordTokenizer.train(["a ) b ]"], min_count=2)  # twice a space, each word once


def test_capitals():
    assert WordTokenizer.train(["A a"]).vocabulary_size == 5
    assert WordTokenizer.train(["A a"], lowercase=False).vocabulary_size == 6
    assert WordTokenizer.train(["A a"], language="zh").split("Aa") == ["A", "a"]


def test_splits_as_nltk_does():
    from nltk.tokenize import TreebankWordTokenizer

    tokenizer = WordTokenizer.train(ENGLISH, lowercase=False)
    for text in [*ENGLISH, "They don't, we'll see (maybe) at 5%; it's fine!", "Is it a test?"]:
        assert tokenizer.split(text) == TreebankWordTokenizer().tokenize(text)


def test_counts_as_keras_does(words):
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    layer = keras.layers.TextVectorization()
    layer.adapt(ENGLISH)
    assert set(layer.get_vocabulary()[2:]) == set(words.tokens(range(4, words.vocabulary_size)))
    ours = words.encode_batch([*ENGLISH, "I hate programming"])
    theirs = np.asarray(layer([*ENGLISH, "I hate programming"]))
    np.testing.assert_array_equal(ours == words.unknown_id, theirs == 1)  # both mark "hate"
    np.testing.assert_array_equal(ours == words.padding_id, theirs == 0)


def test_jieba_keeps_its_cache_with_the_user(fresh_python, tmp_path):
    code = "from companion import WordTokenizer as W; print(W.train(['我'], 'zh', 'jieba').split('天安门'))"
    temporary = tmp_path / "shared"
    temporary.mkdir()
    cache = str(tmp_path / "cache")
    printed = fresh_python(code, COMPANION_CACHE=cache, TMPDIR=str(temporary), KERAS_BACKEND="numpy")
    assert printed.strip() == "['天安门']"
    assert not list(temporary.iterdir())
    folder = tmp_path / "cache" / "jieba"
    assert [file.name for file in folder.iterdir()] == ["jieba.cache"]
    if os.name == "posix":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# Both


def both():
    return [SUBWORDS, WordTokenizer.train(ENGLISH), WordTokenizer.train(CHINESE, "zh", "jieba")]


@pytest.mark.parametrize("tokenizer", both())
def test_batches_are_padded_on_the_right(tokenizer):
    texts = ["I love programming", "", "Python is"]
    batch = tokenizer.encode_batch(texts, begin=True, end=True)
    rows = [tokenizer.encode(text, begin=True, end=True) for text in texts]
    assert batch.dtype == np.int32 and batch.shape == (3, max(map(len, rows)))
    for line, row in zip(batch, rows, strict=True):
        np.testing.assert_array_equal(line, row + [0] * (batch.shape[1] - len(row)))
    assert tokenizer.decode_batch(batch) == [tokenizer.decode(row) for row in rows]


@pytest.mark.parametrize("tokenizer", both())
@settings(max_examples=50, deadline=None)
@given(length=st.integers(3, 9), begin=st.booleans(), end=st.booleans())
def test_truncation_keeps_begin_and_end(tokenizer, length, begin, end):
    body = tokenizer.encode("I love programming in Python 我爱北京")
    (row,) = tokenizer.encode_batch(["I love programming in Python 我爱北京"], length, begin, end)
    expected = [2] * begin + body[: length - begin - end] + [3] * end
    np.testing.assert_array_equal(row, expected + [0] * (length - len(expected)))


def test_batches_of_nothing():
    assert SUBWORDS.encode_batch([]).shape == (0, 1)
    assert SUBWORDS.encode_batch([""]).tolist() == [[0]]
    assert SUBWORDS.encode_batch(["", ""], length=3).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("tokenizer", both())
def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "words.json")
    tokenizer.save(tmp_path)
    for path in (tmp_path / "new" / "words.json", tmp_path / "tokenizer.json", tmp_path):
        for again in (load_tokenizer(path), type(tokenizer).load(path)):
            assert type(again) is type(tokenizer) and again.vocabulary_size == tokenizer.vocabulary_size
            for text in [*ENGLISH, *CHINESE, *HARD]:
                assert again.encode(text) == tokenizer.encode(text)
                assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert sorted(file.name for file in tmp_path.rglob("*.json")) == ["tokenizer.json", "words.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, words):
    words.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        WordTokenizer.train(["other"]).save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    assert (tmp_path / "tokenizer.json").read_bytes() == before


def foreign_files():
    from tokenizers import Tokenizer, models, normalizers

    lossy = Tokenizer.from_str(SUBWORDS._to_json())
    lossy.normalizer = normalizers.Lowercase()
    word = {"format": "companion words 1", "language": "en", "segmenter": "char", "lowercase": True}
    return {
        "empty": ("", "Expecting value"),
        "cut": (SUBWORDS._to_json()[:5000], "saved tokenizer"),
        "list": ("[]", "SubwordTokenizer"),
        "other": ('{"a": 1}', "SubwordTokenizer"),
        "foreign": (
            Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).to_str(),
            "ids 0 to 3 must be <padding>",
        ),
        "lossy": (lossy.to_str(), "must give back what it encodes"),
        "newer": (json.dumps({**word, "format": "companion words 2", "words": []}), "saved SubwordTokenizer"),
        "twice": (json.dumps({**word, "words": ["a", "a"]}), "must be strings, each once"),
        "numbers": (json.dumps({**word, "words": [1]}), "must be strings, each once"),
        "no words": (json.dumps(word), "WordTokenizer"),
        "language": (json.dumps({**word, "words": [], "language": "xx"}), 'language must be "en" or "zh"'),
    }


@pytest.mark.parametrize("name", foreign_files())
def test_damaged_or_foreign_files_are_refused(name, tmp_path):
    content, message = foreign_files()[name]
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)


def test_files_of_the_wrong_kind_are_refused(tmp_path, words):
    words.save(tmp_path / "words.json")
    SUBWORDS.save(tmp_path / "subwords.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="path must be a saved SubwordTokenizer"):
        SubwordTokenizer.load(tmp_path / "words.json")
    with pytest.raises(ValueError, match="path must be a saved WordTokenizer"):
        WordTokenizer.load(tmp_path / "subwords.json")
    with pytest.raises(ValueError, match="path must be a saved tokenizer"):
        load_tokenizer(tmp_path / "binary")
    with pytest.raises(FileNotFoundError):
        load_tokenizer(tmp_path / "nothing.json")


@pytest.mark.parametrize("tokenizer", both())
def test_bad_input_is_named(tokenizer):
    with pytest.raises(TypeError, match="text must be a string; received NoneType"):
        tokenizer.encode(None)
    with pytest.raises(TypeError, match="texts must be a collection of strings; received str"):
        tokenizer.encode_batch("one text")
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string; received float"):
        tokenizer.encode_batch(["a", float("nan")])
    with pytest.raises(ValueError, match="text must be Unicode text; received a lone surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(ValueError, match="length must be above 2, for begin and end; received 2"):
        tokenizer.encode_batch(["a"], length=2, begin=True, end=True)
    with pytest.raises(ValueError, match=r"ids must be in \[0, vocabulary_size=\d+\); received -1 to 4"):
        tokenizer.decode([4, -1])
    with pytest.raises(ValueError, match=r"received 2 to \d+"):
        tokenizer.tokens([2, tokenizer.vocabulary_size])
    with pytest.raises(ValueError, match="ids must be one row of ints; received shape"):
        tokenizer.decode([[1, 2]])
    with pytest.raises(ValueError, match="ids must be one row of ints; received shape"):
        tokenizer.decode([0.5])


def test_bad_training_input_is_named():
    with pytest.raises(ValueError, match='language must be "en" or "zh"; received \'de\''):
        WordTokenizer.train(ENGLISH, language="de")
    with pytest.raises(ValueError, match='segmenter must be "char" or "jieba"; received \'pkuseg\''):
        WordTokenizer.train(CHINESE, language="zh", segmenter="pkuseg")
    with pytest.raises(ValueError, match="max_words must be at least 1 or None; received 0"):
        WordTokenizer.train(ENGLISH, max_words=0)
    with pytest.raises(ValueError, match="texts must hold a word seen min_count=2 times; received none"):
        WordTokenizer.train(["a b"], min_count=2)
    with pytest.raises(ValueError, match="texts must hold a word"):
        WordTokenizer.train([])
    with pytest.raises(ValueError, match="vocabulary_size must be at least 260; received 100"):
        SubwordTokenizer.train(ENGLISH, vocabulary_size=100)
    for kind in (WordTokenizer, SubwordTokenizer):
        with pytest.raises(TypeError, match="texts must be a collection of strings; received str"):
            kind.train("abc")
        with pytest.raises(TypeError, match=r"texts\[1\] must be a string; received int"):
            kind.train(["abc", 1])


def test_frequent_words_get_fewer_ids_than_bytes():
    text = " ".join(ENGLISH)
    counts = Counter(text.encode())
    assert len(SUBWORDS.encode(text)) < counts.total() / 3
