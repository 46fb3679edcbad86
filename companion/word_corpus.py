"""Sentences as one row of word ids, and what training draws from them: windows, noise, kept words."""

import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from companion.base import check_at_least

PIECE = 1 << 17  # tokens at a time: what is kept of an epoch beside the ids themselves


class WordCorpus(NamedTuple):
    """The frequent words of a corpus and where they stand.

    words: V strings, the most frequent first. counts: (V,) int64. ids: (T,) int32, the sentences one after
    the other, without rarer words. ends: (S,) int64, where each of the S sentences ends in ids. num_tokens:
    how many tokens the corpus has, rare ones included.
    """

    words: list[str]
    counts: np.ndarray
    ids: np.ndarray
    ends: np.ndarray
    num_tokens: int


def encode_corpus(corpus: Iterable[Sequence[str]], min_count: int = 5) -> WordCorpus:
    """Counts words and turns them into ids, in one pass over the corpus.

    Args:
        corpus: Sentences (or paragraphs, or documents), each a sequence of tokens. Windows do not cross them.
        min_count: Words that occur more rarely are left out, as if they were not there.
    Returns:
        A WordCorpus. Memory: 4 bytes a token, about 14 while rare words are taken out.
    Raises:
        TypeError: corpus is not an iterable of sequences of strings.
        ValueError: It holds no token, or no word occurs min_count times, or min_count is below 1.
    """
    check_at_least(1, min_count=min_count)
    found = defaultdict()
    found.default_factory = found.__len__  # a new word gets the next number
    tokens, lengths = array.array("i"), array.array("q")
    for sentence in _sentences(corpus):
        tokens.extend(map(found.__getitem__, sentence))
        lengths.append(len(sentence))
    if strange := [word for word in found if not isinstance(word, str)]:
        raise TypeError(f"corpus must hold strings; received {strange[0]!r}, {type(strange[0]).__name__}.")
    if not tokens:
        raise ValueError(f"corpus must hold tokens; received {len(lengths)} sentences without any.")
    ids, spelled = np.frombuffer(tokens, np.int32), list(found)
    counts = np.bincount(ids, minlength=len(spelled))
    ranked = sorted(np.flatnonzero(counts >= min_count), key=lambda i: (-counts[i], spelled[i]))
    if not ranked:
        most = spelled[counts.argmax()]
        raise ValueError(
            f"min_count must leave a word; received min_count={min_count}, and the most frequent of "
            f"{len(spelled):,} words, {most!r}, occurs {counts.max():,} times."
        )
    new_ids = np.full(len(spelled), -1, np.int32)
    new_ids[ranked] = np.arange(len(ranked))
    ids = new_ids[ids]
    known = ids >= 0
    ends = np.cumsum(np.frombuffer(lengths, np.int64))
    ends -= np.searchsorted(np.flatnonzero(~known), ends)  # rare words before each end
    return WordCorpus([spelled[i] for i in ranked], counts[ranked], ids[known], ends, len(tokens))


def kept_shares(counts: np.ndarray, subsample: float) -> np.ndarray:
    """How much of each word's occurrences training sees: frequent words carry little news.

    Args:
        counts: (V,) how often each word occurs.
        subsample: t, the share of all tokens above which words are thinned out; 0: none are.
    Returns:
        (V,) float32, min(1, sqrt(t / f) + t / f) for a word whose share of the tokens is f.
    Source: Mikolov et al. 2013b, section 2.3, has sqrt(t / f) alone; the sum is what its authors' program
        does, and others after it.
    """
    if not 0 <= subsample < np.inf:
        raise ValueError(f"subsample must be 0 or positive; received subsample={subsample}.")
    if not subsample:
        return np.ones(len(counts), np.float32)
    ratio = subsample * counts.sum() / counts
    return np.minimum(1, np.sqrt(ratio) + ratio).astype(np.float32)


def noise_distribution(counts: np.ndarray, power: float = 0.75) -> np.ndarray:
    """The probabilities with which words are drawn as negative examples: (V,), in proportion to count^power.

    Source: Mikolov et al. 2013b, section 2.2.
    """
    weights = counts.astype(np.float64) ** power
    return weights / weights.sum()


def pieces(corpus: WordCorpus, kept: np.ndarray, random: np.random.Generator) -> Iterator[tuple]:
    """One epoch: the tokens that are kept, piece by piece, each with the ends of its sentence.

    Args:
        corpus: T tokens.
        kept: (V,) the share of each word's occurrences to keep.
        random: Decides which.
    Yields:
        ids (n,) int32; before and after (n,) int64, how many tokens of the same sentence stand on each side
        within the piece; and how many of the corpus' tokens the piece was drawn from, at most PIECE.
    """
    for start in range(0, len(corpus.ids), PIECE):
        ids = corpus.ids[start : start + PIECE]
        stays = random.random(len(ids), dtype=np.float32) < kept[ids]
        sentence = np.searchsorted(corpus.ends, start + np.flatnonzero(stays), side="right")
        place = np.arange(len(sentence))
        before = place - np.searchsorted(sentence, sentence)
        after = np.searchsorted(sentence, sentence, side="right") - 1 - place
        yield ids[stays], before, after, len(ids)


def _sentences(corpus):
    if isinstance(corpus, str | bytes) or not isinstance(corpus, Iterable):
        raise TypeError(f"corpus must be an iterable of lists of tokens; received {type(corpus).__name__}.")
    for number, sentence in enumerate(corpus):
        if isinstance(sentence, str | bytes) or not hasattr(sentence, "__len__"):
            raise TypeError(
                "corpus must hold lists of tokens, one for each sentence; "
                f"received {type(sentence).__name__} as sentence {number}: {str(sentence)[:40]!r}."
            )
        yield sentence
