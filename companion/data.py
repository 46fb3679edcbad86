"""All data of the book in one place: corpora, splits, downloads, and batches of (inputs, labels, weights)."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from companion.cache import cache_folder
from companion.download import DATASETS, DownloadError, download, extract
from companion.library import (
    Docstring,
    colors,
    default_values,
    docstrings,
    eliza,
    import_baskets,
    see_also,
    topics,
)
from companion.parallel import KINDS, Pair, interface_strings, language_names, translation_pairs
from companion.sources import PACKAGES
from companion.splits import Splits, near_duplicates, normalize, random_split, split, split_of

__all__ = [
    "DATASETS",
    "KINDS",
    "LIBRARIES",
    "PACKAGES",
    "Docstring",
    "DownloadError",
    "Example",
    "Pair",
    "Splits",
    "cache_folder",
    "colors",
    "default_values",
    "docstrings",
    "download",
    "eliza",
    "extract",
    "import_baskets",
    "interface_strings",
    "language_names",
    "library_classification",
    "near_duplicates",
    "normalize",
    "random_split",
    "see_also",
    "sequence_batches",
    "split",
    "split_of",
    "text_batches",
    "topics",
    "translation_pairs",
]

if TYPE_CHECKING:
    import tensorflow as tf  # imported where used: the corpora need no TensorFlow

LIBRARIES = ("stdlib", "numpy", "keras", "tensorflow", "matplotlib", "pandas", "nltk", "spacy")


class Example(NamedTuple):
    """A text to classify, its label, and the file it comes from, by which to split."""

    text: str
    label: str
    file: str


def library_classification(
    libraries: Sequence[str] = LIBRARIES, most: int | None = 1000, seed: int = 0
) -> list[Example]:
    """Which library does this sentence document? Summaries of docstrings, labeled by package.

    Authors of one file write alike, so `split(examples, key="file")`: `random_split` flatters.

    Args:
        libraries: Labels; two of them make a two-class problem.
        most: Largest number of examples of one label, drawn at random; None: all.
        seed: Another seed draws others.
    Returns:
        Examples, shuffled. No text nearly repeats another one.
    Raises:
        ValueError: fewer than two libraries, one without a docstring, or most is not positive.
    """
    if len(set(libraries)) < 2:
        raise ValueError(f"libraries must name two or more packages; received libraries={tuple(libraries)}.")
    if most is not None and most < 1:
        raise ValueError(f"most must be at least 1; received most={most}.")
    found = {package: [] for package in libraries}
    # those of PACKAGES come out of what is kept for all of them: any other choice is read anew
    packages = PACKAGES if found.keys() <= set(PACKAGES) else tuple(found)
    for doc in docstrings(packages):
        if doc.package in found:
            found[doc.package].append(Example(doc.summary, doc.package, doc.file))
    if empty := [package for package, some in found.items() if not some]:
        raise ValueError(f"libraries must be installed and documented; received {', '.join(empty)}.")
    random = Random(seed)
    examples = [
        one for some in found.values() for one in random.sample(some, min(len(some), most or len(some)))
    ]
    random.shuffle(examples)
    return examples


def sequence_batches(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    batch_size: int = 64,
    boundaries: Sequence[int] = (16, 32, 64),
    shuffle: bool = True,
    seed: int = 0,
    drop_remainder: bool = False,
) -> "tf.data.Dataset":
    """Batches for a sequence-to-sequence model, sequences of like length together.

    A pair goes to the smallest boundary that holds its source and its shifted target; both are padded with 0:
    there are as many lengths as boundaries. Every pair comes once in every pass.

    Args:
        sources: N lists of token ids.
        targets: N lists of token ids with begin and end: `tokenizer.encode(text, begin=True, end=True)`.
        batch_size: Pairs in a batch, B; the last batch of each length may be smaller.
        boundaries: The lengths L to pad to, increasing.
        shuffle: Another order in each pass.
        seed: Equal seeds give equal orders, as long as Keras's global seed is equal too.
        drop_remainder: Leave the smaller last batches out: fewer shapes to compile. For training only.
    Returns:
        tf.data.Dataset of (inputs, labels, weights). inputs: a dictionary of source_tokens and target_tokens,
        (B, L) int32 both, targets without their end. labels: (B, L) int32, targets without their begin.
        weights: (B, L) float32, 1 on labels and 0 on padding.
    Raises:
        ValueError: sources and targets differ in number, a target has no two tokens, a boundary is not larger
            than the one before, or a sequence is longer than the last one.
    """
    import tensorflow as tf

    if len(sources) != len(targets):
        raise ValueError(f"targets must be as many as sources; received {len(targets)} and {len(sources)}.")
    if len(targets) and min(map(len, targets)) < 2:
        raise ValueError(
            "targets must begin with the begin id and end with the end id; received one of "
            f"{min(map(len, targets))} tokens."
        )
    lengths = [max(len(source), len(target) - 1) for source, target in zip(sources, targets, strict=True)]
    _check_lengths(lengths, boundaries)

    def shifted(row):
        target = row["target"]
        weights = tf.ones_like(target[1:], tf.float32)
        return {"source_tokens": row["source"], "target_tokens": target[:-1]}, target[1:], weights

    def length(inputs, labels, weights):
        return tf.maximum(tf.size(inputs["source_tokens"]), tf.size(labels))

    rows = tf.data.Dataset.from_tensor_slices({"source": _ragged(sources), "target": _ragged(targets)})
    rows = rows.map(shifted)
    return _bucketed(rows, length, lengths, batch_size, boundaries, shuffle, seed, drop_remainder)


def text_batches(
    tokens: Sequence[Sequence[int]],
    labels: Sequence[int],
    batch_size: int = 64,
    boundaries: Sequence[int] = (16, 32, 64),
    shuffle: bool = True,
    seed: int = 0,
    drop_remainder: bool = False,
) -> "tf.data.Dataset":
    """Batches for a classifier, texts of like length together, as `sequence_batches` makes them.

    Args:
        tokens: N lists of token ids.
        labels: N class numbers.
        batch_size: Texts in a batch, B; the last batch of each length may be smaller.
        boundaries: The lengths L to pad to, increasing.
        shuffle: Another order in each pass.
        seed: Equal seeds give equal orders, as long as Keras's global seed is equal too.
        drop_remainder: Leave the smaller last batches out. For training only.
    Returns:
        tf.data.Dataset of (tokens, labels): (B, L) int32, padded with 0, and (B,) int32.
    Raises:
        ValueError: tokens and labels differ in number, a boundary is not larger than the one before, or a
            text is longer than the last one.
    """
    import tensorflow as tf

    if len(tokens) != len(labels):
        raise ValueError(f"labels must be as many as tokens; received {len(labels)} and {len(tokens)}.")
    lengths = [len(text) for text in tokens]
    _check_lengths(lengths, boundaries)

    def pair(row):  # a row's text is a plain tensor from here on
        return row["text"], row["label"]

    def length(text, label):
        return tf.size(text)

    rows = {"text": _ragged(tokens), "label": np.asarray(labels, np.int32)}
    rows = tf.data.Dataset.from_tensor_slices(rows).map(pair)
    return _bucketed(rows, length, lengths, batch_size, boundaries, shuffle, seed, drop_remainder)


def _bucketed(rows, length: Callable, lengths, batch_size, boundaries, shuffle, seed, drop_remainder):
    import tensorflow as tf

    if shuffle:
        rows = rows.shuffle(max(len(rows), 1), seed=seed, reshuffle_each_iteration=True)
    rows = rows.bucket_by_sequence_length(
        length,
        bucket_boundaries=[boundary + 1 for boundary in boundaries],  # the first length too long for each
        bucket_batch_sizes=[batch_size] * (len(boundaries) + 1),
        pad_to_bucket_boundary=True,
        drop_remainder=drop_remainder,
    )
    counts = np.bincount(np.searchsorted(boundaries, lengths))
    batches = counts // batch_size if drop_remainder else -(-counts // batch_size)
    # Keras needs the number: else it looks for one more batch, and takes one more step of the optimizer
    return rows.apply(tf.data.experimental.assert_cardinality(int(batches.sum()))).prefetch(2)


def _ragged(sequences: Sequence[Sequence[int]]):
    import tensorflow as tf

    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    flat = np.array([token for sequence in sequences for token in sequence], np.int32)
    return tf.RaggedTensor.from_row_lengths(flat, lengths)


def _check_lengths(lengths: list[int], boundaries: Sequence[int]) -> None:
    if not boundaries or boundaries[0] < 1 or any(a >= b for a, b in pairwise(boundaries)):
        raise ValueError(
            f"boundaries must be positive and increase; received boundaries={tuple(boundaries)}."
        )
    if lengths and max(lengths) > boundaries[-1]:
        raise ValueError(
            f"boundaries must reach the longest sequence, {max(lengths)} tokens (number "
            f"{int(np.argmax(lengths))}); received boundaries={tuple(boundaries)}."
        )
