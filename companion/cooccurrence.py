"""Word vectors from counts of which words stand near each other: what `glove` trains with."""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from companion.adagrad import SparseAdaGrad
from companion.word_corpus import WordCorpus, pieces

BUFFER = 1 << 22  # pairs that are held before they are added up
BATCH = 4096  # entries of the matrix that are fitted together
CHUNK = 1 << 18  # entries of one half that are handed over together


class Cooccurrence(NamedTuple):
    """Half of a symmetric matrix, its entries above zero: rows <= columns (n,) int32, counts (n,) float64."""

    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray


def count_cooccurrence(corpus: WordCorpus, window: int) -> Cooccurrence:
    """Adds up 1 / distance over all pairs of words that stand at most `window` tokens apart in a sentence.

    Args:
        corpus: V words.
        window: Largest distance, at least 1.
    Returns:
        Cooccurrence with row <= column: one half of the symmetric matrix. A word beside itself counts once
        for each of the two places. Memory: 16 bytes an entry, four times as much while pairs are added, and
        a buffer of BUFFER pairs.
    Source: Pennington et al. 2014, section 4.2. Differs: a sentence is cut where a piece of
        `companion.word_corpus.PIECE` tokens ends.
    """
    size = np.int64(len(corpus.words))
    keys, counts = np.zeros(0, np.int64), np.zeros(0)
    waiting, held = [], 0
    everything = np.ones(len(corpus.words), np.float32)
    for ids, before, _, _ in pieces(corpus, everything, np.random.default_rng(0)):
        for distance in range(1, window + 1):
            here = np.flatnonzero(before >= distance)
            pair = np.sort(np.stack([ids[here], ids[here - distance]]), axis=0).astype(np.int64)
            weight = np.where(pair[0] == pair[1], 2 / distance, 1 / distance)
            waiting.append((pair[0] * size + pair[1], weight))
            held += len(here)
            if held >= BUFFER:
                (keys, counts), waiting, held = _added([(keys, counts), *waiting]), [], 0
    keys, counts = _added([(keys, counts), *waiting])
    return Cooccurrence((keys // size).astype(np.int32), (keys % size).astype(np.int32), counts)


def glove_weight(counts: tf.Tensor, x_max: float, alpha: float) -> tf.Tensor:
    """f(x) = min(1, (x / x_max)^alpha): how much an entry of the matrix counts; 0 for 0, 1 from x_max on.

    Source: Pennington et al. 2014, equation 9.
    """
    return tf.minimum(1.0, (counts / x_max) ** alpha)


def glove_loss(scores: tf.Tensor, counts: tf.Tensor, x_max: float, alpha: float) -> tf.Tensor:
    """f(X) (w . c + b_w + b_c - log X)^2 of each entry.

    Args:
        scores: (n,) float, w . c + b_w + b_c.
        counts: (n,) float, X, above 0.
        x_max, alpha: As for `glove_weight`.
    Returns:
        (n,) float.
    Source: Pennington et al. 2014, equation 8.
    """
    return glove_weight(counts, x_max, alpha) * tf.square(scores - tf.math.log(counts))


def train_glove(
    corpus: WordCorpus,
    matrix: Cooccurrence,
    vector_dim: int,
    x_max: float,
    alpha: float,
    epochs: int,
    learning_rate: float,
    seed: int,
    progress: bool,
) -> tuple[np.ndarray, list[float]]:
    """Fits vectors to the logarithms of a co-occurrence matrix.

    Args: As for `glove`.
    Returns:
        (V, D) float32, the sum of the word's two vectors, and the mean loss of an entry in each epoch.
    Raises:
        FloatingPointError: The loss is no longer finite.
    """
    random = np.random.default_rng(seed)
    shape = (2, len(corpus.words), vector_dim + 1)  # the last column is the bias
    start = (random.random(shape, dtype=np.float32) - 0.5) / np.float32(vector_dim)
    tables = [SparseAdaGrad(values, by_row=False, start=1.0) for values in start]
    run = _compiled(tables, x_max, alpha, learning_rate)
    losses, number = [], len(matrix.counts)
    entries = 2 * number - np.sum(matrix.rows == matrix.columns)
    with tqdm(
        total=epochs * len(corpus.ids), unit=" words", unit_scale=True, desc="glove", disable=not progress
    ) as bar:
        for _ in range(epochs):
            total = 0.0
            order = random.permutation(number)
            for first in range(0, number, CHUNK):
                chosen = order[first : first + CHUNK]
                total += run(*map(tf.constant, _both_halves(matrix, chosen))).numpy()
                if not np.isfinite(total):
                    raise FloatingPointError(f"the loss is {total}: lower learning_rate={learning_rate}.")
                bar.update(len(corpus.ids) * len(chosen) / number)
            losses.append(float(total / entries))
            bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
    vectors = sum(table.values.numpy()[:, :-1] for table in tables)
    if not np.isfinite(length := np.linalg.norm(vectors)):
        raise FloatingPointError(f"the vectors are {length} long: lower learning_rate={learning_rate}.")
    return vectors, losses


def _added(runs):
    """One run of keys, each once and in order, with the sums of their weights."""
    keys, weights = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.add.reduceat(weights, first) if len(first) else weights


def _both_halves(matrix, chosen):
    """Entries (i, j) and their mirror images (j, i); those on the diagonal once."""
    rows, columns, counts = (part[chosen] for part in matrix)
    mirrored = rows != columns
    entries = [(rows, columns[mirrored]), (columns, rows[mirrored]), (counts, counts[mirrored])]
    rows, columns, counts = (np.concatenate(pair) for pair in entries)
    return rows, columns, counts.astype(np.float32)


def _compiled(tables, x_max, alpha, learning_rate):
    """The function that fits some entries, BATCH at a time; it returns the sum of their losses."""
    rate = tf.constant(learning_rate, tf.float32)

    def step(indices, counts):
        vectors = [table.read(rows) for table, rows in zip(tables, indices, strict=True)]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(vectors)
            word, context = vectors
            scores = tf.reduce_sum(word[:, :-1] * context[:, :-1], axis=1) + word[:, -1] + context[:, -1]
            loss = tf.reduce_sum(glove_loss(scores, counts, x_max, alpha))
        for table, rows, slopes in zip(tables, indices, tape.gradient(loss, vectors), strict=True):
            table.descend(rows, slopes, rate)
        return loss

    def run(rows, columns, counts):
        total = tf.zeros(())
        for i in tf.range(0, tf.shape(rows)[0], BATCH):
            part = slice(i, i + BATCH)
            total += step((rows[part], columns[part]), counts[part])
        return total

    return tf.function(functools.partial(run), reduce_retracing=True)  # partial: as in negative_sampling
