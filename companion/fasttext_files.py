"""The binary files of the fastText program (.bin): read with their n-grams, written for look-ups."""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from companion.subwords import MOST_BUCKETS, MOST_CHARACTERS, Subwords, ngram_table
from companion.vector_streams import MOST_COLUMNS, Rows, Source, Words

MAGIC = struct.pack("<i", 793712314)
VERSIONS = (11, 12)
SUPERVISED, SKIP_GRAM, NEGATIVE_SAMPLING = 3, 2, 2
BLOCK = 256  # words composed at once: their n-gram rows stay in the processor's cache
BLOCK_BYTES = 1 << 18
PIECE = 1024  # rows added up at once


class _Model(NamedTuple):
    """What a file says of itself before its dictionary."""

    columns: int
    words: int
    buckets: int  # 0 where no n-grams are used
    min_n: int
    max_n: int


def read_fasttext(
    source: Source, wanted: set[str] | None
) -> tuple[list[str], np.ndarray, Subwords | None, np.ndarray, int]:
    """Reads a model that was trained without labels.

    Args:
        source: Stands at the first byte.
        wanted: Compose the vectors of these words only, also of those the model has n-grams for and nothing
            else; None: read every word and the n-gram table.
    Returns:
        words: list of str: the model's in its order, then wanted ones it does not know, sorted.
        vectors: (N, D) float32, means of a word's own row and its n-grams' rows.
        subwords: The n-gram table; None if the model has none or words were wanted.
        counts: (N,) int64, how often each was in the training text; 0 for a word it does not know.
        repeated: How many words of the file were left out because they were there already.
    Raises:
        ValueError: The file is damaged, or is a quantized, pruned or supervised model.
    Source: Bojanowski et al. 2017, section 3.2, as the authors' program has it; a word of invalid UTF-8 is
    composed from its bytes, as there, and then shown with U+FFFD.
    """
    model = _read_header(source)
    kept, rows, counts, spelled = _read_dictionary(source, model, wanted)
    _read_shape(source, "the input matrix", model.words + model.buckets, model.columns)
    if wanted is None:
        vectors, subwords = _read_all(source, model, spelled)
        if kept.repeated:
            vectors = vectors[rows]
    else:
        vectors, counts = _read_wanted(source, model, kept, spelled, rows, counts)
        subwords = None
    _skip_output(source)
    return list(kept.index), vectors, subwords, np.array(counts, np.int64), kept.repeated


def _read_header(source: Source) -> _Model:
    if (magic := source.take(4, "fastText's magic number")) != MAGIC:
        raise source.wrong(f"fastText's magic number {MAGIC!r}", repr(magic), 0)
    (version,) = struct.unpack("<i", source.take(4, "a version"))
    if version not in VERSIONS:
        raise source.wrong("version 11 or 12 of fastText's files", f"version {version}", 4)
    numbers = struct.unpack("<12id", source.take(56, "the model's arguments"))
    columns, kind, buckets, min_n, max_n = (numbers[i] for i in (0, 7, 8, 9, 10))
    place = source.offset
    size, words, labels, _, pruned = struct.unpack("<3i2q", source.take(28, "the dictionary's size"))
    if kind == SUPERVISED or labels > 0:
        raise ValueError(
            f"{source.name} is a supervised fastText model with {labels} labels, which are not words; "
            "expected one that was trained with skipgram or cbow."
        )
    if pruned >= 0:
        raise ValueError(f"{source.name} is a pruned fastText model, which is not supported.")
    if not (size == words > 0 and labels == 0):
        found = f"{size} entries, {words} of them words and {labels} labels"
        raise source.wrong("as many words as entries, at least one", found, place)
    min_n = max(min_n, 1)  # fastText takes 0 as 1
    if max_n < min_n:
        buckets = max(buckets, 0)  # fastText's own are 0; rows that nothing uses are skipped
    if not (1 <= columns <= MOST_COLUMNS and 0 <= buckets <= MOST_BUCKETS and (buckets or max_n < min_n)):
        raise source.wrong("possible sizes of vectors and n-grams", f"dim={columns}, bucket={buckets}", 8)
    if max_n > MOST_CHARACTERS:
        raise source.wrong(f"n-grams of at most {MOST_CHARACTERS} characters", f"maxn={max_n}", 8)
    return _Model(columns, words, buckets, min_n, max_n)


def _read_dictionary(source: Source, model: _Model, wanted: set[str] | None) -> tuple:
    """Reads the entries: words to keep, the row and count of each; the bytes of each, or of every word."""
    kept, rows, counts, spelled = Words(wanted), [], [], []
    entry = struct.Struct("<qb")
    for row in range(model.words):
        word, rest = source.until(b"\0", entry.size, f"entry {row + 1} of {model.words} of the dictionary")
        count, kind = entry.unpack(rest)
        if kind != 0 or count < 0 or not word:
            found = f"{word[:40]!r}, count {count}, type {kind}"
            raise source.wrong("a word, its count and type 0", found, source.offset - len(word) - 10)
        if new := kept.add(word.decode("utf-8", "replace")):
            rows.append(row)
            counts.append(count)
        if new or wanted is None:
            spelled.append(word)
    return kept, rows, counts, spelled


def _read_shape(source: Source, what: str, rows: int, columns: int) -> None:
    place = source.offset
    (quantized,) = source.take(1, f"whether {what} is quantized")
    if quantized == 1:
        raise ValueError(f"{source.name} is a quantized fastText model, which is not supported.")
    shape = struct.unpack("<2q", source.take(16, f"the shape of {what}"))
    if quantized or shape != (rows, columns):
        found = f"{shape[0]} rows of {shape[1]}" if not quantized else f"the mark {quantized}"
        raise source.wrong(f"{what} of {rows} rows of {columns} numbers, not quantized", found, place)
    if source.left is not None and source.left < 4 * rows * columns:
        raise source.wrong(
            f"{4 * rows * columns} bytes of {what}", f"only {source.left} to the end of the file"
        )


def _blocks(source: Source, rows: int, columns: int) -> Iterator[np.ndarray]:
    """Takes (k, D) rows at a time, each number checked."""
    most = max(1, BLOCK_BYTES // (4 * columns))
    for first in range(0, rows, most):
        count = min(most, rows - first)
        data = source.take(4 * count * columns, f"rows {first} to {first + count - 1} of {rows}")
        block = np.frombuffer(data, "<f4").reshape(count, columns)
        if not np.isfinite(block).all():
            place = int(np.flatnonzero(~np.isfinite(block.ravel()))[0])
            offset = source.offset - len(data) + 4 * place
            raise source.wrong("a finite number", str(block.ravel()[place]), offset)
        yield block


def _read_all(source: Source, model: _Model, spelled: list[bytes]) -> tuple[np.ndarray, Subwords | None]:
    parts = []
    for count in (model.words, model.buckets):
        rows = Rows(source, model.columns, count)
        for block in _blocks(source, count, model.columns):
            rows.append(block)
        parts.append(rows.finished())
    vectors, table = parts
    if model.max_n < model.min_n:
        return vectors, None
    subwords = Subwords(table, model.min_n, model.max_n)
    for first in range(0, model.words, BLOCK):
        block = vectors[first : first + BLOCK]
        sums, numbers = subwords.sums(spelled[first : first + BLOCK])
        block += sums
        block /= (numbers + 1).astype(np.float32)[:, None]
    return vectors, subwords


def _read_wanted(
    source: Source, model: _Model, kept: Words, spelled: list[bytes], rows: list[int], counts: list[int]
) -> tuple[np.ndarray, list[int]]:
    """Adds up the rows of each wanted word while the matrix passes by."""
    known, others = len(rows), sorted(kept.missing)
    uses, starts = _rows_of([*spelled, *others], rows, model)
    numbers = np.diff(starts)
    targets = np.repeat(np.arange(len(numbers)), numbers)
    order = np.argsort(uses, kind="stable")
    uses, targets = uses[order], targets[order]
    sums, first = np.zeros((len(numbers), model.columns), np.float32), 0
    for block in _blocks(source, model.words + model.buckets, model.columns):
        start, stop = np.searchsorted(uses, (first, first + len(block))).tolist()
        for here in range(start, stop, PIECE):
            piece = slice(here, min(here + PIECE, stop))
            _add_rows(sums, targets[piece], block, uses[piece] - first)
        first += len(block)
    some = numbers > 0
    for word, composed in zip(others, some[known:], strict=True):
        if composed:
            kept.add(word)
    vectors = sums[some] / numbers[some, None].astype(np.float32)
    return vectors, counts + [0] * (len(vectors) - known)


def _rows_of(words: list[str | bytes], own: list[int], model: _Model) -> tuple[np.ndarray, np.ndarray]:
    """What each word is a mean of, as `ngram_table` names rows; the first words have rows of their own."""
    rows, starts = np.zeros(0, np.int64), np.zeros(len(words) + 1, np.int64)
    if model.max_n >= model.min_n:
        rows, starts = ngram_table(words, model.min_n, model.max_n, model.buckets)
    rows = np.insert(rows.astype(np.int64) + model.words, starts[: len(own)], own)
    return rows, starts + np.minimum(np.arange(len(starts)), len(own))


def _add_rows(sums: np.ndarray, targets: np.ndarray, block: np.ndarray, rows: np.ndarray) -> None:
    """Adds row rows[i] of the block to sums[targets[i]]; several may go to one."""
    order = np.argsort(targets, kind="stable")
    each, starts = np.unique(targets[order], return_index=True)
    if len(each):
        sums[each] += np.add.reduceat(block[rows[order]], starts, axis=0)


def _skip_output(source: Source) -> None:
    """Passes over the matrix that only training needs."""
    place = source.offset
    (quantized,) = source.take(1, "whether the output matrix is quantized")
    rows, columns = struct.unpack("<2q", source.take(16, "the shape of the output matrix"))
    if quantized or rows < 0 or columns < 0:
        found = f"{rows} rows of {columns}, mark {quantized}"
        raise source.wrong("the shape of the output matrix, not quantized", found, place)
    source.skip(4 * rows * columns, "the output matrix")
    source.end("the output matrix")


def fasttext_bytes(
    words: Sequence[str], vectors: np.ndarray, subwords: Subwords | None, counts: np.ndarray | None
) -> Iterator[bytes]:
    """Makes a file that fastText and gensim look words up in; it is not for training on.

    Args:
        words: N words.
        vectors: (N, D) float32. Each word gets the row of its own that makes its mean this vector.
        subwords: The n-gram table of width D; None: a model without n-grams.
        counts: (N,) ints; None: one each. A word never met is written as met once, or gensim would drop it.
    Yields:
        The file's bytes, version 12; the output matrix is zeros.
    Raises:
        ValueError: A row is beyond the range of float32.
    """
    (size, columns), buckets = vectors.shape, 0 if subwords is None else len(subwords.table)
    min_n, max_n = (0, 0) if subwords is None else (subwords.min_n, subwords.max_n)
    counts = np.ones(size, np.int64) if counts is None else np.maximum(counts, 1)
    # window 5, 5 epochs, from 1 occurrence on, 5 negatives, single words
    arguments = (columns, 5, 5, 1, 5, 1, NEGATIVE_SAMPLING, SKIP_GRAM, buckets, min_n, max_n, 100, 1e-4)
    yield MAGIC + struct.pack("<i12id", VERSIONS[-1], *arguments)
    yield struct.pack("<3i2q", size, size, 0, int(counts.sum()), -1)
    for word, count in zip(words, counts.tolist(), strict=True):
        yield word.encode() + struct.pack("<bqb", 0, count, 0)
    yield struct.pack("<?2q", False, size + buckets, columns)
    for first in range(0, size, BLOCK):
        block = vectors[first : first + BLOCK]
        if subwords is not None:
            with np.errstate(over="ignore"):
                sums, numbers = subwords.sums(words[first : first + BLOCK])
                block = block * (numbers + 1).astype(np.float32)[:, None] - sums
            if not np.isfinite(block).all():
                raise ValueError("vectors must be small enough to be parted into float32 rows of a model.")
        yield block.astype("<f4").tobytes()
    for first in range(0, buckets, BLOCK):
        yield subwords.table[first : first + BLOCK].astype("<f4").tobytes()
    yield struct.pack("<?2q", False, size, columns)
    for first in range(0, size, BLOCK):
        yield bytes(4 * columns * min(BLOCK, size - first))
