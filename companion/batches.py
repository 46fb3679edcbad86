"""Batches to train a language model on: texts packed into rows of full length, in an order of their own.

No padding is ever computed. The batch of a step depends on the seed and the step alone, so that a run that
was interrupted goes on as if it had not been.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from companion.base import check_at_least
from companion.objectives import mask_tokens, span_corruption

if TYPE_CHECKING:
    import tensorflow as tf  # imported where used: packing needs no TensorFlow


def pack(documents: Iterable[Sequence[int]], length: int, end_id: int) -> np.ndarray:
    """Joins documents, each followed by its end, and cuts them into rows.

    Args:
        documents: Token ids.
        length: Tokens of a row L, >= 1; one more than the model reads for `causal_batches`.
        end_id: The id that ends a document.
    Returns:
        (N, L) int32. Fewer than L tokens at the very end fill no row and are dropped.
    Raises:
        ValueError: length below 1, or not enough tokens for one row.
    Source: Raffel et al. 2020, section 3.1.2. Differs: documents are cut where a row ends, and nothing keeps
    a text from attending to the one before it in its row.
    """
    check_at_least(1, length=length)
    tokens = np.fromiter(chain.from_iterable((*document, end_id) for document in documents), np.int32)
    if len(tokens) < length:
        raise ValueError(
            f"documents must fill a row of length={length}; received {len(tokens)} tokens, ends included."
        )
    return tokens[: len(tokens) // length * length].reshape(-1, length)


def causal_batches(
    rows: np.ndarray, batch_size: int, seed: int = 0, start_step: int = 0, num_steps: int | None = None
) -> "tf.data.Dataset":
    """Batches for a model that predicts the next token, such as `gpt`.

    Args:
        rows: (N, L + 1) int, from `pack`.
        batch_size: Rows of a batch B, >= 1.
        seed: Another seed gives other orders.
        start_step: The first step, from 0 to num_steps: where a run that goes on had stopped.
        num_steps: The steps of the whole run, those before start_step included; one pass if not given.
            Every pass has each row once, in an order of its own; a batch may hold the end of one pass and the
            beginning of the next.
    Returns:
        tf.data.Dataset of (tokens, labels, weights), (B, L) int32, int32 and float32; weights are all 1.
    Raises:
        ValueError: rows is no matrix of two or more columns, or a number is out of its range.
    """

    def make(chosen, rng):
        return chosen[:, :-1], chosen[:, 1:], np.ones_like(chosen[:, 1:], np.float32)

    _check_rows(rows, least=2)
    return _stream(rows, make, batch_size, seed, start_step, num_steps)


def masked_batches(
    rows: np.ndarray,
    vocabulary_size: int,
    mask_id: int,
    special_ids: Collection[int],
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    num_steps: int | None = None,
    share: float = 0.15,
) -> "tf.data.Dataset":
    """Batches for a model that predicts masked tokens, such as `bert`; every pass masks others.

    Args:
        rows: (N, T) int, from `pack`.
        vocabulary_size, mask_id, special_ids, share: see `mask_tokens`.
        batch_size, seed, start_step, num_steps: see `causal_batches`.
    Returns:
        tf.data.Dataset of (inputs, labels, weights). inputs: a dictionary of tokens and segments (all 0),
        (B, T) int32 both. labels: (B, T) int32, the tokens as they were. weights: (B, T) float32, 1 where a
        token was chosen.
    Raises:
        ValueError: as `mask_tokens` and `causal_batches`.
    Source: Devlin et al. 2019, section 3.1; masks drawn anew and packed texts: Liu et al. 2019, sections 4.1
    and 4.2. Differs: no second task of telling which sentences follow one another, as Liu et al.
    """

    def make(chosen, rng):
        tokens, weights = mask_tokens(chosen, vocabulary_size, mask_id, special_ids, rng, share)
        return {"tokens": tokens, "segments": np.zeros_like(tokens)}, chosen, weights

    _check_rows(rows, least=1)
    return _stream(rows, make, batch_size, seed, start_step, num_steps)


def span_batches(
    rows: np.ndarray,
    sentinels: Sequence[int],
    begin_id: int,
    end_id: int,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    num_steps: int | None = None,
    share: float = 0.15,
    mean_length: float = 3.0,
) -> "tf.data.Dataset":
    """Batches for a model that writes the missing spans, such as `t5`; every pass takes out others.

    All rows lose equally many tokens in equally many spans, so that all sources are of one length and all
    targets too.

    Args:
        rows: (N, L) int, from `pack`.
        sentinels, share, mean_length: see `span_corruption`.
        begin_id: What a target begins with: padding, 0, in T5.
        end_id: What sources and targets end with.
        batch_size, seed, start_step, num_steps: see `causal_batches`.
    Returns:
        tf.data.Dataset of (inputs, labels, weights). inputs: a dictionary of source_tokens (B, S) int32 and
        target_tokens (B, T) int32, the labels shifted to the right. labels: (B, T) int32. weights: (B, T)
        float32, all 1. S and T are those of `span_counts` and 1.
    Raises:
        ValueError: as `span_corruption` and `causal_batches`.
    """

    def make(chosen, rng):
        pairs = [span_corruption(row, sentinels, rng, share, mean_length) for row in chosen]
        source, target = (np.stack(side) for side in zip(*pairs, strict=True))
        edge = np.ones((len(chosen), 1), np.int32)
        labels = np.concatenate([target, end_id * edge], axis=1)
        inputs = {
            "source_tokens": np.concatenate([source, end_id * edge], axis=1),
            "target_tokens": np.concatenate([begin_id * edge, target], axis=1),
        }
        return inputs, labels, np.ones_like(labels, np.float32)

    _check_rows(rows, least=2)
    return _stream(rows, make, batch_size, seed, start_step, num_steps)


def _stream(rows, make: Callable, batch_size, seed, start_step, num_steps):
    """`make` of the rows of each step and of a generator of its own."""
    import tensorflow as tf

    num_steps = len(rows) // batch_size if num_steps is None else num_steps
    check_at_least(1, batch_size=batch_size, num_steps=num_steps)
    if not 0 <= start_step <= num_steps:
        raise ValueError(f"start_step must be from 0 to {num_steps}; received start_step={start_step}.")
    rows = np.asarray(rows, np.int32)

    @lru_cache(maxsize=2)
    def order(epoch):
        return np.random.default_rng([seed, 0, epoch]).permutation(len(rows))

    def batch(step):
        places = range(step * batch_size, (step + 1) * batch_size)
        chosen = rows[[order(place // len(rows))[place % len(rows)] for place in places]]
        return make(chosen, np.random.default_rng([seed, 1, step]))

    spec = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), batch(start_step))
    batches = tf.data.Dataset.from_generator(
        lambda: map(batch, range(start_step, num_steps)), output_signature=spec
    )
    return batches.apply(tf.data.experimental.assert_cardinality(num_steps - start_step)).prefetch(2)


def _check_rows(rows, least):
    if np.ndim(rows) != 2 or len(rows) < 1 or np.shape(rows)[1] < least:
        raise ValueError(f"rows must have shape (rows, {least} or more tokens); received {np.shape(rows)}.")
