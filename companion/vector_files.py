"""Files of word vectors, read and written: GloVe's text, word2vec's text and binary, fastText's models."""

import os
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from companion.base import check_at_least
from companion.fasttext_files import MAGIC, fasttext_bytes, read_fasttext
from companion.subwords import Subwords
from companion.tokenizer import checked_text
from companion.vector_streams import Words, opened, write_whole
from companion.word2vec_files import detect, read_binary, read_header, read_text, rows_written

FORMATS = ("glove", "word2vec", "word2vec-binary", "fasttext")
BLOCK = 4096  # rows checked at once


class VectorData(NamedTuple):
    """What a file of word vectors holds.

    Attributes:
        words: N different words.
        vectors: (N, D) float32, their vectors.
        subwords: The vectors of n-grams, for words that are not in the list; fastText's files only.
        counts: (N,) int64, how often each word was in the training text; fastText's files only.
    """

    words: list[str]
    vectors: np.ndarray
    subwords: Subwords | None
    counts: np.ndarray | None


def read_vectors(
    path: str | os.PathLike,
    vocabulary: Collection[str] | None = None,
    format: str | None = None,
    member: str | None = None,
    progress: bool = True,
) -> VectorData:
    """Reads a file of word vectors, whole or some words of it; memory is that of what is kept.

    Args:
        path: The file; it may be a gzip or a zip, whatever its name.
        vocabulary: Keep these words only. Text and word2vec's binary are read until all were found, and only
            what is kept is checked in full; from fastText's models words are composed that they only have
            n-grams for, and put last, sorted. None: every word.
        format: "glove" (text), "word2vec" (text with a first line "N D"; also fastText's .vec),
            "word2vec-binary", "fasttext" (.bin); None: what the first bytes say.
        member: Which file of a zip; None: it holds one.
        progress: Show a bar for files over 32 MB.
    Returns:
        VectorData; words in the order of the file, of one that is repeated the first. Invalid UTF-8 is
        replaced by U+FFFD.
    Raises:
        FileNotFoundError: There is no such file.
        TypeError: vocabulary is no collection of strings.
        ValueError: format or member is none of the possible ones; or the file is damaged, cut off, or not of
            this format: the message says where, and what was expected there.
    Source: Mikolov et al. 2013 (word2vec), Pennington et al. 2014 (GloVe), Bojanowski et al. 2017 (fastText):
    the formats of the authors' programs.
    """
    if format is not None:
        _check_format(format)
    wanted = _wanted(vocabulary)
    with opened(path, member, progress) as source:
        start = source.peek(len(MAGIC))
        if not start:
            raise ValueError(f"{source.name} is empty; expected a file of word vectors.")
        if format == "fasttext" or (format is None and start == MAGIC):
            *data, repeated = read_fasttext(source, wanted)
        else:
            format, kept = format or detect(source), Words(wanted)
            read = read_binary if format == "word2vec-binary" else read_text
            vectors = read(source, kept, None if format == "glove" else read_header(source))
            data, repeated = (list(kept.index), vectors, None, None), kept.repeated
        if repeated:
            warnings.warn(f"{source.name} repeats {repeated} words: the first of each stays.", stacklevel=2)
    return VectorData(*data)


def write_vectors(
    path: str | os.PathLike,
    words: Sequence[str],
    vectors: np.ndarray,
    format: str | None = None,
    subwords: Subwords | None = None,
    counts: Sequence[int] | None = None,
) -> None:
    """Writes a file of word vectors, whole or not at all.

    Args:
        path: The file; folders above it are made, and a name that ends in .gz is compressed.
        words: N different words.
        vectors: (N, D) finite numbers, written as float32. What is read back is equal, bit by bit; from
            "fasttext" with n-grams it is equal within rounding.
        format: As in `read_vectors`; None: .txt is "glove", .vec "word2vec", .bin "fasttext" if there are
            subwords, or else "word2vec-binary".
        subwords: Vectors of n-grams, of width D; only "fasttext" keeps them. The vector of a word that a
            model with them holds is made its mean again by the row of its own.
        counts: (N,) ints, how often each word was met; only "fasttext" keeps them.
    Raises:
        TypeError: A word is no string.
        ValueError: Sizes do not agree, a number is not finite, or the format cannot hold a word.
    """
    path = Path(path)
    if format is None:
        format = _format_of(path, subwords)
    _check_format(format)
    words = _checked_words(words, format)
    if not words:
        raise ValueError("words must hold at least one word; received none.")
    vectors = _checked_matrix("vectors", vectors, len(words), None)
    if format == "glove" and vectors.shape[1] == 1:
        raise ValueError(
            "vectors must have at least 2 columns in format 'glove', where a word and one number look like "
            f"the first line of 'word2vec'; received shape {vectors.shape}."
        )
    if format == "fasttext":
        subwords, counts = _checked_subwords(subwords, vectors.shape[1]), _checked_counts(counts, len(words))
        blocks = fasttext_bytes(words, vectors, subwords, counts)
    else:
        blocks = rows_written(words, vectors, format)
    write_whole(path, blocks)


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}; received {format=}.")


def _wanted(vocabulary: Collection[str] | None) -> set[str] | None:
    if vocabulary is None:
        return None
    if isinstance(vocabulary, (str, bytes)):
        raise TypeError(f"vocabulary must be a collection of strings; received {vocabulary!r:.40}.")
    return {checked_text(word, "a word of vocabulary") for word in vocabulary}


def _format_of(path: Path, subwords: Subwords | None) -> str:
    name = path.name.lower().removesuffix(".gz")
    binary = "word2vec-binary" if subwords is None else "fasttext"
    for suffix, format in {".txt": "glove", ".vec": "word2vec", ".bin": binary}.items():
        if name.endswith(suffix):
            return format
    raise ValueError(
        f"path must end in .txt, .vec or .bin (and .gz), or format be given; received {path=!s}."
    )


def _checked_words(words: Sequence[str], format: str) -> list[str]:
    if isinstance(words, (str, bytes)):
        raise TypeError(f"words must be a collection of strings; received {words!r:.40}.")
    words, places = list(words), {}
    banned = re.compile("[\0]" if format == "fasttext" else "[ \n]")
    for i, word in enumerate(words):
        if not checked_text(word, f"words[{i}]") or (found := banned.search(word)):
            problem = f"hold no {found[0]!r} in format {format!r}" if word else "not be empty"
            raise ValueError(f"words must {problem}; received words[{i}]={word!r:.60}.")
        if (first := places.setdefault(word, i)) != i:
            raise ValueError(f"words must all differ; received {word!r} as words[{first}] and words[{i}].")
    return words


def _checked_matrix(name: str, matrix: np.ndarray, rows: int | None, columns: int | None) -> np.ndarray:
    """An array as float32; rows or columns None: any number of them but 0."""
    array = np.asarray(matrix)
    fits = array.ndim == 2 and 0 not in array.shape and array.dtype.kind in "fiu"
    if not fits or array.shape != (rows or len(array), columns or array.shape[1]):
        expected = f"({rows or 'buckets'}, {columns or 'D'})"
        raise ValueError(
            f"{name} must be numbers of shape {expected}; received shape {array.shape}, {array.dtype}."
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    for first in range(0, len(array), BLOCK):
        finite = np.isfinite(array[first : first + BLOCK]).all(axis=1)
        if not finite.all():
            row = first + int(finite.argmin())
            raise ValueError(f"{name} must be finite as float32; received {name}[{row}]={array[row]!r:.60}.")
    return array


def _checked_subwords(subwords: Subwords | None, columns: int) -> Subwords | None:
    if subwords is None:
        return None
    check_at_least(1, min_n=subwords.min_n)
    check_at_least(subwords.min_n, max_n=subwords.max_n)
    table = _checked_matrix("subwords.table", subwords.table, None, columns)
    return subwords._replace(table=table)


def _checked_counts(counts: Sequence[int] | None, size: int) -> np.ndarray | None:
    if counts is None:
        return None
    array = np.asarray(counts)
    if array.shape != (size,) or array.dtype.kind not in "iu" or array.min() < 0:
        raise ValueError(
            f"counts must be {size} whole numbers from 0 up; received shape {array.shape}, {array.dtype}."
        )
    return array.astype(np.int64)
