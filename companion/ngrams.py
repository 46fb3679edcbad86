"""Counting: n-gram language models with Kneser-Ney smoothing (article section 3.2, step 4)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from companion.base import check_at_least


class _Order(NamedTuple):
    """N-grams of one length k, by number; contexts are the numbers of the n-grams of length k - 1."""

    counts: np.ndarray  # (n-grams,) how often; below the highest order after how many different tokens
    totals: np.ndarray  # (contexts,) the sum of the counts of what follows
    kinds: np.ndarray  # (contexts,) how many different tokens follow


class KneserNey:
    """Interpolated Kneser-Ney: what followed the last order - 1 tokens, mixed with what followed fewer.

    With n(c w) the count of context and token, d the discount, N(c ·) how many different tokens follow c,

        p(w | c) = (max(n(c w) - d, 0) + d N(c ·) p(w | c without its first token)) / n(c ·),

    where the lower orders count, in place of n(c w), how many different tokens stood before c w, and the last
    one mixes in 1 / V: no token is impossible. A context never seen leaves all to the next lower order. Every
    sequence begins after order - 1 marks that are no tokens: how sequences begin is learned, and no context
    reaches into the sequence before.

    Made by `KneserNey.train`.

    Source: Kneser and Ney 1995 (the counts of lower orders); interpolated as in Chen and Goodman 1999,
    section 2.7. Differs: one given discount for all.
    """

    def __init__(
        self, vocabulary_size: int, order: int, discount: float, keys: list[np.ndarray], orders: list[_Order]
    ):
        self.vocabulary_size, self.order, self.discount = vocabulary_size, order, discount
        self._keys, self._orders = keys, orders

    @classmethod
    def train(
        cls,
        sequences: Iterable[Sequence[int]],
        vocabulary_size: int,
        order: int,
        discount: float = 0.75,
    ) -> "KneserNey":
        """Count.

        Args:
            sequences: Token ids from 0 to vocabulary_size - 1; a whole text may be one sequence.
            vocabulary_size: Number of token ids V, >= 1.
            order: Tokens of the longest n-gram, >= 1: 1 is a unigram, 3 a trigram model.
            discount: What each count gives to the tokens not seen, in (0, 1); choose it on validation data.
        Returns:
            The model.
        Raises:
            ValueError: a number out of its range, or no token at all.
        """
        check_at_least(1, vocabulary_size=vocabulary_size, order=order)
        if not 0 < discount < 1:
            raise ValueError(f"discount must lie in (0, 1); received discount={discount}.")
        text = _joined(sequences, vocabulary_size, order)
        (places,) = np.nonzero(text < vocabulary_size)
        if not len(places):
            raise ValueError("sequences must hold a token; received none.")
        keys, numbers = [], [np.zeros(len(text), np.int64)]
        for _ in range(order):  # n-grams by number; one a token longer is a number and a token
            longer = np.roll(numbers[-1], 1) * (vocabulary_size + 1) + text
            unique, number = np.unique(longer, return_inverse=True)
            keys.append(unique)
            numbers.append(number)
        return cls(vocabulary_size, order, discount, keys, _orders(numbers, places))

    def probabilities(self, contexts: ArrayLike, tokens: ArrayLike) -> np.ndarray:
        """The probability of each token after its context.

        Args:
            contexts: (..., C) int, the tokens before, the nearest last. The last order - 1 count; fewer stand
                at the beginning of a sequence.
            tokens: (...) int.
        Returns:
            (...) float64, above 0.
        Raises:
            ValueError: a token outside [0, V), or shapes that do not fit.
        """
        contexts = _checked(contexts, self.vocabulary_size, "contexts")
        tokens = _checked(tokens, self.vocabulary_size, "tokens")
        if contexts.shape[:-1] != tokens.shape or not contexts.ndim:
            shapes = f"contexts {contexts.shape}, tokens {tokens.shape}"
            raise ValueError(f"contexts must have the shape of tokens and one axis more; received {shapes}.")
        length = contexts.shape[-1]
        windows = np.full((tokens.size, self.order), self.vocabulary_size)
        kept = min(length, self.order - 1)
        windows[:, self.order - 1 - kept : -1] = contexts.reshape(tokens.size, length)[:, length - kept :]
        windows[:, -1] = tokens.ravel()
        return self._of(windows).reshape(tokens.shape)

    def log_probability(self, sequences: Iterable[Sequence[int]]) -> list[np.ndarray]:
        """The natural logarithm of each token's probability, given all before it in its sequence.

        Args:
            sequences: Token ids; a (N, T) array, too.
        Returns:
            For each sequence a (T,) float64 array.
        Raises:
            ValueError: a token outside [0, V).
        """
        sequences = [np.asarray(sequence) for sequence in sequences]
        text = _joined(sequences, self.vocabulary_size, self.order)
        (places,) = np.nonzero(text < self.vocabulary_size)
        windows = text[places[:, None] + np.arange(1 - self.order, 1)]
        ends = np.cumsum([len(sequence) for sequence in sequences], dtype=int)
        return np.split(np.log(self._of(windows)), ends)[: len(sequences)]

    def distribution(self, context: Sequence[int] = ()) -> np.ndarray:
        """The probability of every token after one context; as `probabilities`.

        Returns:
            (V,) float64 that sum to 1.
        """
        context = _checked(context, self.vocabulary_size, "context")
        contexts = np.broadcast_to(context, (self.vocabulary_size, len(context)))
        return self.probabilities(contexts, np.arange(self.vocabulary_size))

    def sample(
        self, length: int, context: Sequence[int] = (), end_id: int | None = None, seed: int = 0
    ) -> list[int]:
        """Draw a continuation of context, token after token, until end_id, which is kept, or length tokens.

        Raises:
            ValueError: length below 1, or a token outside [0, V).
        """
        check_at_least(1, length=length)
        rng, tokens = np.random.default_rng(seed), list(context)
        while len(tokens) < len(context) + length:
            tokens.append(int(rng.choice(self.vocabulary_size, p=self.distribution(tokens))))
            if tokens[-1] == end_id:
                break
        return tokens[len(context) :]

    def _of(self, windows):  # (N, order) to (N,)
        probability = np.full(len(windows), 1 / self.vocabulary_size)
        for k, (counts, totals, kinds) in enumerate(self._orders, start=1):
            context, gram = self._numbers(windows[:, self.order - k :])
            total = np.where(context >= 0, totals[context], 0)
            count = np.where(gram >= 0, counts[gram], 0)
            mixed = np.maximum(count - self.discount, 0) + self.discount * kinds[context] * probability
            probability = np.where(total > 0, mixed / np.maximum(total, 1), probability)
        return probability

    def _numbers(self, grams):
        """(N, k) to the numbers of their first k - 1 tokens and of all: (N,) twice; -1 if never seen."""
        before, number = None, np.zeros(len(grams), np.int64)
        for keys, tokens in zip(self._keys, grams.T, strict=False):
            wanted = np.where(number >= 0, number * (self.vocabulary_size + 1) + tokens, -1)
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            before, number = number, np.where(keys[place] == wanted, place, -1)
        return before, number


def _orders(numbers, places):
    """The counts of each order from the numbers of the n-grams that end at each place of the text."""
    orders, ends = [], [number[places] for number in numbers]
    for k in range(1, len(numbers)):
        size, contexts = numbers[k].max() + 1, numbers[k - 1].max() + 1
        counted = ends[k]
        if k + 1 < len(numbers):  # one for each different n-gram that is a token longer
            counted = counted[np.unique(ends[k + 1], return_index=True)[1]]
        counts = np.bincount(counted, minlength=size)
        grams, first = np.unique(ends[k], return_index=True)
        context = numbers[k - 1][places[first] - 1]
        totals = np.bincount(context, counts[grams], minlength=contexts)
        orders.append(_Order(counts, totals, np.bincount(context, minlength=contexts)))
    return orders


def _joined(sequences, vocabulary_size, order):
    """One text: every sequence after order - 1 marks (V), and one more in front of all."""
    mark = np.full(order - 1, vocabulary_size)
    parts = [np.full(1, vocabulary_size)]
    for sequence in sequences:
        parts += [mark, _checked(sequence, vocabulary_size, "sequences")]
    return np.concatenate(parts)


def _checked(tokens, vocabulary_size, name):
    tokens = np.asarray(tokens)
    if not tokens.size:
        return tokens.astype(np.int64)
    if tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= vocabulary_size:
        span = f"{tokens.dtype} {tokens.min()} to {tokens.max()}"
        raise ValueError(f"{name} must hold ints in [0, {vocabulary_size}); received {span}.")
    return tokens.astype(np.int64)
