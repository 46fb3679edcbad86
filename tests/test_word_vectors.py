"""word2vec, fastText and GloVe as a whole: what they learn from small corpora, seeds, bars, bad arguments."""

import re
from functools import partial

import numpy as np
import pytest

from companion import WordVectors, fasttext, glove, word2vec, word_vectors
from companion.subwords import Subwords, ngram_rows
from companion.word_corpus import encode_corpus

word2vec, fasttext, glove = (partial(train, progress=False) for train in (word2vec, fasttext, glove))
# A few dimensions, no thinning out (of so few words it would leave nothing), a small table of n-grams.
SMALL = dict(vector_dim=16, window=4)
WORD2VEC = dict(SMALL, subsample=0)
FASTTEXT = dict(WORD2VEC, buckets=2000)
TRAINERS = {
    "skip-gram": partial(word2vec, **WORD2VEC),
    "cbow": partial(word2vec, mode="cbow", **WORD2VEC),
    "fasttext": partial(fasttext, **FASTTEXT),
    "fasttext-cbow": partial(fasttext, mode="cbow", **FASTTEXT),
    "glove": partial(glove, x_max=10, **SMALL),
}
each_trainer = pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
TOPICS = [
    ["sea", "wave", "ship", "sailor", "harbor", "fish", "storm", "anchor", "coast", "island"],
    ["oven", "flour", "bread", "sugar", "cake", "butter", "dough", "recipe", "kitchen", "spoon"],
]
SHARED = ["the", "of", "and", "with"]


def sentences(seed, topics=TOPICS, number=3000):
    """Sentences of words of one topic and of words that all topics share."""
    random = np.random.default_rng(seed)
    for i in range(number):
        topic = topics[i % len(topics)]
        size = random.integers(5, 12)
        drawn = random.random(size), random.integers(0, len(topic), size), random.integers(0, 4, size)
        yield [SHARED[k] if p < 0.2 else topic[j] for p, j, k in zip(*drawn, strict=True)]


@pytest.fixture(scope="module")
def corpus():
    return list(sentences(0))


def cosines(vectors, topics=TOPICS):
    """Mean cosine of two words of one topic, and of two words of two topics."""
    unit = np.stack([vectors[word] / np.linalg.norm(vectors[word]) for topic in topics for word in topic])
    number = np.repeat(np.arange(len(topics)), list(map(len, topics)))
    same, products = number[:, None] == number, unit @ unit.T
    return products[same & ~np.eye(len(unit), dtype=bool)].mean(), products[~same].mean()


# What is learned


@pytest.mark.parametrize("name, seed", [("skip-gram", seed) for seed in range(5)] + [("cbow", 0), ("cbow", 1),
    ("fasttext", 0), ("fasttext", 1), ("fasttext-cbow", 0), ("glove", 0), ("glove", 1)])  # fmt: skip
def test_words_of_a_topic_come_together(name, seed):
    vectors = TRAINERS[name](sentences(seed), seed=seed, epochs=25 if name == "glove" else 10)
    inside, between = cosines(vectors)
    assert inside > between + 0.15 and inside > 0.9
    for topic in TOPICS:
        assert {word for word, _ in vectors.nearest(topic[0], 9)} == set(topic[1:])


@each_trainer
def test_what_comes_back(corpus, train):
    vectors, encoded = train(iter(corpus), epochs=2), encode_corpus(corpus)
    assert isinstance(vectors, WordVectors) and vectors.words == encoded.words and len(vectors) == 24
    assert vectors.counts.tolist() == encoded.counts.tolist() and vectors.vectors.shape == (24, 16)
    assert set(vectors.history) == {"loss"} and len(vectors.history["loss"]) == 2
    assert all(isinstance(loss, float) for loss in vectors.history["loss"])
    assert vectors.vectors.any(axis=1).all() and vectors.vectors.dtype == np.float32


@each_trainer
def test_the_loss_falls(corpus, train):
    losses = train(corpus, epochs=8).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_untrained_output_vectors_of_zero_tell_nothing_apart(corpus):
    """A pair and each of its noise words then cost log 2."""
    for negatives in (1, 5):
        for name in ("skip-gram", "cbow", "fasttext"):
            (loss,) = TRAINERS[name](corpus, negatives=negatives, epochs=1).history["loss"]
            assert loss == pytest.approx((1 + negatives) * np.log(2), rel=1e-5)


@each_trainer
def test_the_seed_decides(corpus, train):
    first, again, other = (train(corpus, epochs=2, seed=seed) for seed in (1, 1, 2))
    assert first.vectors.tobytes() == again.vectors.tobytes() and first.history == again.history
    assert np.abs(first.vectors - other.vectors).max() > 1e-3


@pytest.mark.parametrize("name, reach", [("skip-gram", 0.5), ("glove", 1.0)])
def test_vectors_start_small_and_at_random(corpus, name, reach):
    first, other = (TRAINERS[name](corpus, learning_rate=1e-12, epochs=1, seed=s).vectors for s in (0, 1))
    assert 0.8 * reach / 16 < np.abs(first).max() < reach / 16 and not np.array_equal(first, other)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] < 0.3


def test_rare_words_are_left_out(corpus):
    counts = encode_corpus(corpus).counts
    for train in (TRAINERS["skip-gram"], TRAINERS["fasttext"], TRAINERS["glove"]):
        assert len(train(corpus, min_count=int(counts[4]), epochs=1)) < 24
        assert len(train([*corpus, ["rare"]], min_count=1, epochs=1)) == 25


def test_numbers_of_numpy_are_taken(corpus):
    numbers = dict(window=np.int64(2), epochs=np.int32(1), seed=np.int64(3), vector_dim=np.int64(4))
    for train in (word2vec, fasttext, glove):
        more = {"buckets": np.int64(50), "min_n": np.int64(2)} if train is fasttext else {}
        train(corpus[:200], min_count=np.int64(1), learning_rate=np.float32(0.1), **numbers, **more)


@pytest.mark.parametrize("name", ["skip-gram", "cbow", "fasttext"])
def test_frequent_words_can_be_thinned_out(corpus, name):
    less = TRAINERS[name](corpus, subsample=0.005, epochs=12)
    inside, between = cosines(less)
    assert inside > between + 0.2
    assert not np.array_equal(less.vectors, TRAINERS[name](corpus, epochs=12).vectors)


# fastText

STEMS = {"en": ["walk", "sing", "paint", "cook", "climb", "laugh"], "zh": ["北京", "上海", "苹果", "音乐"]}
ENDINGS = {"en": ["", "s", "ed", "er"], "zh": ["", "人", "店", "节"]}
UNSEEN = {"en": "ing", "zh": "队"}
NGRAMS = {"en": dict(min_n=3, max_n=6), "zh": dict(min_n=1, max_n=3)}


def of_stems(language, seed=0):
    topics = [[stem + ending for ending in ENDINGS[language]] for stem in STEMS[language]]
    return sentences(seed, topics, 3000)


@pytest.mark.parametrize("mode", ["skip-gram", "cbow"])
@pytest.mark.parametrize("language", STEMS)
def test_unseen_words_lie_near_words_of_their_stem(tmp_path, language, mode):
    vectors = fasttext(of_stems(language), mode, epochs=10, **FASTTEXT, **NGRAMS[language])
    unseen = [stem + UNSEEN[language] for stem in STEMS[language]]
    for word, stem in zip(unseen, STEMS[language], strict=True):
        assert word not in vectors.words and word in vectors and vectors[word].any()
        nearest = [name for name, _ in vectors.nearest(word, 3)]
        assert all(name.startswith(stem) for name in nearest), (word, nearest)
    assert "" not in vectors or language == "zh"
    vectors.save(tmp_path / "model.bin")
    loaded = WordVectors.load(tmp_path / "model.bin")
    assert loaded.words == vectors.words and loaded.counts.tolist() == vectors.counts.tolist()
    assert loaded.subwords[1:] == vectors.subwords[1:] == tuple(NGRAMS[language].values())
    np.testing.assert_allclose(loaded.vectors, vectors.vectors, atol=1e-5)
    for word in unseen:
        np.testing.assert_array_equal(loaded[word], vectors[word])
        assert loaded.nearest(word, 1)[0][0] == vectors.nearest(word, 1)[0][0]


def test_a_word_is_the_mean_of_its_own_row_and_those_of_its_ngrams(monkeypatch):
    trained = []

    def train(corpus, table, **settings):
        trained.append(table)
        return real(corpus, table, **settings)

    real = word_vectors.train_vectors
    monkeypatch.setattr(word_vectors, "train_vectors", train)
    corpus = [["walk", "a", "北京", "</s>", "walked", "aaaa"]] * 30
    vectors = fasttext(corpus, vector_dim=4, min_n=2, max_n=4, buckets=40, epochs=2)
    values = trained[0].values.numpy()
    assert values.shape == (6 + 40, 4) and vectors.subwords[1:] == (2, 4)
    np.testing.assert_array_equal(vectors.subwords.table, values[6:])
    ids = np.array([3, 0, 3, 5, 1, 4, 2], "int32")
    for i, in_training in zip(ids, trained[0].read(ids).numpy(), strict=True):
        word = vectors.words[i]
        parts = [i, *(6 + row for row in ngram_rows(word, 2, 4, 40))]
        assert len(parts) == {"</s>": 1, "a": 4}.get(word, len(parts))
        for vector in (in_training, vectors[word]):
            np.testing.assert_allclose(vector, values[parts].mean(axis=0), atol=1e-6)


def test_a_word_without_neighbors_learns_from_words_that_share_its_ngrams(corpus):
    lonely = corpus + [["sailorly"]] * 5
    vectors, alone = fasttext(lonely, epochs=5, **FASTTEXT), word2vec(lonely, epochs=5, **WORD2VEC)
    assert vectors.similarity("sailorly", "sailor") > 0.8 > 0.6 > alone.similarity("sailorly", "sailor")
    assert isinstance(vectors.subwords, Subwords) and alone.subwords is None
    assert "sailory" in vectors and "sailory" not in alone
    assert alone["sailorly"].tolist() == word2vec(lonely, epochs=1, **WORD2VEC)["sailorly"].tolist()


# What is shown


@pytest.mark.parametrize("train", [word_vectors.word2vec, word_vectors.fasttext, word_vectors.glove])
def test_a_bar_shows_the_loss_and_words_per_second(corpus, capsys, train):
    vectors = train(corpus, vector_dim=4, epochs=2, seed=0)
    shown = capsys.readouterr()
    (loss,) = re.findall(rf"{train.__name__}: 100%.* words/s, loss=([\d.]+)\]", shown.err)
    assert shown.out == "" and float(loss) == pytest.approx(vectors.history["loss"][-1], abs=1e-3)
    train(corpus, vector_dim=4, epochs=1, progress=False)
    assert capsys.readouterr() == ("", "")


def test_many_short_trainings_log_no_warning(fresh_python):
    """TensorFlow warns of functions that it compiles again and again."""
    code = """
import logging
from companion import glove, word2vec
handler, records = logging.Handler(), []
handler.emit = records.append
logging.getLogger("tensorflow").addHandler(handler)
for train in (word2vec, glove):
    for seed in range(7):
        train([["a", "b"]] * 10, vector_dim=2, epochs=1, seed=seed, progress=False)
print([record.getMessage()[:60] for record in records])
"""
    assert fresh_python(code) == "[]\n"


# Bad arguments


@pytest.mark.parametrize("train", [word2vec, fasttext], ids=["word2vec", "fasttext"])
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "glove"}, r"mode must be one of 'skip-gram', 'cbow'; received mode='glove'\."),
        ({"vector_dim": 0}, r"vector_dim must be at least 1; received vector_dim=0\."),
        ({"window": 0}, r"window must be at least 1; received window=0\."),
        ({"negatives": 0}, r"negatives must be at least 1; received negatives=0\."),
        ({"epochs": 0}, r"epochs must be at least 1; received epochs=0\."),
        ({"min_count": 0}, r"min_count must be at least 1; received min_count=0\."),
        ({"learning_rate": 0}, r"learning_rate must be above 0 and finite; received learning_rate=0\."),
        ({"learning_rate": -0.1}, "learning_rate must be above 0 and finite; received learning_rate=-0.1"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0 and finite; .*=nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0 and finite; .*=inf"),
        ({"subsample": -1}, r"subsample must be 0 or positive; received subsample=-1\."),
        ({"subsample": float("nan")}, "subsample must be 0 or positive; received subsample=nan"),
    ],
)
def test_impossible_settings_are_refused_before_the_corpus_is_read(train, arguments, message):
    with pytest.raises(ValueError, match=message):
        train(never_read(), **arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"min_n": 0}, r"min_n must be at least 1; received min_n=0\."),
        ({"min_n": 4, "max_n": 3}, r"max_n must be at least 4; received max_n=3\."),
        ({"buckets": 0}, r"buckets must be at least 1; received buckets=0\."),
    ],
)
def test_impossible_ngrams_are_refused_before_the_corpus_is_read(arguments, message):
    with pytest.raises(ValueError, match=message):
        fasttext(never_read(), **arguments)


def never_read():
    raise AssertionError("the corpus was read")
    yield


@each_trainer
def test_bad_corpora_are_refused(train):
    with pytest.raises(TypeError, match="corpus must be an iterable of lists of tokens; received str"):
        train("a b c")
    with pytest.raises(TypeError, match="corpus must hold strings; received 1, int"):
        train([[1, 2]])
    with pytest.raises(ValueError, match="corpus must hold tokens; received 0 sentences"):
        train([])
    with pytest.raises(ValueError, match="min_count must leave a word; received min_count=5"):
        train([["a", "b"]])


@pytest.mark.parametrize("name", ["skip-gram", "cbow", "fasttext"])
@pytest.mark.parametrize("epochs, words", [(1, "200"), (3, "400")])
def test_training_that_runs_away_is_stopped(name, epochs, words):
    message = rf"training ran away after {words} words, to nan: lower learning_rate=1e\+38\."
    with pytest.raises(FloatingPointError, match=message):
        TRAINERS[name]([["a", "b", "c", "d"]] * 50, epochs=epochs, learning_rate=1e38)
