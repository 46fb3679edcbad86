"""Texts with labels: checked, split class by class, put into batches; training, line by line."""

import math
from collections.abc import Iterable

import keras
import numpy as np

from companion.base import plain


class WordDropoutBatches(keras.utils.PyDataset):
    """Batches of tokens, targets and weights, in a new order each epoch, some of the words read as unknown.

    Args:
        tokens: (N, L) int, padding id 0.
        targets: (N, ...) array.
        weights: (N,) float.
        word_dropout: Share of the real tokens replaced, in [0, 1).
        unknown_id: What replaces them.
        batch_size: Rows per batch; the last one may have fewer.
        seed: Of the order and of the choice of words.
    Returns:
        By index: (tokens, targets, weights) of a batch.
    Source: Iyyer et al. 2015, section 3 (word dropout). Differs: the word becomes unknown, it does not
    vanish; so the model learns what an unknown word tells.
    """

    def __init__(self, tokens, targets, weights, word_dropout, unknown_id, batch_size, seed):
        super().__init__()
        self.columns = tokens, targets, weights
        self.word_dropout, self.unknown_id, self.batch_size = word_dropout, unknown_id, batch_size
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        tokens, targets, weights = (column[rows] for column in self.columns)
        dropped = (self.random.random(tokens.shape) < self.word_dropout) & (tokens != 0)
        return np.where(dropped, self.unknown_id, tokens), targets, weights

    def on_epoch_end(self):
        self.order = self.random.permutation(len(self.columns[0]))


class Progress(keras.callbacks.Callback):
    """Prints a line per epoch."""

    def on_epoch_end(self, epoch, logs=None):
        line = "epoch {:2}: loss {loss:.3f}, accuracy {accuracy:.3f}, validation accuracy {val_accuracy:.3f}"
        print(line.format(epoch + 1, **logs), flush=True)


def stratified_split(texts: list, labels: list, fraction: float, seed: int = 0) -> tuple[tuple, tuple]:
    """Takes a share of every class apart, at least one text and never all of them.

    Args:
        texts: N texts.
        labels: N labels.
        fraction: Share of the second side, in (0, 1).
        seed: Another seed gives another split.
    Returns:
        ((texts, labels) to train with, (texts, labels) to validate with), in the given order.
    Raises:
        ValueError: A class of one text.
    """
    random, held_out = np.random.default_rng(seed), set()
    for label in sorted(set(labels)):
        rows = random.permutation([i for i, other in enumerate(labels) if other == label])
        if len(rows) < 2:
            raise ValueError(
                f"labels must hold each class twice or more, to train and to validate; {label!r} comes once: "
                "add texts, or give validation_data."
            )
        held_out.update(rows[: min(len(rows) - 1, max(1, round(fraction * len(rows))))].tolist())
    sides = [[i for i in range(len(labels)) if (i in held_out) == side] for side in (False, True)]
    return tuple(([texts[i] for i in rows], [labels[i] for i in rows]) for rows in sides)


def checked_sides(
    texts: Iterable, labels: Iterable, validation_data: tuple | None, validation_fraction: float, seed: int
) -> tuple[tuple, tuple, list]:
    """What to train with, what to validate with, and the classes, all checked.

    Args:
        texts, labels: N texts, N labels.
        validation_data: (texts, labels); None: a share of the N texts.
        validation_fraction: That share, in (0, 1).
        seed: Of the split.
    Returns:
        (texts, labels), (texts, labels), and the sorted labels of the first.
    Raises:
        TypeError, ValueError: As `checked_labeled`, `checked_classes`, `stratified_split`, `class_numbers`;
            validation_data is no pair, or validation_fraction out of range.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1; received {validation_fraction}.")
    train = checked_labeled(texts, labels)
    classes = checked_classes(train[1])
    if validation_data is None:
        return *stratified_split(*train, validation_fraction, seed), classes
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        kind = type(validation_data).__name__
        raise TypeError(f"validation_data must be a pair (texts, labels); received {kind}.")
    held_out = checked_labeled(*validation_data)
    class_numbers(held_out[1], classes)
    return train, held_out, classes


def class_numbers(labels: list, classes: list) -> np.ndarray:
    """The place of each label among the classes.

    Args:
        labels: N labels.
        classes: C different labels.
    Returns:
        (N,) int.
    Raises:
        ValueError: A label is not among the classes.
    """
    index = {label: i for i, label in enumerate(classes)}
    for i, label in enumerate(labels):
        if label not in index:
            raise ValueError(f"labels must be among {classes}; received labels[{i}]={label!r}.")
    return np.array([index[label] for label in labels])


def class_weights(targets: np.ndarray) -> np.ndarray:
    """A weight for each text, with which every class counts the same; 1 on average.

    Args:
        targets: (N, C) one-hot, each class at least once.
    Returns:
        (N,) float32.
    """
    return (len(targets) / targets.shape[1] / (targets @ targets.sum(axis=0))).astype(np.float32)


def checked_labeled(texts: Iterable, labels: Iterable) -> tuple[list[str], list]:
    """Texts and labels as lists of plain strings and plain labels.

    Raises:
        TypeError: A text is no string, or the labels are neither all strings nor all integers.
        ValueError: An empty text, no text, or lengths that differ.
    """
    texts = checked_texts(texts)
    if isinstance(labels, (str, bytes)) or not isinstance(labels, Iterable):
        raise TypeError(f"labels must be a list; received {type(labels).__name__}.")
    labels = [plain(label) for label in labels]
    if len(texts) != len(labels):
        raise ValueError(f"texts and labels must be as many; received {len(texts)} and {len(labels)}.")
    if not texts:
        raise ValueError("texts must hold at least one text; received none.")
    for i, label in enumerate(labels):
        if not isinstance(label, (str, int)) or type(label) is not type(labels[0]):
            raise TypeError(f"labels must be all strings or all integers; received labels[{i}]={label!r}.")
    return texts, labels


def checked_texts(texts: Iterable) -> list[str]:
    """Texts as a list of strings, each with something in it.

    Raises:
        TypeError: Not a collection of strings.
        ValueError: An empty text.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a list of strings; received {type(texts).__name__}.")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be strings; received texts[{i}]={text!r}.")
        if not text.strip():
            raise ValueError(f"texts must not be empty; received texts[{i}]={text!r}.")
    return texts


def checked_classes(labels: list) -> list:
    """The different labels, sorted.

    Raises:
        ValueError: There is only one.
    """
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise ValueError(
            f"labels must hold two classes or more; received only {classes[0]!r}. The article does this "
            "(labels = [1] * len(train_texts)): the best model then answers 1 to everything, "
            '"I hate programming" included (erratum E22).'
        )
    return classes
