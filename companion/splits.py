"""Training, validation and test sides that share nothing: stable hashes, groups, near-duplicates."""

import hashlib
import itertools
import random
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

FRACTIONS = (0.8, 0.1, 0.1)
SHINGLE = 3  # words
BANDS, ROWS = 16, 4  # of hashes: pairs of Jaccard .7 meet with probability .99


class Splits(NamedTuple):
    """Three lists of records."""

    train: list
    validation: list
    test: list


def split_of(key: str, fractions: Sequence[float] = FRACTIONS, salt: str = "") -> str:
    """The side a key belongs to: the same in every run, whatever other keys there are.

    Args:
        key: What decides: a file name, a sentence.
        fractions: Shares of training, validation and test; they sum to 1.
        salt: Another salt gives another, independent split.
    Returns:
        "train", "validation" or "test".
    Raises:
        ValueError: fractions are not three shares that sum to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(
            f"fractions must be three shares that sum to 1; received fractions={tuple(fractions)}."
        )
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < fractions[0]:
        return "train"
    return "validation" if position < fractions[0] + fractions[1] else "test"


def split(
    records: Iterable,
    key: str | Callable | None = None,
    text: str | Callable | None = None,
    fractions: Sequence[float] = FRACTIONS,
    salt: str = "",
) -> Splits:
    """Split records so that one key, and with `text` one family of near-duplicates, lies on one side only.

    Args:
        records: Strings or named tuples.
        key: Field name or function whose value decides the side; None: the record as a string.
        text: Field name or function giving a text. Keys that hold near-duplicates of each other go together.
        fractions: Shares of training, validation and test, of the keys: sides differ in size when keys do.
        salt: Another salt gives another split.
    Returns:
        Splits of the records, each side in the given order.
    Raises:
        ValueError: fractions are not three shares that sum to 1.
    """
    records = list(records)
    keys = [str(value) for value in _values(records, key)]
    if text is not None:
        keys = _joined_keys(keys, near_duplicates([str(value) for value in _values(records, text)]))
    side = {value: split_of(value, fractions, salt) for value in set(keys)}
    return Splits(
        *([r for r, k in zip(records, keys, strict=True) if side[k] == name] for name in Splits._fields)
    )


def random_split(records: Iterable, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> Splits:
    """Split records one by one, blind to files and copies: the usual way, and it leaks. For comparison only.

    Args:
        records: Any records.
        fractions: Shares of training, validation and test.
        seed: Another seed gives another split.
    Returns:
        Splits of the records, shuffled.
    """
    records = list(records)
    random.Random(seed).shuffle(records)
    first, second = (round(len(records) * share) for share in (fractions[0], fractions[0] + fractions[1]))
    return Splits(records[:first], records[first:second], records[second:])


def normalize(text: str) -> str:
    """The text as copies share it: lower case, every number 0, punctuation squeezed to single spaces."""
    return re.sub(r"[\W_]+", " ", re.sub(r"\d+", "0", text.casefold())).strip()


def near_duplicates(texts: Sequence[str], threshold: float = 0.7) -> list[int]:
    """Find copies that differ by case, numbers, punctuation or a few words.

    Args:
        texts: N texts; words are shingled by three (Chinese by characters) after `normalize`.
        threshold: Least estimated share of shingles in common (Jaccard), above 0, at most 1.
    Returns:
        N integers: for each text the index of the first text of its cluster.
    Raises:
        ValueError: threshold outside (0, 1].
    Source: Broder 1997, "On the resemblance and containment of documents". Differs: 64 multiply-shift hashes,
    and candidates found by bands (Leskovec et al., Mining of Massive Datasets, section 3.4).
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1]; received threshold={threshold}.")
    plain = [normalize(text) for text in texts]
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(text, len(numbers)) for text in plain]  # equal after normalizing: one row
    parent = list(range(len(numbers)))
    if numbers:
        signatures = _signatures(list(numbers))
        for band in range(0, BANDS * ROWS, ROWS):
            for earlier in _earlier_alike(signatures[:, band : band + ROWS]):
                alike = (signatures == signatures[earlier]).mean(axis=1) >= threshold
                for one in np.flatnonzero(alike & (earlier != np.arange(len(earlier)))):
                    _union(parent, int(one), int(earlier[one]))
    first: dict[int, int] = {}
    return [first.setdefault(_root(parent, row), index) for index, row in enumerate(rows)]


def _signatures(texts: Sequence[str]) -> np.ndarray:  # (N, 64) uint32
    words = [re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+", text) or [""] for text in texts]
    padding = [None] * (SHINGLE - 1)  # ends every text: one shingle starts at each word
    counts = np.array([len(some) for some in words])
    starts = np.cumsum(counts + len(padding)) - counts - len(padding)
    bounds = np.stack([starts, starts + counts], 1).ravel()
    code = {word: zlib.crc32(word.encode()) + 1 for word in set(itertools.chain.from_iterable(words))}
    flat = [code.get(word, 0) for some in words for word in some + padding]
    flat = np.array(flat + [0] * len(padding), np.uint64)
    generator = np.random.default_rng(0)
    places, odd = (
        generator.integers(2**63, size=n, dtype=np.uint64) * 2 + 1 for n in (SHINGLE, BANDS * ROWS)
    )
    shingles = sum(flat[i : len(flat) - SHINGLE + 1 + i] * places[i] for i in range(SHINGLE))
    shingles ^= shingles >> np.uint64(29)
    hashes = ((shingles * multiplier >> np.uint64(32)).astype(np.uint32) for multiplier in odd)
    return np.stack([np.minimum.reduceat(one, bounds)[::2] for one in hashes], 1)


def _earlier_alike(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the first equal row, and the last one before it (itself where there is none)."""
    rows = np.ascontiguousarray(rows).view(np.uint64) @ np.array([1, 0x9E3779B97F4A7C15], np.uint64)
    _, index, inverse = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    same = inverse[order[1:]] == inverse[order[:-1]]
    before = np.arange(len(rows))
    before[order[1:][same]] = order[:-1][same]
    return index[inverse], before


def _joined_keys(keys: list[str], clusters: list[int]) -> list[str]:
    names = sorted(set(keys))
    number = {name: i for i, name in enumerate(names)}
    parent = list(range(len(names)))
    for key, first in zip(keys, clusters, strict=True):
        _union(parent, number[key], number[keys[first]])
    return [names[_root(parent, number[key])] for key in keys]


def _root(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _union(parent: list[int], one: int, other: int) -> None:
    one, other = _root(parent, one), _root(parent, other)
    parent[max(one, other)] = min(one, other)


def _values(records: list, field: str | Callable | None) -> list:
    if field is None:
        return records
    return [field(record) if callable(field) else getattr(record, field) for record in records]
