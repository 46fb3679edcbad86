"""Word vectors that tell a word's neighbors from noise: what `word2vec` and `fasttext` train with.

A chunk of consecutive tokens at a time, and no list of pairs: blocks of BLOCK centers meet their neighbors in
small dense products, of which a mask keeps what lies in each center's window; one set of noise words serves
all centers of the chunk. Only the rows that a chunk touches are read and written.
"""

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from companion.word_corpus import WordCorpus, kept_shares, noise_distribution, pieces

MODES = ("skip-gram", "cbow")
CHUNK, BLOCK = 2048, 16  # centers that are updated together; centers of one product
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

    def __init__(self, values: np.ndarray, by_row: bool = True, start: float = START):
        self.by_row, self.width = by_row, values.shape[1]
        self.values = tf.Variable(values)
        self.squares = self._squares(len(values), start)

    def _squares(self, number, start):
        return tf.Variable(np.full((number,) if self.by_row else (number, self.width), start, np.float32))

    def read(self, ids: tf.Tensor) -> tf.Tensor:
        """The vectors (n, D) of ids (n,)."""
        return tf.gather(self.values, ids)

    def descend(self, ids: tf.Tensor, gradients: tf.Tensor, learning_rate: tf.Tensor) -> None:
        """Steps against gradients (n, D) of ids (n,); an id may occur many times."""
        _subtract(self.values, *self._steps(ids, gradients, learning_rate))

    def _steps(self, ids, gradients, learning_rate):
        """The ids, each once, and how far to go for each."""
        squares = tf.square(gradients)
        if self.by_row:
            squares = tf.reduce_mean(squares, axis=1)
        ids, gradients, squares = _summed(ids, gradients, squares)
        squares += tf.gather(self.squares, ids)
        self.squares.scatter_update(tf.IndexedSlices(squares, ids))
        sizes = learning_rate * tf.math.rsqrt(squares)
        return ids, gradients * (sizes[:, None] if self.by_row else sizes)


class ComposedAdaGrad(SparseAdaGrad):
    """The same for words that are means of several rows; the table has rows for parts that words share.

    Args:
        values: (R, D) float32.
        rows, starts: As `ngram_table` returns them: word i is the mean of the rows[starts[i]:starts[i + 1]].

    Each word has a step size, and each of its rows takes the word's whole step.

    Source: the program of Bojanowski et al. 2017; the gradient of a mean of n rows is n times smaller.
    """

    def __init__(self, values: np.ndarray, rows: np.ndarray, starts: np.ndarray):
        super().__init__(values)
        self.parts, self.starts = tf.constant(rows, tf.int32), tf.constant(starts, tf.int32)
        self.squares = self._squares(len(starts) - 1, START)

    def _rows(self, words):
        """The rows of words (n,), word after word; whose they are; and how many each has."""
        begin, end = tf.gather(self.starts, words), tf.gather(self.starts, words + 1)
        ranges = tf.ragged.range(begin, end)
        return tf.gather(self.parts, ranges.flat_values), ranges.value_rowids(), end - begin

    def read(self, ids: tf.Tensor) -> tf.Tensor:
        """The vectors (n, D) of words (n,)."""
        words, place = tf.unique(ids)
        rows, owners, number = self._rows(words)
        sums = tf.math.unsorted_segment_sum(tf.gather(self.values, rows), owners, tf.shape(words)[0])
        return tf.gather(sums / tf.cast(number, tf.float32)[:, None], place)

    def descend(self, ids: tf.Tensor, gradients: tf.Tensor, learning_rate: tf.Tensor) -> None:
        """Steps against gradients (n, D) of words (n,); a word may occur many times."""
        words, steps = self._steps(ids, gradients, learning_rate)
        rows, owners, _ = self._rows(words)
        _subtract(self.values, *_summed(rows, tf.gather(steps, owners)))


def _summed(ids, *values):
    """Each id once, and the sums of its values: in a fixed order, not in that of a race of threads."""
    ids, place = tf.unique(ids)
    return ids, *(tf.math.unsorted_segment_sum(part, place, tf.shape(ids)[0]) for part in values)


def _subtract(table, rows, steps):
    table.scatter_sub(tf.IndexedSlices(steps, rows))


def train_vectors(
    corpus: WordCorpus,
    inputs: SparseAdaGrad,
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
        inputs: The table, where it starts.
        name: Before the progress bar.
        mode, window, negatives, subsample, epochs, learning_rate, seed, progress: As for `word2vec`.
    Returns:
        (R, D) float32, and the mean loss of a pair (CBOW: of a center) in each epoch, measured before
        training on it, on one chunk of every `word_corpus.PIECE` tokens.
    Raises:
        FloatingPointError: The loss is no longer finite.
    """
    random = np.random.default_rng(seed)
    outputs = SparseAdaGrad(np.zeros((len(corpus.words), inputs.width), np.float32))
    run = tf.function(_Step(inputs, outputs, mode, window, negatives).run, reduce_retracing=True)
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


class _Step:
    """Reads the rows that a chunk touches, finds their gradients, writes the rows."""

    def __init__(self, inputs, outputs, mode, window, negatives):
        self.inputs, self.outputs, self.width = inputs, outputs, inputs.width
        self.mode, self.negatives = mode, negatives
        self.blocks, self.span, self.centers = (
            CHUNK // BLOCK,
            BLOCK + 2 * window,
            slice(window, window + CHUNK),
        )
        near = BLOCK * np.arange(self.blocks)[:, None] + np.arange(self.span)
        self.near = tf.constant(near.ravel(), tf.int32)  # the neighbors of each block, in the chunk
        offset = np.arange(self.span) - window - np.arange(BLOCK)[:, None]
        self.offset = tf.constant(offset, tf.float32)  # from each center of a block to each neighbor

    def run(self, tokens, left, right, noise, rates):
        loss = self._mean_loss(tokens[0], left[0], right[0], noise[0])
        for i in tf.range(tf.shape(tokens)[0]):
            self._train(tokens[i], left[i], right[i], noise[i], rates[i])
        return loss

    def _in_order(self, center, context):
        """What predicts, then what is predicted; or, of these two, center and context again."""
        return (center, context) if self.mode == "skip-gram" else (context, center)

    def _mask(self, left, right):
        left, right = (tf.reshape(side, (self.blocks, BLOCK, 1)) for side in (left, right))
        inside = (self.offset >= -left) & (self.offset <= right) & (self.offset != 0)
        return tf.cast(inside, tf.float32)

    def _in_blocks(self, vectors, others):
        center, context = self._in_order(vectors, others)
        shapes = (self.blocks, BLOCK, self.width), (self.blocks, self.span, self.width)
        return tf.reshape(center, shapes[0]), tf.reshape(context, shapes[1])

    def _mean_loss(self, tokens, left, right, noise):
        predicting, predicted = self._in_order(tokens[self.centers], tf.gather(tokens, self.near))
        blocked = self._in_blocks(self.inputs.read(predicting), self.outputs.read(predicted))
        mask = self._mask(left, right)
        loss = chunk_loss(self.mode, *blocked, self.outputs.read(noise), mask, self.negatives)
        terms = mask if self.mode == "skip-gram" else tf.reduce_max(mask, axis=-1)
        return loss / tf.maximum(tf.reduce_sum(terms), 1)

    def _train(self, tokens, left, right, noise, rate):
        predicting, predicted = self._in_order(tokens[self.centers], tf.gather(tokens, self.near))
        blocked = self._in_blocks(self.inputs.read(predicting), self.outputs.read(predicted))
        drawn, mask = self.outputs.read(noise), self._mask(left, right)
        *slopes, noise_slopes = chunk_gradients(self.mode, *blocked, drawn, mask, self.negatives)
        first, second = (tf.reshape(part, (-1, self.width)) for part in self._in_order(*slopes))
        self.inputs.descend(predicting, first, rate)
        self.outputs.descend(tf.concat([predicted, noise], 0), tf.concat([second, noise_slopes], 0), rate)
