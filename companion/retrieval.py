"""Search by meaning: texts as unit vectors, learned from pairs; rankings, and what they are judged by."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from companion.base import Layer, check_at_least

BLOCK = 1024  # queries scored at once


@keras.saving.register_keras_serializable("companion")
class WeightedMean(Layer):
    """The mean of a text's token vectors, each counted with a weight that its token learns; length 1.

    Args:
        vocabulary_size: Number of ids V; id 0 is padding.
    Call arguments:
        vectors: (B, T, M) float.
        tokens: (B, T) int.
    Returns:
        (B, M) float, of length 1; zeros for a text without tokens.
    Source: Arora et al. 2017, section 3. Differs: the weights begin at 1 and are learned.
    """

    def __init__(self, vocabulary_size, **kwargs):
        super().__init__(**kwargs)
        check_at_least(1, vocabulary_size=vocabulary_size)
        self.vocabulary_size = vocabulary_size

    def build(self, vectors_shape, tokens_shape):
        self.log_weights = self.add_weight(shape=(self.vocabulary_size,), initializer="zeros", name="weights")

    def call(self, vectors, tokens):
        weights = ops.exp(ops.take(self.log_weights, tokens, axis=0)) * ops.cast(tokens != 0, vectors.dtype)
        return unit_length(ops.einsum("bt,btm->bm", weights, vectors))

    def compute_output_shape(self, vectors_shape, tokens_shape):
        return vectors_shape[0], vectors_shape[-1]


@keras.saving.register_keras_serializable("companion")
class UnitLength(Layer):
    """`unit_length` as a layer.

    Call arguments:
        vectors: (..., M) float.
    Returns:
        The same shape and dtype, of length 1; zeros for zeros.
    """

    def call(self, vectors):
        return unit_length(vectors)


def unit_length(vectors):
    """Vectors divided by their length.

    Args:
        vectors: (..., M) float.
    Returns:
        The same shape and dtype; zeros for zeros. Differs from `ops.normalize`: its gradient is finite there.
    """
    exact = ops.cast(vectors, keras.backend.result_type(vectors.dtype, "float32"))
    squares = ops.sum(ops.square(exact), axis=-1, keepdims=True)
    return ops.cast(exact * ops.rsqrt(ops.where(squares > 0, squares, ops.ones_like(squares))), vectors.dtype)


def in_batch_loss(documents, scores):
    """How surprised the model is that each query's document is its own, and not another one of the batch.

    Args:
        documents: (B,) or (B, 1) numbers, below 2 ** 24, of the documents: the same one is never a negative.
        scores: (B, B) float, of query i and document j.
    Returns:
        (B,) float, nats.
    Source: Henderson et al. 2017, section 4.4; van den Oord et al. 2018, equation 4; Karpukhin et al. 2020,
    section 3.2.
    """
    documents = ops.reshape(documents, (-1, 1))
    same = ops.logical_and(documents == ops.transpose(documents), ops.logical_not(_diagonal(scores)))
    scores = ops.where(same, -1e9, scores)
    return ops.logsumexp(scores, axis=-1) - ops.diagonal(scores)


def search(queries: np.ndarray, documents: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The documents whose vectors have the largest products with a query's vector.

    Args:
        queries: (Q, M) float; unit vectors, so that the product is the cosine.
        documents: (D, M) float.
        k: How many, 1 <= k; all, if there are not so many.
    Returns:
        (Q, k) int indices, the best first, of equal ones the earlier first; (Q, k) float, their scores.
    Raises:
        ValueError: The two are no matrices of the same width, or k is below 1.
    """
    queries, documents = np.asarray(queries), np.asarray(documents)
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        shapes = f"{queries.shape} and {documents.shape}"
        raise ValueError(f"queries and documents must be (Q, M) and (D, M); received {shapes}.")
    check_at_least(1, k=k)
    found = [_best(block @ documents.T, k) for block in np.split(queries, range(BLOCK, len(queries), BLOCK))]
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def ranks_of(scores: np.ndarray, relevant: Sequence[int]) -> np.ndarray:
    """The place of the one relevant document among all, the highest score first.

    Args:
        scores: (Q, D) float, higher is better.
        relevant: (Q,) int in [0, D).
    Returns:
        (Q,) int, 1 for the first place. Of equal scores the relevant document takes the last place.
    Raises:
        ValueError: Shapes do not fit, a document is not there, or a score is NaN.
    """
    scores, relevant = np.asarray(scores), np.asarray(relevant)
    if scores.ndim != 2 or relevant.shape != scores.shape[:1]:
        raise ValueError(
            f"scores and relevant must be (Q, D) and (Q,); received {scores.shape} and {relevant.shape}."
        )
    if relevant.size and not 0 <= relevant.min() <= relevant.max() < scores.shape[1]:
        span = f"{relevant.min()} to {relevant.max()}"
        raise ValueError(f"relevant must lie in [0, {scores.shape[1]}); received {span}.")
    if np.isnan(scores).any():
        raise ValueError(f"scores must be numbers; received {np.isnan(scores).sum()} that are NaN.")
    own = np.take_along_axis(scores, relevant[:, None], axis=1)
    return (scores >= own).sum(axis=1)


def fuse(*scores: np.ndarray, constant: float = 60.0) -> np.ndarray:
    """Several rankings as one, by reciprocal ranks: what counts is the place, not the scale of the scores.

    Args:
        scores: Each (Q, D) float, higher is better.
        constant: What is added to each rank, >= 0; the larger, the less the first places stand out.
    Returns:
        (Q, D) float, higher is better.
    Raises:
        ValueError: The shapes differ, there is none, or constant is negative.
    Source: Cormack et al. 2009, section 2.
    """
    check_at_least(0, constant=constant)
    shapes = [np.shape(one) for one in scores]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"scores must all be (Q, D); received {shapes}.")
    places = (np.argsort(_order(one), axis=1) for one in scores)  # of each document, from 0
    return sum(1 / (constant + 1 + place) for place in places)


def hit_rate(ranks: Sequence[float], k: int) -> float:
    """Share of queries whose relevant item is among the first k: with one relevant item, recall at k.

    Args:
        ranks: (Q,) ranks of the relevant item, 1 for the first; 0 or inf where it was not found.
        k: Length of the list, >= 1.
    Returns:
        float in [0, 1].
    Raises:
        ValueError: ranks are no row of such numbers, at least one, or k is below 1.
    """
    return float(np.mean(_ranks(ranks, k) <= k))


def ndcg(ranks: Sequence[float], k: int) -> float:
    """Normalized discounted cumulative gain: a hit at rank r counts 1 / log2(1 + r).

    Args, Raises: As `hit_rate`.
    Returns:
        float in [0, 1]; with one relevant item the ideal gain is 1.
    Source: Järvelin and Kekäläinen 2002, section 2.2, with the discount of Burges et al. 2005.
    """
    ranks = _ranks(ranks, k)
    return float(np.mean(np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)))


def mean_reciprocal_rank(ranks: Sequence[float]) -> float:
    """Mean of 1 / rank, 0 where nothing was found.

    Args:
        ranks: As for `hit_rate`.
    Returns:
        float in [0, 1].
    Raises:
        ValueError: ranks are no row of such numbers, at least one.
    Source: Voorhees 1999, section 3.
    """
    return float(np.mean(1 / _ranks(ranks)))


def _ranks(ranks, k=1):
    """(Q,) float, inf where nothing was found."""
    check_at_least(1, k=k)
    ranks = np.asarray(ranks, float)
    whole = np.isinf(ranks) | (ranks == np.floor(ranks))  # NaN is neither
    if ranks.ndim != 1 or not ranks.size or not (whole & (ranks >= 0)).all():
        raise ValueError(f"ranks must be a row of 1, 2, …, or 0 or inf for not found; received {ranks}.")
    return np.where(ranks == 0, np.inf, ranks)


def _order(scores):  # (Q, D): columns, the best first
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")


def _best(scores, k):
    order = _order(scores)[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def _diagonal(scores):
    rows = ops.arange(ops.shape(scores)[0])
    return rows[:, None] == rows
