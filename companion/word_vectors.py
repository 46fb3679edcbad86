"""Vectors for words, learned from their neighbors: word2vec, GloVe, fastText; `WordVectors` to use them."""

from collections.abc import Iterable, Sequence

import numpy as np

from companion.adagrad import ComposedAdaGrad, SparseAdaGrad
from companion.base import check_at_least, plain
from companion.cooccurrence import count_cooccurrence, glove_loss, train_glove
from companion.negative_sampling import MODES, chunk_loss, negative_sampling_loss, train_vectors
from companion.subwords import Subwords, ngram_table
from companion.vectors import WordVectors
from companion.word_corpus import encode_corpus, kept_shares

__all__ = [
    "WordVectors",
    "chunk_loss",
    "fasttext",
    "glove",
    "glove_loss",
    "negative_sampling_loss",
    "word2vec",
]


def word2vec(
    corpus: Iterable[Sequence[str]],
    mode: str = "skip-gram",
    vector_dim: int = 100,
    window: int = 5,
    negatives: int = 5,
    min_count: int = 5,
    subsample: float = 1e-3,
    epochs: int = 5,
    learning_rate: float = 0.3,
    seed: int = 0,
    progress: bool = True,
) -> WordVectors:
    """Trains vectors so that a word tells its neighbors from noise (skip-gram), or they tell it (CBOW).

    Args:
        corpus: Sentences, each a sequence of tokens; read once. Windows do not cross them.
        mode: "skip-gram": each word predicts each neighbor. "cbow": the mean of the neighbors' vectors
            predicts the word.
        vector_dim: Width D, at least 1.
        window: Most distant neighbor, in tokens, at least 1. For each word the window is drawn from 1 to
            that.
        negatives: Noise words that a pair meets, at least 1; drawn in proportion to count^0.75.
        min_count: Words that occur more rarely are left out.
        subsample: Words whose share of the tokens is above it are thinned out; 0: none.
        epochs: Passes over the corpus, at least 1.
        learning_rate: AdaGrad's, falling to almost 0 at the end; above 0.
        seed: The same seed and corpus give the same vectors on the same processor; a GPU may add in another
            order.
        progress: Show words per second and the running loss of a pair.
    Returns:
        WordVectors with counts, the most frequent word first; `history["loss"]`: the mean loss of a pair
        (CBOW: of a center) in each epoch, on a sample of it.
    Raises:
        TypeError: corpus does not hold sequences of strings.
        ValueError: An argument is out of its range, the corpus is empty, or no word occurs min_count times.
        FloatingPointError: The loss is no longer finite.
    Source: Mikolov et al. 2013a, section 3; 2013b, section 2. Differs: 2,048 tokens are updated together and
        share 128 weighted noise words; AdaGrad with one step size a row instead of SGD; a word may be its
        own noise.
    """
    check_at_least(1, vector_dim=vector_dim)
    settings = _settings(mode, window, negatives, subsample, epochs, learning_rate, seed)
    encoded = encode_corpus(corpus, min_count)
    table = SparseAdaGrad(_uniform(len(encoded.words), vector_dim, seed))
    vectors, losses = train_vectors(encoded, table, progress=progress, name="word2vec", **settings)
    return WordVectors(encoded.words, vectors, counts=encoded.counts, history={"loss": losses})


def fasttext(
    corpus: Iterable[Sequence[str]],
    mode: str = "skip-gram",
    vector_dim: int = 100,
    window: int = 5,
    negatives: int = 5,
    min_count: int = 5,
    min_n: int = 3,
    max_n: int = 6,
    buckets: int = 1 << 17,
    subsample: float = 1e-3,
    epochs: int = 5,
    learning_rate: float = 0.6,
    seed: int = 0,
    progress: bool = True,
) -> WordVectors:
    """Trains as `word2vec` does, but a word's vector is the mean of its own and those of its character
    n-grams.

    So words that share a stem or an ending share vectors, and a word never seen has a vector too.

    Args:
        min_n, max_n: Shortest and longest n-gram, in characters (code points) of `<word>`; for Chinese
            words, of which most have two characters, 1 and 3 are a good choice.
        buckets: Rows of the table that n-grams are hashed into; those that meet share a vector. The authors'
            program takes 2,000,000, which need 800 MB at width 100.
        The others: As for `word2vec`.
    Returns:
        WordVectors with subwords and counts.
    Raises: As `word2vec`.
    Source: Bojanowski et al. 2017, section 3.2. Differs: the mean, as in the authors' program, not the sum;
        and as `word2vec` differs from its source. In CBOW the mean is taken of words, not of all their
        n-grams.
    """
    check_at_least(1, vector_dim=vector_dim)
    settings = _settings(mode, window, negatives, subsample, epochs, learning_rate, seed)
    min_n, max_n, buckets = map(plain, (min_n, max_n, buckets))
    ngram_table([], min_n, max_n, buckets)  # refuses numbers out of range before the corpus is read
    encoded = encode_corpus(corpus, min_count)
    number = len(encoded.words)
    rows, starts = ngram_table(encoded.words, min_n, max_n, buckets)
    rows = np.insert(rows + number, starts[:-1], np.arange(number))  # its own row before those of its n-grams
    starts = starts + np.arange(number + 1)
    table = ComposedAdaGrad(_uniform(number + buckets, vector_dim, seed), rows, starts)
    table, losses = train_vectors(encoded, table, progress=progress, name="fasttext", **settings)
    subwords = Subwords(table[number:], min_n, max_n)
    sums, parts = subwords.sums(encoded.words)
    vectors = (table[:number] + sums) / (1 + parts)[:, None]
    return WordVectors(encoded.words, vectors, subwords, encoded.counts, {"loss": losses})


def glove(
    corpus: Iterable[Sequence[str]],
    vector_dim: int = 100,
    window: int = 10,
    x_max: float = 100.0,
    alpha: float = 0.75,
    min_count: int = 5,
    epochs: int = 25,
    learning_rate: float = 0.05,
    seed: int = 0,
    progress: bool = True,
) -> WordVectors:
    """Fits vectors to the logarithms of how often words stand near each other.

    Args:
        corpus: Sentences, each a sequence of tokens; read once. Windows do not cross them.
        vector_dim: Width D, at least 1.
        window: Largest distance, at least 1, to both sides; neighbors count 1 / distance.
        x_max: Counts from here on weigh 1, smaller ones less; above 0. Smaller corpora want a smaller one.
        alpha: Smaller counts weigh (count / x_max)^alpha; above 0.
        min_count: Words that occur more rarely are left out.
        epochs: Passes over the entries of the matrix, at least 1.
        learning_rate: AdaGrad's, above 0.
        seed: The same seed and corpus give the same vectors on the same processor; a GPU may add in another
            order.
        progress: Show words per second (all words of the corpus in one epoch) and the mean loss of an entry.
    Returns:
        WordVectors, each the sum of a word's two vectors, with counts; `history["loss"]` as in `word2vec`.
    Raises: As `word2vec`; ValueError also when no two words stand beside each other.
    Source: Pennington et al. 2014, section 3, equation 8. Differs: 4,096 entries are fitted together.
    """
    check_at_least(1, vector_dim=vector_dim, window=window, epochs=epochs)
    _check_above_zero(x_max=x_max, alpha=alpha, learning_rate=learning_rate)
    encoded = encode_corpus(corpus, min_count)
    matrix = count_cooccurrence(encoded, plain(window))
    if not len(matrix.counts):
        raise ValueError("corpus must hold sentences of two frequent words or more; received none.")
    vectors, losses = train_glove(
        encoded, matrix, vector_dim, float(x_max), float(alpha), epochs, learning_rate, seed, progress
    )
    return WordVectors(encoded.words, vectors, counts=encoded.counts, history={"loss": losses})


def _uniform(rows, vector_dim, seed):
    values = np.random.default_rng(seed).random((rows, vector_dim), dtype=np.float32)
    return (values - np.float32(0.5)) / np.float32(vector_dim)


def _settings(mode, window, negatives, subsample, epochs, learning_rate, seed):
    """The arguments that word2vec and fasttext share, checked before the corpus is read."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}; received mode={mode!r}.")
    check_at_least(1, window=window, negatives=negatives, epochs=epochs)
    _check_above_zero(learning_rate=learning_rate)
    kept_shares(np.ones(1), subsample)  # refuses one out of range
    numbers = {"window": window, "negatives": negatives, "subsample": subsample}
    numbers |= {"epochs": epochs, "learning_rate": learning_rate, "seed": seed}
    return {"mode": mode} | {name: plain(number) for name, number in numbers.items()}


def _check_above_zero(**numbers):
    for name, number in numbers.items():
        if not 0 < number < np.inf:
            raise ValueError(f"{name} must be above 0 and finite; received {name}={number}.")
