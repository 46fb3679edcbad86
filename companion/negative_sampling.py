"""Word vectors that tell a word's neighbors from noise: what `word2vec` and `fasttext` train with.

A chunk of consecutive tokens at a time, and no list of pairs: blocks of BLOCK centers meet their neighbors in
small dense products, of which a mask keeps what lies in each center's window; one set of noise words serves
all centers of the chunk. Only the rows that a chunk touches are read and written.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from companion.word_corpus import WordCorpus, kept_shares, noise_distribution, pieces

MODES = ("skip-gram", "cbow")
CHUNK, BLOCK = 1024, 16  # centers that are updated together; centers of one product
NOISE = 128  # noise words of a chunk, each weighted so that a pair meets `negatives` of them in expectation
START = 1e-3  # of AdaGrad's sum: dampens the first steps of a row
LAST_RATE = 1e-4  # share of the learning rate that is left at the end


def negative_sampling_loss(positive: tf.Tensor, negative: tf.Tensor, weights: tf.Tensor = 1.0) -> tf.Tensor:
    """How badly scores tell true pairs from noise: -log s(positive) - sum of log s(-negative), s the sigmoid.

    Args:
        positive: (...) float scores u . v of a word and a word that stands beside it.
        negative: (..., K) float scores of the same word and K noise words.
        weights: (...) or a number, by which each noise word counts.
    Returns:
        (...) float32, at least 0.
    Source: Mikolov et al. 2013b, equation 4, negated.
    """
    return tf.math.softplus(-positive) + weights * tf.reduce_sum(tf.math.softplus(negative), axis=-1)


def chunk_loss(
    mode: str, center: tf.Tensor, context: tf.Tensor, noise: tf.Tensor, mask: tf.Tensor, negatives: int
) -> tf.Tensor:
    """The loss of a chunk, summed over its pairs (skip-gram) or over its centers (CBOW).

    Args:
        mode: "skip-gram": each center predicts each neighbor. "cbow": the mean of the neighbors predicts the
            center.
        center: (N, B, D) float: N blocks of B tokens. Input vectors in skip-gram, output vectors in CBOW.
        context: (N, S, D) float, the neighbors of each block. Output vectors in skip-gram, input vectors in
            CBOW.
        noise: (K, D) float, output vectors of noise words.
        mask: (N, B, S) float, 1 where a neighbor lies in the center's window, else 0.
        negatives: How many noise words a pair meets; each of the K counts negatives / K.
    Returns:
        () float32.
    Source: Mikolov et al. 2013b, equation 4; 2013a, section 3.1 for CBOW. Differs: noise words are shared by
        the chunk, which keeps the expectation.
    """
    pairs = tf.reduce_sum(mask, axis=-1)
    if mode == "skip-gram":
        words, times = center, pairs
        positive = mask * tf.math.softplus(-tf.matmul(center, context, transpose_b=True))
    else:
        words, times = tf.matmul(mask / tf.maximum(pairs, 1)[..., None], context), tf.sign(pairs)
        positive = times * tf.math.softplus(-tf.reduce_sum(words * center, axis=-1))
    scores = tf.matmul(tf.reshape(words, (-1, words.shape[-1])), noise, transpose_b=True)
    noisy = tf.reshape(times, (-1, 1)) * tf.math.softplus(scores)
    return tf.reduce_sum(positive) + negatives / noise.shape[0] * tf.reduce_sum(noisy)


def chunk_gradients(
    mode: str, center: tf.Tensor, context: tf.Tensor, noise: tf.Tensor, mask: tf.Tensor, negatives: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The gradients of `chunk_loss` in center, context and noise, in their shapes.

    Written out, they need one sigmoid for each score; automatic differentiation also computes the loss.
    """
    pairs, share = tf.reduce_sum(mask, axis=-1, keepdims=True), negatives / noise.shape[0]
    if mode == "skip-gram":
        slopes = -mask * tf.sigmoid(-tf.matmul(center, context, transpose_b=True))
        noise_center, noise_slopes = _noise_gradients(center, noise, share * pairs)
        d_center = tf.matmul(slopes, context) + tf.reshape(noise_center, tf.shape(center))
        return d_center, tf.matmul(slopes, center, transpose_a=True), noise_slopes
    mean = mask / tf.maximum(pairs, 1)
    words, times = tf.matmul(mean, context), tf.sign(pairs)
    slopes = -times * tf.sigmoid(-tf.reduce_sum(words * center, axis=-1, keepdims=True))
    noise_words, noise_slopes = _noise_gradients(words, noise, share * times)
    d_words = slopes * center + tf.reshape(noise_words, tf.shape(words))
    return slopes * words, tf.matmul(mean, d_words, transpose_a=True), noise_slopes


def _noise_gradients(words, noise, weights):
    """Of weights * softplus(words . noise), summed: in words, as (N B, D), and in noise."""
    words = tf.reshape(words, (-1, words.shape[-1]))
    slopes = tf.reshape(weights, (-1, 1)) * tf.sigmoid(tf.matmul(words, noise, transpose_b=True))
    return tf.matmul(slopes, noise), tf.matmul(slopes, words, transpose_a=True)


class SparseAdaGrad:
    """A table of vectors of which only the rows in use are read and written.

    A number's step is learning_rate / sqrt(start + sum of its squared gradients so far). With by_row, a row
    has one step size, from the means of its squares. The gradients of a row that is used many times are
    summed, their squares one by one.

    Source: Duchi et al. 2011, section 1.1, with the diagonal matrix; by_row shares it within a row.
    """

    def __init__(self, values: np.ndarray, by_row: bool, start: float):
        self.by_row = by_row
        self.values = tf.Variable(values)
        self.squares = tf.Variable(np.full(values.shape[: 1 if by_row else 2], start, np.float32))

    def rows(self, indices: tf.Tensor) -> tf.Tensor:
        """The vectors (n, D) of rows (n,)."""
        return tf.gather(self.values, indices)

    def descend(self, indices: tf.Tensor, gradients: tf.Tensor, learning_rate: tf.Tensor) -> None:
        """Steps against gradients (n, D) of rows (n,); a row may occur many times."""
        rows, place = tf.unique(indices)  # each row once: the sum of a race of threads would differ by run
        count, squares = tf.shape(rows)[0], tf.square(gradients)
        if self.by_row:
            squares = tf.reduce_mean(squares, axis=1)
        gradients = tf.math.unsorted_segment_sum(gradients, place, count)
        squares = tf.gather(self.squares, rows) + tf.math.unsorted_segment_sum(squares, place, count)
        self.squares.scatter_update(tf.IndexedSlices(squares, rows))
        sizes = learning_rate * tf.math.rsqrt(squares)
        steps = gradients * (sizes[:, None] if self.by_row else sizes)
        self.values.scatter_sub(tf.IndexedSlices(steps, rows))


def words_alone(ids: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Each word has one row: the rows that ids need, and what makes the words' vectors of them."""
    return ids, tf.identity


def words_of_parts(rows: np.ndarray, starts: np.ndarray) -> Callable:
    """The same for words that are means of several rows, rows[starts[i]:starts[i + 1]] for word i."""
    parts, starts = tf.constant(rows, tf.int32), tf.constant(starts, tf.int32)

    def lookup(ids):
        words, place = tf.unique(ids)
        begin, end = tf.gather(starts, words), tf.gather(starts, words + 1)
        ranges = tf.ragged.range(begin, end)
        owners, count = ranges.value_rowids(), tf.shape(words)[0]

        def compose(vectors):
            sums = tf.math.unsorted_segment_sum(vectors, owners, count)
            means = sums / tf.cast(end - begin, tf.float32)[:, None]
            return tf.gather(means, place)

        return tf.gather(parts, ranges.flat_values), compose

    return lookup


def train_vectors(
    corpus: WordCorpus,
    inputs: np.ndarray,
    lookup: Callable,
    mode: str,
    window: int,
    negatives: int,
    subsample: float,
    epochs: int,
    learning_rate: float,
    seed: int,
    progress: bool,
    name: str,
) -> tuple[np.ndarray, list[float]]:
    """Trains a table of input vectors, and one of output vectors that is not kept.

    Args:
        corpus: V words.
        inputs: (R, D) float32, where to start.
        lookup: `words_alone`, or what `words_of_parts` returns.
        name: Before the progress bar.
        mode, window, negatives, subsample, epochs, learning_rate, seed, progress: As for `word2vec`.
    Returns:
        (R, D) float32, and the mean loss of a pair (CBOW: of a center) in each epoch, measured before
        training on it, on one chunk of every `word_corpus.PIECE` tokens.
    Raises:
        FloatingPointError: The loss is no longer finite.
    """
    random = np.random.default_rng(seed)
    empty = np.zeros((len(corpus.words), inputs.shape[1]), np.float32)
    inputs, outputs = (SparseAdaGrad(values, by_row=True, start=START) for values in (inputs, empty))
    run = _compiled(inputs, outputs, lookup, mode, window, negatives)
    kept, noise = kept_shares(corpus.counts, subsample), np.cumsum(noise_distribution(corpus.counts))
    losses, done, total = [], 0, epochs * len(corpus.ids)
    with tqdm(total=total, unit=" words", unit_scale=True, desc=name, disable=not progress) as bar:
        for _ in range(epochs):
            measured = []
            for ids, before, after, size in pieces(corpus, kept, random):
                chunks = _chunks(ids, before, after, window, noise, random)
                share = (done + size * np.arange(len(chunks[0])) / len(chunks[0])) / total
                rates = learning_rate * np.maximum(1 - share, LAST_RATE)
                measured.append(float(run(*map(tf.constant, chunks), tf.constant(rates, tf.float32))))
                done += size
                _check_finite(measured[-1], done, learning_rate)
                bar.set_postfix(loss=f"{measured[-1]:.3f}", refresh=False)
                bar.update(size)
            losses.append(float(np.mean(measured)))
    vectors = inputs.values.numpy()
    _check_finite(vectors.sum(), done, learning_rate)
    return vectors, losses


def _check_finite(number, done, learning_rate):
    if not np.isfinite(number):
        raise FloatingPointError(
            f"training ran away after {done:,} words, to {number}: lower learning_rate={learning_rate}."
        )


def _chunks(ids, before, after, window, noise, random):
    """Tokens with margins (n, CHUNK + 2 window), windows to both sides (n, CHUNK), noise words (n, NOISE)."""
    count = max(1, -(-len(ids) // CHUNK))
    reach = random.integers(1, window + 1, len(ids))  # nearer neighbors are seen more often
    space = count * CHUNK - len(ids)
    left, right = (np.pad(np.minimum(reach, side), (0, space)).astype(np.float32) for side in (before, after))
    margins = np.pad(ids, (window, space + window))
    tokens = np.lib.stride_tricks.sliding_window_view(margins, CHUNK + 2 * window)[::CHUNK]
    drawn = np.searchsorted(noise, random.random((count, NOISE)) * noise[-1], side="right").astype(np.int32)
    return tokens, left.reshape(count, CHUNK), right.reshape(count, CHUNK), drawn


def _compiled(inputs, outputs, lookup, mode, window, negatives):
    """The function that trains on some chunks, once it has measured the mean loss of the first."""
    blocks, span = CHUNK // BLOCK, BLOCK + 2 * window
    near = tf.constant(BLOCK * np.arange(blocks)[:, None] + np.arange(span), tf.int32)
    offset = tf.constant(np.arange(span) - window - np.arange(BLOCK)[:, None], tf.float32)
    width, centers = inputs.values.shape[1], slice(window, window + CHUNK)

    def gathered(tokens, left, right, noise):
        left, right = (tf.reshape(side, (blocks, BLOCK, 1)) for side in (left, right))
        mask = tf.cast((offset >= -left) & (offset <= right) & (offset != 0), tf.float32)
        ends = [tokens[centers], tf.reshape(tf.gather(tokens, near), [-1])]
        predicting, predicted = ends if mode == "skip-gram" else ends[::-1]
        rows, compose = lookup(predicting)
        return mask, rows, compose, predicted, inputs.rows(rows), outputs.rows(predicted), outputs.rows(noise)

    def in_blocks(vectors, others):
        center, context = (vectors, others) if mode == "skip-gram" else (others, vectors)
        return tf.reshape(center, (blocks, BLOCK, width)), tf.reshape(context, (blocks, span, width))

    def mean_loss(tokens, left, right, noise):
        mask, _, compose, _, vectors, others, drawn = gathered(tokens, left, right, noise)
        loss = chunk_loss(mode, *in_blocks(compose(vectors), others), drawn, mask, negatives)
        terms = mask if mode == "skip-gram" else tf.reduce_max(mask, axis=-1)
        return loss / tf.maximum(tf.reduce_sum(terms), 1)

    def step(tokens, left, right, noise, rate):
        mask, rows, compose, predicted, vectors, others, drawn = gathered(tokens, left, right, noise)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(vectors)
            composed = compose(vectors)
        blocked = in_blocks(composed, others)
        *slopes, noise_slopes = chunk_gradients(mode, *blocked, drawn, mask, negatives)
        slopes = [tf.reshape(part, (-1, width)) for part in (slopes if mode == "skip-gram" else slopes[::-1])]
        inputs.descend(rows, tape.gradient(composed, vectors, slopes[0]), rate)
        outputs.descend(tf.concat([predicted, noise], 0), tf.concat([slopes[1], noise_slopes], 0), rate)

    @tf.function(reduce_retracing=True)
    def run(tokens, left, right, noise, rates):
        loss = mean_loss(tokens[0], left[0], right[0], noise[0])
        for i in tf.range(tf.shape(tokens)[0]):
            step(tokens[i], left[i], right[i], noise[i], rates[i])
        return loss

    return run
