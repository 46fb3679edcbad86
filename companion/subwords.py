"""Pieces of words as fastText has them: character n-grams, their hash, vectors made of n-gram vectors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from companion.base import check_at_least

OFFSET_BASIS, PRIME = 2166136261, 16777619
END_OF_SENTENCE = "</s>"
MOST_BUCKETS = 2**31 - 1  # files hold the number as int32
MOST_CHARACTERS = 256  # of an n-gram; fastText's own have up to 6
SUMMED = 256  # words whose rows are added up at once
BLOCK = 1 << 14  # words whose n-grams are cut at once


def character_ngrams(word: str, min_n: int = 3, max_n: int = 6) -> list[str]:
    """Cuts a word, with its beginning and end marked, into runs of characters.

    Args:
        word: Any string; its n-grams are those of `<word>`, counted in code points.
        min_n: Length of the shortest, at least 1.
        max_n: Length of the longest, at least min_n.
    Returns:
        List of str: by place, then by length; those that occur twice are there twice. The marks alone are
        no n-grams; a short word is one as a whole, with its marks.
    Raises:
        ValueError: min_n is below 1, max_n below min_n.
    Source: Bojanowski et al. 2017, section 3.2. As in the authors' program the whole word is no n-gram of
    its own where it is longer than max_n: it has a row of its own instead.
    """
    check_at_least(1, min_n=min_n)
    check_at_least(min_n, max_n=max_n)
    marked = f"<{word}>"
    length = len(marked)
    return [
        marked[start : start + n]
        for start in range(length)
        for n in range(min_n, min(max_n, length - start) + 1)
        if n > 1 or 0 < start < length - 1
    ]


def ngram_hash(text: str) -> int:
    """Hashes a string to 32 bits, FNV-1a as in fastText.

    Args:
        text: Any Unicode string; its UTF-8 bytes are hashed.
    Returns:
        int in [0, 2**32).
    Source: Fowler, Noll and Vo; Bojanowski et al. 2017, section 3.2. The authors' program takes each byte as
    a signed one, so that a byte above 127 (every one in Chinese) also turns the upper 24 bits of the hash.
    """
    state = OFFSET_BASIS
    for byte in text.encode():
        state = (state ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * PRIME & 0xFFFFFFFF
    return state


def ngram_rows(word: str, min_n: int, max_n: int, buckets: int) -> list[int]:
    """Names the row of the n-gram table that each n-gram of a word shares with others of its hash.

    Args:
        word: Any string. `</s>`, fastText's end of a sentence, has no n-grams.
        min_n: Length of the shortest, at least 1.
        max_n: Length of the longest, at least min_n.
        buckets: Rows of the table, 1 to 2**31 - 1.
    Returns:
        List of int in [0, buckets), in the order of `character_ngrams`.
    Raises:
        ValueError: A number is out of its range.
    """
    _check(min_n, max_n, buckets)
    if word == END_OF_SENTENCE:
        return []
    return [ngram_hash(ngram) % buckets for ngram in character_ngrams(word, min_n, max_n)]


def ngram_table(
    words: Sequence[str | bytes], min_n: int, max_n: int, buckets: int
) -> tuple[np.ndarray, np.ndarray]:
    """Names the rows of all n-grams of many words, as `ngram_rows` does for one.

    Args:
        words: N words. Bytes that are not UTF-8 are cut as fastText cuts them.
        min_n: Length of the shortest, at least 1.
        max_n: Length of the longest, at least min_n.
        buckets: Rows of the table, 1 to 2**31 - 1.
    Returns:
        rows: (total,) int32, word after word.
        starts: (N + 1,) int64: those of word i are `rows[starts[i] : starts[i + 1]]`.
    Raises:
        ValueError: A number is out of its range.
    """
    _check(min_n, max_n, buckets)
    rows, numbers = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for first in range(0, len(words), BLOCK):
        hashes, in_each = _hashes(words[first : first + BLOCK], min_n, max_n)
        rows.append((hashes % np.uint32(buckets)).astype(np.int32))
        numbers.append(in_each)
    return np.concatenate(rows), np.concatenate(numbers).cumsum()


class Subwords(NamedTuple):
    """The vectors of n-grams, and how words are cut into them.

    Attributes:
        table: (buckets, D) float32, a row for each value of the hash.
        min_n: Length of the shortest n-gram, at least 1.
        max_n: Length of the longest.
    """

    table: np.ndarray
    min_n: int
    max_n: int

    def compose(self, word: str, own: np.ndarray | None = None) -> np.ndarray:
        """Makes the vector of a word: the mean of its own row and those of its n-grams.

        Args:
            word: Any string.
            own: (D,) the row of the word itself, not yet mixed with n-grams; None: the word has none.
        Returns:
            (D,) float32; zeros if there is no row at all.
        Source: Bojanowski et al. 2017, section 3.2, where it is the sum; the authors' program has the mean.
        """
        rows = self.table[ngram_rows(word, self.min_n, self.max_n, len(self.table))]
        if own is not None:
            rows = np.concatenate([np.asarray(own, np.float32)[None], rows])
        return rows.sum(axis=0) / np.float32(max(len(rows), 1))

    def sums(self, words: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Adds up the n-gram rows of each word.

        Args:
            words: K words.
        Returns:
            sums: (K, D) float32; zeros for a word without n-grams.
            numbers: (K,) int64, how many rows were added.
        """
        sums = np.zeros((len(words), self.table.shape[1]), np.float32)
        numbers = np.zeros(len(words), np.int64)
        for start in range(0, len(words), SUMMED):
            block = slice(start, start + SUMMED)
            rows, starts = ngram_table(words[block], self.min_n, self.max_n, len(self.table))
            numbers[block] = np.diff(starts)
            some = np.flatnonzero(numbers[block])  # reduceat has no empty runs
            if len(some):
                sums[start + some] = np.add.reduceat(self.table[rows], starts[some], axis=0)
        return sums, numbers


def _check(min_n: int, max_n: int, buckets: int) -> None:
    check_at_least(1, min_n=min_n, buckets=buckets)
    check_at_least(min_n, max_n=max_n)
    for name, number, most in (("buckets", buckets, MOST_BUCKETS), ("max_n", max_n, MOST_CHARACTERS)):
        if number > most:
            raise ValueError(f"{name} must be at most {most}; received {name}={number}.")


def _hashes(words: Sequence[str | bytes], min_n: int, max_n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes all n-grams at once: (total,) uint32 in order, and how many each word has, (N,) int64."""
    spelled = [word if isinstance(word, bytes) else word.encode() for word in words]
    text = np.frombuffer(b"".join(b"<%b>" % word for word in spelled), np.uint8)
    places = np.flatnonzero(text & 0xC0 != 0x80)  # where a character begins: bytes 10xxxxxx carry one on
    ends = np.searchsorted(places, np.cumsum([len(word) + 2 for word in spelled]))  # in characters
    lengths = np.diff(ends, prepend=0)
    after = np.arange(len(places)) - np.repeat(ends - lengths, lengths)  # characters before it in its word
    left = np.repeat(lengths, lengths) - after  # characters from it to the end of its word
    hashes = _grow_hashes(text, places, left, max_n)
    used = np.arange(1, hashes.shape[1] + 1) <= left[:, None]
    used[:, : min_n - 1] = False
    used[(after == 0) | (left == 1), 0] = False
    numbers = np.add.reduceat(used.sum(axis=1), ends - lengths)
    silent = np.array([word == END_OF_SENTENCE.encode() for word in spelled])
    used[np.repeat(silent, lengths)] = False
    return hashes[used], np.where(silent, 0, numbers)


def _grow_hashes(text: np.ndarray, places: np.ndarray, left: np.ndarray, max_n: int) -> np.ndarray:
    """Hashes the run of n characters from every place, for n from 1 up: (places, n) uint32."""
    signed = text.view(np.int8).astype(np.int32).view(np.uint32)
    sizes = np.diff(places, append=len(text))
    hashes = np.empty((len(places), min(max_n, int(left.max()))), np.uint32)
    state = np.full(len(places), OFFSET_BASIS, np.uint32)
    for n in range(hashes.shape[1]):
        inside = np.flatnonzero(left > n)
        for byte in range(int(sizes.max())):
            grown = inside[sizes[inside + n] > byte]
            state[grown] = (state[grown] ^ signed[places[grown + n] + byte]) * np.uint32(PRIME)
        hashes[:, n] = state
    return hashes
