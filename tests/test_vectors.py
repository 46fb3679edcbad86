"""Looking up, comparing and scoring vectors, as gensim does; tables and layers of them; their files."""

import keras
import numpy as np
import pytest
from gensim.models import KeyedVectors

from companion import WordTokenizer, WordVectors, read_analogies, read_similarities
from companion.subwords import Subwords, character_ngrams

WORDS = [first + second for first in "abcdefghij" for second in "klmnopqrst"]


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(actual), expected, atol=tolerance, rtol=tolerance)


@pytest.fixture
def vectors(rng):
    """A hundred words, vectors of any length and of a common direction."""
    return WordVectors(WORDS, rng.standard_normal((100, 8)) * rng.uniform(0.1, 9, (100, 1)) + 0.5)


@pytest.fixture
def theirs(vectors):
    keyed = KeyedVectors(8)
    keyed.add_vectors(vectors.words, vectors.vectors)
    return keyed


@pytest.fixture
def animals():
    rows = {"cat": [2, 0], "dog": [3, 4], "emu": [0, 1], "fly": [-1, 0], "nil": [0, 0]}
    return WordVectors(list(rows), list(rows.values()))


@pytest.fixture
def composed(rng):
    """Three words of a fastText model."""
    subwords = Subwords(rng.standard_normal((50, 4), dtype="float32"), 3, 4)
    own = rng.standard_normal((3, 4))
    words = ["walk", "sing", "北京"]
    rows = [subwords.compose(word, row) for word, row in zip(words, own, strict=True)]
    return WordVectors(words, rows, subwords, np.array([5, 4, 3]))


# Looking up


def test_words_have_their_vectors(animals):
    assert len(animals) == 5 and animals.vector_dim == 2 and "cat" in animals
    assert animals["dog"].tolist() == [3, 4] and animals["dog"].dtype == np.float32
    assert animals.words[0] == "cat" and animals.counts is animals.subwords is None and animals.history == {}
    assert repr(animals) == "WordVectors(5 words, vector_dim=2)"


def test_a_word_without_a_vector_is_named(animals):
    for missing in ("cow", "Cat", "", None, 3):
        assert missing not in animals
    with pytest.raises(KeyError, match="'cow' is none of the 5 words"):
        animals["cow"]
    for ask in (animals.nearest, lambda word: animals.similarity("cat", word),
                lambda word: animals.analogy("cat", word, "dog")):  # fmt: skip
        with pytest.raises(KeyError, match="'cow' is none of the 5 words"):
            ask("cow")


def test_words_outside_are_composed_of_their_ngrams(composed):
    table = composed.subwords.table
    assert repr(composed) == "WordVectors(3 words, vector_dim=4, subwords=50)"
    assert "walking" in composed and "京" in composed and "" not in composed and 3 not in composed
    close(composed["walking"], composed.subwords.compose("walking"))
    assert len(character_ngrams("京", 3, 4)) == 1 and (composed["京"] == table).all(axis=1).any()
    with pytest.raises(KeyError, match="'' is none of the 3 words"):
        composed[""]
    assert [word for word, _ in composed.nearest("walking", 5)].count("walk") == 1
    assert len(composed.nearest("walk", 5)) == 2 and len(composed.nearest("walking", 5)) == 3


@pytest.mark.parametrize(
    "words, rows, message",
    [
        ("ab", [[1, 2]], r"vectors must be \(N, D\), a row for each of 2 words; received \(1, 2\)\."),
        ("ab", [1, 2], r"vectors must be \(N, D\), a row for each of 2 words; received \(2,\)"),
        ("", np.zeros((0, 3)), r"a row for each of 0 words; received \(0, 3\)"),
        ("a", np.zeros((1, 0)), r"a row for each of 1 words; received \(1, 0\)"),
        ("abcb", np.ones((4, 2)), r"words must be different; received 'b' twice\."),
        ("abc", [[1, 2], [3, np.nan], [np.inf, 0]], r"vectors must be finite; received 'b' with another\."),
    ],
)
def test_what_does_not_fit_is_refused(words, rows, message):
    with pytest.raises(ValueError, match=message):
        WordVectors(list(words), rows)


# Neighbors and analogies


def test_cosines_by_hand(animals):
    assert animals.similarity("cat", "dog") == pytest.approx(0.6)
    assert animals.similarity("cat", "fly") == -1 and animals.similarity("cat", "emu") == 0
    found = animals.nearest("cat", 2)
    assert [word for word, _ in found] == ["dog", "emu"] and found[0][1] == pytest.approx(0.6)
    assert animals.nearest(np.array([0, 7.0]), 1) == [("emu", 1.0)]
    answers = animals.analogy("fly", "cat", "emu", 3)  # (1, 0) - (-1, 0) + (0, 1)
    assert [word for word, _ in answers] == ["dog", "nil"]
    assert answers[0][1] == pytest.approx((2 * 0.6 + 0.8) / np.sqrt(5))


def test_neighbors_are_those_of_gensim(vectors, theirs):
    for word in WORDS[::7]:
        ours, expected = vectors.nearest(word, 12), theirs.most_similar(word, topn=12)
        assert [name for name, _ in ours] == [name for name, _ in expected]
        close([cosine for _, cosine in ours], [cosine for _, cosine in expected])


def test_similarities_are_those_of_gensim(vectors, theirs):
    for a, b in zip(WORDS, WORDS[3:], strict=False):
        assert vectors.similarity(a, b) == pytest.approx(theirs.similarity(a, b), abs=1e-5)


def test_analogies_are_those_of_gensim(vectors, theirs, rng):
    for _ in range(30):
        a, b, c = rng.choice(WORDS, 3, replace=False).tolist()
        ours, expected = vectors.analogy(a, b, c, 8), theirs.most_similar([b, c], [a], topn=8)
        assert [name for name, _ in ours] == [name for name, _ in expected]
        close([cosine for _, cosine in ours], [cosine for _, cosine in expected])


def test_a_word_is_no_neighbor_of_its_own_and_no_more_words_than_there_are_come_back(animals):
    for k in (4, 5, 6, 1000):
        assert sorted(word for word, _ in animals.nearest("cat", k)) == ["dog", "emu", "fly", "nil"]
        assert len(animals.nearest(animals["cat"], k)) == min(k, 5)
        assert len(animals.analogy("cat", "dog", "emu", k)) == 2
    assert animals.nearest(animals["cat"], 1)[0][0] == "cat"


def test_fewer_neighbors_are_the_first_of_more_also_among_equals(rng):
    """Of words equally near the more frequent one, which stands first, comes first."""
    kinds = rng.integers(0, 3, 100)
    vectors = WordVectors([str(i) for i in range(100)], np.eye(3)[kinds])
    equal = [str(i) for i in np.flatnonzero(kinds == kinds[0])[1:]]
    assert [word for word, _ in vectors.nearest("0", len(equal))] == equal
    for k in (1, 2, 5, len(equal) + 3, 99):
        assert vectors.nearest("0", k) == vectors.nearest("0", 99)[:k]


def test_zero_vectors_are_near_nothing(animals):
    assert animals.similarity("nil", "cat") == animals.similarity("nil", "nil") == 0
    assert all(cosine == 0 for _, cosine in animals.nearest("nil")) and len(animals.nearest("nil")) == 4
    assert dict(animals.nearest("cat"))["nil"] == 0
    assert all(np.isfinite(cosine) for _, cosine in animals.analogy("nil", "cat", "emu"))


def test_bad_questions_are_refused(animals):
    with pytest.raises(ValueError, match=r"k must be at least 1; received k=0\."):
        animals.nearest("cat", 0)
    with pytest.raises(ValueError, match="k must be at least 1; received k=-1"):
        animals.analogy("cat", "dog", "emu", -1)
    for wrong in (np.ones(3), np.ones((1, 2))):
        with pytest.raises(ValueError, match=r"word must be a string or a vector \(2,\); received \("):
            animals.nearest(wrong)


# Scores


def test_similarity_scores_are_those_of_gensim(vectors, theirs, rng, tmp_path):
    pairs = [(*rng.choice(WORDS, 2, replace=False), round(rng.uniform(0, 10), 1)) for _ in range(60)]
    pairs += [("ak", "nowhere", 3.0), ("unknown", "nowhere", 4.0)]
    (tmp_path / "pairs").write_text("".join(f"{a}\t{b}\t{score}\n" for a, b, score in pairs))
    score = vectors.evaluate_similarity(read_similarities(tmp_path / "pairs"))
    _, spearman, missing = theirs.evaluate_word_pairs(str(tmp_path / "pairs"))
    assert score.correlation == pytest.approx(spearman[0], abs=1e-5)
    assert (score.pairs, score.missing) == (60, 2) and missing == pytest.approx(100 * 2 / 62)


def test_similarity_scores_by_hand(animals):
    pairs = [("cat", "dog", 9), ("cat", "emu", 5), ("cat", "fly", 1)]
    assert animals.evaluate_similarity(iter(pairs)) == (pytest.approx(1), 3, 0)
    assert animals.evaluate_similarity([(a, b, -score) for a, b, score in pairs])[0] == pytest.approx(-1)
    half = [("cat", "dog", 5), ("cat", "emu", 9), ("cat", "fly", 1), ("cat", "cow", 0)]
    assert animals.evaluate_similarity(half) == (pytest.approx(0.5), 3, 1)


@pytest.mark.parametrize("pairs", [[], [("cat", "dog", 1)], [("cat", "dog", 1), ("cat", "emu", 1)],
                                   [("cat", "dog", 1), ("cat", "cow", 2)]])  # fmt: skip
def test_pairs_without_two_scores_are_refused(animals, pairs):
    known = sum("cow" not in pair for pair in pairs)
    message = "pairs must hold two different scores, and cosines, of words that have vectors; "
    message += f"received {len(pairs)} pairs, {known} of them with vectors"
    with pytest.raises(ValueError, match=message):
        animals.evaluate_similarity(pairs)


@pytest.fixture
def questions(theirs, rng, tmp_path):
    """A file of three sections: right answers, right ones of the first 60 words, any; some are no words."""
    lines = []
    for number in range(210):
        a, b, c, d = rng.choice(WORDS[:40], 4, replace=False).tolist()
        if number % 3:
            ((d, _),) = theirs.most_similar(
                [b, c], [a], topn=1, restrict_vocab=100 if number % 3 == 1 else 60
            )
        lines += [f": section {number // 70}"] * (number % 70 == 0)
        lines.append(f"{a} {b} {c} {'nowhere' if number % 5 == 0 else d}")
    (tmp_path / "questions").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "questions"


@pytest.mark.parametrize("most", [None, 60, 10**6])
def test_analogy_scores_are_those_of_gensim(vectors, theirs, questions, most):
    ours = vectors.evaluate_analogies(read_analogies(questions), most)
    share, sections = theirs.evaluate_word_analogies(str(questions), restrict_vocab=most or 10**6)
    assert list(ours) == ["section 0", "section 1", "section 2", "total"] and len(sections) == 4
    for score, expected in zip(ours.values(), sections, strict=True):
        assert score.right == len(expected["correct"])
        assert score.questions == len(expected["correct"]) + len(expected["incorrect"])
    assert ours["total"].accuracy == pytest.approx(share, abs=1e-5)
    assert 20 < ours["total"].right < ours["total"].questions
    assert ours["total"].questions + ours["total"].missing == 210


def test_analogy_scores_by_hand():
    vectors = WordVectors(["a", "b", "c", "d", "e"], [[2, 0], [0, 3], [1, 0], [0, 0.1], [1, 1]])
    asked = {"x": [("a", "b", "c", "d"), ("a", "b", "c", "e"), ("a", "b", "c", "cow")], "none": []}
    scores = vectors.evaluate_analogies(asked)
    assert scores["x"] == (1, 2, 1) and scores["none"] == (0, 0, 0) and scores["total"] == (1, 2, 1)
    assert vectors.evaluate_analogies(asked, most=4)["total"] == (1, 1, 2)


def test_no_questions_have_no_score(animals):
    assert animals.evaluate_analogies({"empty": []}) == {"empty": (0, 0, 0), "total": (0, 0, 0)}
    assert animals.evaluate_analogies({}) == {"total": (0, 0, 0)}


# Tables and layers


@pytest.fixture
def tokenizer():
    return WordTokenizer(["dog", "cow", "cat", "yak"])


def test_a_table_has_the_vectors_in_the_order_of_the_tokenizer(animals, tokenizer):
    table, missing = animals.embedding_table(tokenizer)
    assert table.shape == (8, 2) and table.dtype == np.float32 and missing == ["cow", "yak"]
    assert not table[tokenizer.padding_id].any()
    (dog,), (cat,) = tokenizer.encode("dog"), tokenizer.encode("cat")
    assert table[dog].tolist() == [3, 4] and table[cat].tolist() == [2, 0]
    drawn = np.delete(table, [tokenizer.padding_id, dog, cat], axis=0)
    assert len(np.unique(drawn, axis=0)) == 5 and drawn.all()  # unknown, begin, end, cow, yak
    np.testing.assert_array_equal(animals.embedding_table(tokenizer)[0], table)
    other = animals.embedding_table(tokenizer, seed=1)[0]
    np.testing.assert_array_equal((other == table).all(axis=1), [1, 0, 0, 0, 1, 0, 1, 0])


def test_missing_rows_are_drawn_like_the_vectors(rng):
    vectors = WordVectors(WORDS, rng.standard_normal((100, 3)) * [0.1, 1, 5] + [3, -2, 0])
    tokenizer = WordTokenizer([f"none{i}" for i in range(20_000)] + WORDS)
    table, missing = vectors.embedding_table(tokenizer)
    drawn, (mean, spread) = table[4:20_004], (vectors.vectors.mean(axis=0), vectors.vectors.std(axis=0))
    assert missing == [f"none{i}" for i in range(20_000)]
    assert (np.abs(drawn.mean(axis=0) - mean) < 4 * spread / np.sqrt(20_000)).all()
    close(drawn.std(axis=0) / spread, 1, 0.02)
    close(((drawn - mean) / spread < -1).mean(axis=0), 0.1587, 0.012)  # as the normal distribution has it
    close(np.corrcoef(drawn.T), np.eye(3), 0.03)
    np.testing.assert_array_equal(table[20_004:], vectors.vectors)


def test_a_table_takes_composed_words(composed):
    table, missing = composed.embedding_table(WordTokenizer(["walking", "walk", "北京"], "zh"))
    assert missing == []
    np.testing.assert_array_equal(table[4:], [composed[word] for word in ("walking", "walk", "北京")])


def test_a_layer_gives_the_vectors_and_says_what_is_missing(animals, tokenizer, capsys):
    layer = animals.embedding_layer(tokenizer)
    assert capsys.readouterr().out == "2 of 4 tokens have a vector; missing 2, such as cow, yak\n"
    tokens = tokenizer.encode_batch(["dog cow cat", "cat"])
    table, _ = animals.embedding_table(tokenizer)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(tokens)), table[tokens])
    assert not layer.trainable and layer.built and not layer.trainable_weights
    assert animals.embedding_layer(tokenizer, trainable=True).trainable
    other = keras.ops.convert_to_numpy(animals.embedding_layer(tokenizer, seed=4).embeddings)
    np.testing.assert_array_equal(other, animals.embedding_table(tokenizer, 4)[0])


def test_a_layer_says_three_of_the_words_that_are_missing(animals, capsys):
    animals.embedding_layer(WordTokenizer(["cat", *"pqrs"]))
    animals.embedding_layer(WordTokenizer(["cat", "dog"]))
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "1 of 5 tokens have a vector; missing 4, such as p, q, r",
        "2 of 2 tokens have a vector; missing 0",
    ]


@pytest.mark.parametrize("trainable", [False, True])
def test_a_model_with_the_layer_trains_and_is_saved(animals, tokenizer, tmp_path, step_changes, trainable):
    inputs = keras.Input((None,), dtype="int32")
    embedded = animals.embedding_layer(tokenizer, trainable)(inputs)
    outputs = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(embedded))
    model, tokens = keras.Model(inputs, outputs), tokenizer.encode_batch(["dog cow", "cat cat"])
    changes = step_changes(model, tokens, np.array([[5.0], [-5.0]]))
    table = keras.ops.convert_to_numpy(model.get_layer("word_embedding").embeddings)
    before, _ = animals.embedding_table(tokenizer)
    assert len(changes) == 2 + trainable and min(changes.values()) > 1e-3
    moved = np.flatnonzero((table != before).any(axis=1)).tolist()
    assert moved == (sorted(set(tokens.ravel().tolist())) if trainable else [])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(tokens, verbose=0), model.predict(tokens, verbose=0))
    assert loaded.get_layer("word_embedding").trainable == trainable


# Files


@pytest.mark.parametrize("name, format", [("v.txt", "glove"), ("v.vec", "word2vec"), ("v.bin", None),
                                          ("v.vec.gz", None), ("v", "word2vec-binary")])  # fmt: skip
def test_vectors_are_saved_and_loaded(vectors, tmp_path, name, format):
    vectors.save(tmp_path / name, format)
    loaded = WordVectors.load(tmp_path / name)
    assert loaded.words == vectors.words and loaded.subwords is loaded.counts is None
    np.testing.assert_array_equal(loaded.vectors, vectors.vectors)
    some = WordVectors.load(str(tmp_path / name), vocabulary=["cm", "ak", "nowhere"])
    assert some.words == ["ak", "cm"] and some["cm"].tolist() == vectors["cm"].tolist()


def test_a_fasttext_model_keeps_ngrams_and_counts(composed, tmp_path):
    composed.save(tmp_path / "model.bin")
    loaded = WordVectors.load(tmp_path / "model.bin")
    assert loaded.words == composed.words and loaded.counts.tolist() == [5, 4, 3]
    close(loaded.vectors, composed.vectors, 1e-6)
    np.testing.assert_array_equal(loaded["walking"], composed["walking"])
    few = WordVectors.load(tmp_path / "model.bin", ["walking", "sing"])
    assert few.words == ["sing", "walking"] and few.subwords is None and "walked" not in few
    close(few["walking"], composed["walking"], 1e-6)


def test_files_without_the_words_wanted_are_refused(vectors, composed, tmp_path):
    vectors.save(tmp_path / "v.txt")
    message = r"vocabulary must hold a word of .*v.txt; received 2 others\."
    with pytest.raises(ValueError, match=message):
        WordVectors.load(tmp_path / "v.txt", ["nowhere", "never"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        WordVectors.load(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="format must be one of .*; received format='x'"):
        vectors.save(tmp_path / "v.txt", "x")


def test_cosines_that_are_all_equal_have_no_order():
    made = WordVectors(["a", "b", "c"], np.eye(3))
    with pytest.raises(ValueError, match=r"two different scores, and cosines, of words .* 3 of them with"):
        made.evaluate_similarity([("a", "b", 1), ("b", "c", 2), ("a", "c", 3)])


def test_a_cosine_is_never_above_one():
    made = WordVectors(map(str, range(200)), np.random.default_rng(0).normal(size=(200, 100)))
    assert max(made.similarity(word, word) for word in made.words) <= 1
