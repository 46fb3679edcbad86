"""Word vectors that tell a word's neighbors from noise: what `word2vec` and `fasttext` train with.

A chunk of consecutive tokens at a time, and no list of pairs: blocks of BLOCK centers meet their neighbors in
small dense products, of which a mask keeps what lies in each center's window; one set of noise words serves
all centers of the chunk. Only the rows that a chunk touches are read and written.
"""

import functools

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from companion.adagrad import SparseAdaGrad
from companion.word_corpus import WordCorpus, kept_shares, noise_distribution, pieces

MODES = ("skip-gram", "cbow")
CHUNK, BLOCK = 2048, 16  # centers that are updated together; centers of one product
NOISE = 128  # noise words of a chunk, each weighted so that a pair meets `negatives` of them in expectation
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
    step = _Step(inputs, outputs, mode, window, negatives)
    run = functools.partial(step.run)  # a new object: else TensorFlow warns of retracing the old one
    run = tf.function(run, reduce_retracing=True)
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
    for table in (inputs, outputs):
        _check_finite(np.linalg.norm(table.values), done, learning_rate)
        _check_finite(np.linalg.norm(table.squares), done, learning_rate)  # too large, and a row stands still
    return inputs.values.numpy(), losses


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
        self.blocks, self.span = CHUNK // BLOCK, BLOCK + 2 * window
        self.centers = slice(window, window + CHUNK)
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
