from collections import Counter

import keras
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from companion import data


@pytest.fixture(scope="module")
def examples():
    return data.library_classification()


@pytest.fixture
def sequences():
    """500 pairs of ids from 4; some of them hold a 0, which is no padding there."""
    rng = np.random.default_rng(0)
    sources = [rng.integers(4, 99, rng.integers(1, 21)).tolist() for _ in range(500)]
    targets = [[2, *rng.integers(0, 99, rng.integers(0, 31)).tolist(), 3] for _ in range(500)]
    return sources, targets


def read(batches):
    """The pairs that batches hold, padding cut off by the weights."""
    found = []
    for inputs, labels, weights in batches.as_numpy_iterator():
        for source, target, label, weight in zip(*inputs.values(), labels, weights, strict=True):
            length = int(weight.sum())
            assert weight.tolist() == [1.0] * length + [0.0] * (len(weight) - length)
            assert not target[length:].any() and not label[length:].any()
            assert target[1:length].tolist() == label[: length - 1].tolist()  # shifted by one
            source = source[: np.flatnonzero(source)[-1] + 1]
            found.append((tuple(source.tolist()), (*target[:length].tolist(), int(label[length - 1]))))
    return found


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_pair_comes_once_in_every_pass(sequences, shuffle):
    batches = data.sequence_batches(*sequences, batch_size=32, boundaries=(8, 16, 32), shuffle=shuffle)
    expected = Counter((tuple(source), tuple(target)) for source, target in zip(*sequences, strict=True))
    first, second = read(batches), read(batches)
    assert Counter(first) == Counter(second) == expected
    assert (first != second) == shuffle


def test_batches_have_the_lengths_of_the_boundaries_and_no_pair_has_room_in_a_smaller_one(sequences):
    boundaries, seen = (8, 16, 32), set()
    for inputs, labels, weights in data.sequence_batches(*sequences, 32, boundaries).as_numpy_iterator():
        source, target = inputs["source_tokens"], inputs["target_tokens"]
        assert source.shape == target.shape == labels.shape == weights.shape
        assert (source.dtype, target.dtype, labels.dtype) == ("int32",) * 3 and weights.dtype == "float32"
        size, length = source.shape
        assert size <= 32 and length in boundaries
        seen.add(length)
        longest = np.maximum((source > 0).sum(1), weights.sum(1))
        assert longest.min() > max((b for b in boundaries if b < length), default=0)
    assert seen == set(boundaries)


def test_dropping_the_remainder_leaves_one_shape_per_boundary(sequences):
    batches = data.sequence_batches(*sequences, 32, (8, 16, 32), drop_remainder=True)
    shapes = Counter(labels.shape for _, labels, _ in batches.as_numpy_iterator())
    assert set(shapes) == {(32, 8), (32, 16), (32, 32)}
    assert 500 - 3 * 32 < 32 * sum(shapes.values()) <= 500


@pytest.mark.parametrize("drop_remainder", [True, False])
def test_the_number_of_batches_is_known_and_so_no_optimizer_steps_once_too_often(sequences, drop_remainder):
    sources, targets = sequences
    texts = data.text_batches(sources, np.zeros(len(sources)), 32, (8, 16, 32), drop_remainder=drop_remainder)
    pairs = data.sequence_batches(*sequences, 32, (8, 16, 32), drop_remainder=drop_remainder)
    for batches in (texts, pairs):
        assert len(batches) == sum(1 for _ in batches)
    model = keras.Sequential([keras.layers.Embedding(100, 1), keras.layers.GlobalAveragePooling1D()])
    model.compile("sgd", "mse")
    model.fit(texts, epochs=2, verbose=0, shuffle=False)
    assert model.optimizer.iterations == 2 * len(texts)


def test_equal_seeds_give_equal_orders(sequences):
    orders = [read(data.sequence_batches(*sequences, seed=seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_lengths_on_a_boundary_stay_below_it():
    shapes = [
        labels.shape
        for _, labels, _ in data.sequence_batches(
            [[5] * 4, [5] * 5, [5]], [[2, 3], [2, 3], [2, 7, 7, 7, 3]], boundaries=(4, 8), shuffle=False
        )
    ]
    assert shapes == [(2, 4), (1, 8)]  # a target of five tokens gives four labels


def test_text_batches_hold_every_text_once_with_its_label(sequences):
    texts = sequences[0]
    labels = [sum(text) % 7 for text in texts]
    batches = data.text_batches(texts, labels, 32, (8, 24))
    found = []
    for tokens, classes in batches.as_numpy_iterator():
        assert tokens.dtype == classes.dtype == "int32" and tokens.shape[1] in (8, 24)
        assert [row.sum() % 7 for row in tokens] == classes.tolist()
        found += [tuple(row[row > 0].tolist()) for row in tokens]
    assert Counter(found) == Counter(map(tuple, texts))


def test_batches_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="as many as sources; received 1 and 2"):
        data.sequence_batches([[4], [5]], [[2, 3]])
    with pytest.raises(ValueError, match="begin id and end with the end id; received one of 1 tokens"):
        data.sequence_batches([[4], [5]], [[2, 3], [2]])
    with pytest.raises(ValueError, match=r"9 tokens \(number 1\); received boundaries=\(4, 8\)"):
        data.sequence_batches([[4], [5] * 9], [[2, 3], [2, 3]], boundaries=(4, 8))
    with pytest.raises(ValueError, match=r"increase; received boundaries=\(8, 8\)"):
        data.text_batches([[4]], [0], boundaries=(8, 8))
    with pytest.raises(ValueError, match="as many as tokens; received 2 and 1"):
        data.text_batches([[4]], [0, 1])


def test_no_data_gives_no_batches():
    assert not list(data.sequence_batches([], [])) and not list(data.text_batches([], []))


def test_library_classification_is_balanced_seeded_and_without_copies(examples):
    count = Counter(example.label for example in examples)
    assert set(count) == set(data.LIBRARIES) and all(250 <= number <= 1000 for number in count.values())
    assert sum(number == 1000 for number in count.values()) >= 5
    texts = [example.text for example in examples]
    assert data.near_duplicates(texts) == list(range(len(texts)))
    two = data.library_classification(("numpy", "matplotlib"), most=200, seed=3)
    assert Counter(example.label for example in two) == {"numpy": 200, "matplotlib": 200}
    assert two == data.library_classification(("numpy", "matplotlib"), most=200, seed=3)
    assert two != data.library_classification(("numpy", "matplotlib"), most=200, seed=4)
    assert all(example.file.startswith(example.label + "/") for example in two)


def test_library_classification_refuses_one_library_and_no_examples():
    with pytest.raises(ValueError, match=r"two or more packages; received libraries=\('numpy',\)"):
        data.library_classification(("numpy",))
    with pytest.raises(ValueError, match="most must be at least 1; received most=0"):
        data.library_classification(most=0)


def test_library_classification_refuses_a_library_without_examples():
    with pytest.raises(ValueError, match="must be installed and documented; received no_such_package"):
        with pytest.warns(UserWarning, match="skipped: no_such_package"):
            data.library_classification(("nltk", "no_such_package"))


def test_library_classification_takes_any_installed_package():
    examples = data.library_classification(("nltk", "pytest"), most=20)
    assert Counter(example.label for example in examples).keys() == {"nltk", "pytest"}
    assert all(example.file.startswith(example.label + "/") for example in examples)


def baseline(parts):
    words = TfidfVectorizer(sublinear_tf=True).fit([example.text for example in parts.train])
    inputs = [words.transform([example.text for example in part]) for part in (parts.train, parts.test)]
    model = OneVsRestClassifier(LogisticRegression(C=10, solver="liblinear"))  # in one thread
    model.fit(inputs[0], [example.label for example in parts.train])
    return f1_score([example.label for example in parts.test], model.predict(inputs[1]), average="macro")


def test_a_random_split_flatters_and_a_split_by_file_does_not(examples):
    flattered, honest = baseline(data.random_split(examples)), baseline(data.split(examples, key="file"))
    assert 0.55 < flattered < 0.8 and 0.4 < honest < 0.72 and flattered > honest + 0.02


def test_everything_promised_is_there():
    assert all(hasattr(data, name) for name in data.__all__)
