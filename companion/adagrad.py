"""AdaGrad for tables of vectors of which a step touches a few rows: alone, or as parts that words share."""

import numpy as np
import tensorflow as tf

START = 1e-3  # of AdaGrad's sum: dampens the first steps of a row
START_OF_PARTS = 1e-6  # their gradients are smaller


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
        self.squares = tf.Variable(np.full(values.shape[: 1 if by_row else 2], start, np.float32))

    def read(self, ids: tf.Tensor) -> tf.Tensor:
        """The vectors (n, D) of ids (n,)."""
        return tf.gather(self.values, ids)

    def descend(self, ids: tf.Tensor, gradients: tf.Tensor, learning_rate: tf.Tensor) -> None:
        """Steps against gradients (n, D) of ids (n,); an id may occur many times."""
        squares = tf.square(gradients)
        if self.by_row:
            squares = tf.reduce_mean(squares, axis=1)
        self._step(*_summed(ids, gradients, squares), learning_rate)

    def _step(self, rows, gradients, squares, learning_rate):
        """Rows, each once, with the sums of their gradients and of their squares."""
        squares += tf.gather(self.squares, rows)
        self.squares.scatter_update(tf.IndexedSlices(squares, rows))
        sizes = learning_rate * tf.math.rsqrt(squares)
        steps = gradients * (sizes[:, None] if self.by_row else sizes)
        self.values.scatter_sub(tf.IndexedSlices(steps, rows))


class ComposedAdaGrad(SparseAdaGrad):
    """The same for words that are means of several rows; the table has rows for parts that words share.

    Args:
        values: (R, D) float32.
        rows, starts: As `ngram_table` returns them: word i is the mean of the rows[starts[i]:starts[i + 1]].

    The gradient of a mean of n rows is, for each of them, 1 / n of that of the mean.
    """

    def __init__(self, values: np.ndarray, rows: np.ndarray, starts: np.ndarray):
        super().__init__(values, start=START_OF_PARTS)
        self.parts, self.starts = tf.constant(rows, tf.int32), tf.constant(starts, tf.int32)

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
        squares = tf.reduce_mean(tf.square(gradients), axis=1)
        words, gradients, squares = _summed(ids, gradients, squares)
        rows, owners, number = self._rows(words)
        share = 1 / tf.cast(number, tf.float32)  # of a word that each of its rows makes up
        gradients, squares = gradients * share[:, None], squares * tf.square(share)
        self._step(*_summed(rows, tf.gather(gradients, owners), tf.gather(squares, owners)), learning_rate)


def _summed(ids, *values):
    """Each id once, and the sums of its values: in a fixed order, not in that of a race of threads."""
    ids, place = tf.unique(ids)
    return ids, *(tf.math.unsorted_segment_sum(part, place, tf.shape(ids)[0]) for part in values)
