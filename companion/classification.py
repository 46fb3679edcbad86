"""Text classification, whole: the article's section 5, working. Texts and labels in, one artifact out."""

import inspect
import os
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from companion.artifact import load_artifact, save_artifact
from companion.evaluation import accuracy, macro_f1
from companion.labeled import (
    WordDropoutBatches,
    checked_classes,
    checked_labeled,
    checked_texts,
    class_weights,
    stratified_split,
)
from companion.models import lstm_classifier, transformer_classifier
from companion.text import WordTokenizer, load_tokenizer

BUILDERS = {"lstm": lstm_classifier, "transformer": transformer_classifier}
KIND, VERSION = "companion.TextClassifier", 1  # of the saved folder
BATCH = 32  # texts scored at a time, always as many: one compiled shape


class TextClassifier:
    """Tokenizer, model, length, labels and threshold of a text classifier: trained, saved and loaded as one.

    Args:
        architecture: "transformer", or "lstm" as in the article.
        vocabulary_size: Most words kept beside the four special ids, >= 1; the others are read as unknown.
        min_count: Words rarer than this in the training texts are read as unknown too.
        max_length: Words read of each text, >= 1; what follows is ignored.
        language: "en" or "zh" (character by character), as `WordTokenizer`.
        threshold: Of two classes, `classes[1]` is the answer from this probability on, in (0, 1). Of more
            classes the most probable one is the answer, whatever the threshold.
        seed: Of the split, the weights, the order and the dropout: `fit` sets the global seeds.
        **sizes: Passed on to `transformer_classifier` or `lstm_classifier`: model_dim, dropout ...
    Attributes:
        classes: The labels, sorted: the columns of `predict_proba`.
        history: "loss", "accuracy", "val_loss", "val_accuracy": lists, a number per epoch of the last `fit`.
    Raises:
        ValueError: An argument is out of range, or not one of the architecture's.
    Source: the article, section 5. Differs: errata E22 to E27.
    """

    def __init__(
        self,
        architecture: str = "transformer",
        vocabulary_size: int = 8000,
        min_count: int = 2,
        max_length: int = 40,
        language: str = "en",
        threshold: float = 0.5,
        seed: int = 0,
        **sizes,
    ):
        _check_architecture(architecture, sizes)
        _check_at_least_one(vocabulary_size=vocabulary_size, min_count=min_count, max_length=max_length)
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1; received threshold={threshold}.")
        self.architecture, self.sizes = architecture, sizes
        self.vocabulary_size, self.min_count, self.max_length = vocabulary_size, min_count, max_length
        self.language, self.threshold, self.seed = language, threshold, seed
        self.classes, self.history, self.tokenizer, self.model = [], {}, None, None

    def fit(
        self,
        texts: Iterable[str],
        labels: Iterable[str | int],
        validation_data: tuple | None = None,
        validation_fraction: float = 0.1,
        balance: bool = True,
        word_dropout: float = 0.1,
        label_smoothing: float = 0.1,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        epochs: int = 20,
        patience: int = 3,
        tune_threshold: bool = False,
        progress: bool = True,
    ) -> "TextClassifier":
        """Trains until the loss on the validation texts stops falling, and keeps the best weights.

        Args:
            texts: N strings, each with something in it.
            labels: N strings or N integers, two different ones or more.
            validation_data: (texts, labels) to stop by. None takes a share of `texts`, class by class; give
                your own where texts come in groups (files, authors), or what one file says is on both sides.
            validation_fraction: That share, in (0, 1).
            balance: Count every class alike in the loss, however many texts it has.
            word_dropout: Share of the words read as unknown in training, in [0, 1).
            label_smoothing: Share of each target spread over all classes, in [0, 1).
            learning_rate: Of Adam.
            batch_size, epochs: Texts per step; most passes over them; each >= 1.
            patience: Passes without a smaller validation loss before stopping.
            tune_threshold: Of two classes, set `threshold` where macro-F1 on the validation texts is best.
            progress: Print a line per epoch.
        Returns:
            The classifier itself.
        Raises:
            TypeError: A text is no string; a label is neither string nor integer.
            ValueError: Only one class, an empty text, lengths that differ, an argument out of range.
        """
        _check_shares(validation_fraction, word_dropout, label_smoothing)
        _check_at_least_one(batch_size=batch_size, epochs=epochs)
        train = checked_labeled(texts, labels)
        classes = checked_classes(train[1])
        if tune_threshold and len(classes) != 2:
            raise ValueError(f"tune_threshold needs two classes; received {len(classes)}.")
        if validation_data is None:
            train, held_out = stratified_split(*train, validation_fraction, self.seed)
        else:
            held_out = checked_labeled(*validation_data)
        keras.utils.set_random_seed(self.seed)
        self._build(train[0], classes, learning_rate, label_smoothing)
        tokens, targets = self._arrays(*train)
        weights = class_weights(targets) if balance else np.ones(len(targets), np.float32)
        unknown_id = self.tokenizer.unknown_id
        batches = WordDropoutBatches(
            tokens, targets, weights, word_dropout, unknown_id, batch_size, self.seed
        )
        stopping = keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)
        callbacks = [stopping, _Progress()] if progress else [stopping]
        validation = self._arrays(*held_out)
        self.model.fit(batches, validation_data=validation, epochs=epochs, verbose=0, callbacks=callbacks)
        self.history = self.model.history.history
        if tune_threshold:
            self._tune_threshold(*held_out)
        return self

    def predict_proba(self, texts: Iterable[str]) -> np.ndarray:
        """The probability of each class. A text gets the same ones alone and in any batch.

        Args:
            texts: N strings, each with something in it; words never seen are read as unknown, not dropped.
        Returns:
            (N, C) float32; rows sum to 1; columns in the order of `classes`.
        Raises:
            RuntimeError: Neither `fit` nor `load` came before.
            TypeError, ValueError: As `fit`.
        """
        self._check_trained()
        texts = checked_texts(texts)
        if not texts:
            return np.zeros((0, len(self.classes)), np.float32)
        tokens = np.pad(self._tokens(texts), ((0, -len(texts) % BATCH), (0, 0)), mode="edge")
        batches = np.split(tokens, len(tokens) // BATCH)
        return np.concatenate([self.model.predict_on_batch(batch) for batch in batches])[: len(texts)]

    def predict(self, texts: Iterable[str], abstain_below: float = 0.0) -> list:
        """The label of each text.

        Args:
            texts: N strings.
            abstain_below: Answer None where no class is at least so probable, in [0, 1].
        Returns:
            List of N: labels, or None.
        Raises:
            As `predict_proba`.
        """
        probabilities = self.predict_proba(texts)
        answers = [self.classes[i] for i in self._choices(probabilities, self.threshold)]
        sure = probabilities.max(axis=1) >= abstain_below
        return [answer if is_sure else None for answer, is_sure in zip(answers, sure, strict=True)]

    def evaluate(self, texts: Iterable[str], labels: Iterable[str | int]) -> dict[str, float]:
        """Compares predictions with labels.

        Args:
            texts, labels: As `fit`.
        Returns:
            {"accuracy", "macro_f1", "majority" (accuracy of always giving the most frequent of these labels),
            "loss" (mean cross-entropy, nats)}.
        Raises:
            ValueError: A label that `fit` never saw; otherwise as `fit`.
        """
        self._check_trained()
        texts, labels = checked_labeled(texts, labels)
        targets, probabilities = self._targets(labels), self.predict_proba(texts)
        answers = self._choices(probabilities, self.threshold)
        right = probabilities[np.arange(len(targets)), targets]
        return {
            "accuracy": accuracy(targets, answers),
            "macro_f1": macro_f1(targets, answers),
            "majority": float(np.bincount(targets).max() / len(targets)),
            "loss": float(-np.log(np.maximum(right, 1e-9)).mean()),
        }

    def save(self, folder: str | os.PathLike) -> None:
        """Writes everything that prediction needs into one folder, whole or not at all.

        Args:
            folder: New, or a saved TextClassifier, which is replaced.
        Raises:
            FileExistsError: The folder holds something else.
            RuntimeError: Nothing is trained yet.
        """
        self._check_trained()
        names = [name for name in inspect.signature(type(self)).parameters if name != "sizes"]
        config = {
            "arguments": {name: getattr(self, name) for name in names} | self.sizes,
            "classes": self.classes,
            "history": {name: [float(x) for x in values] for name, values in self.history.items()},
        }
        save_artifact(folder, KIND, VERSION, config, self._write)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "TextClassifier":
        """Reads what `save` wrote; the predictions are the same.

        Args:
            folder: The folder given to `save`.
        Raises:
            FileNotFoundError: No saved classifier is there.
            ValueError: The folder is damaged, holds something else, or was saved by a newer companion.
        """
        config = load_artifact(folder, KIND, VERSION)
        classifier = cls(**config["arguments"])
        classifier.classes, classifier.history = config["classes"], config["history"]
        classifier.tokenizer = load_tokenizer(Path(folder, "tokenizer.json"))
        classifier.model = keras.saving.load_model(Path(folder, "model.keras"), compile=False)
        return classifier

    def _write(self, folder):
        self.tokenizer.save(folder / "tokenizer.json")
        self.model.save(folder / "model.keras", include_optimizer=False)

    def _build(self, texts, classes, learning_rate, label_smoothing):
        self.classes = classes
        self.tokenizer = WordTokenizer.train(
            texts, self.language, max_words=self.vocabulary_size, min_count=self.min_count
        )
        length = {"max_length": self.max_length} if self.architecture == "transformer" else {}
        build = BUILDERS[self.architecture]
        self.model = build(self.tokenizer.vocabulary_size, len(classes), **length, **self.sizes)
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
        optimizer = keras.optimizers.Adam(learning_rate)
        self.model.compile(optimizer, loss, metrics=["accuracy"], weighted_metrics=[])

    def _tokens(self, texts):
        return self.tokenizer.encode_batch(texts, length=self.max_length)  # (N, L), L never varies

    def _arrays(self, texts, labels):
        return self._tokens(texts), np.eye(len(self.classes), dtype=np.float32)[self._targets(labels)]

    def _targets(self, labels):
        index = {label: i for i, label in enumerate(self.classes)}
        for i, label in enumerate(labels):
            if label not in index:
                raise ValueError(f"labels must be among {self.classes}; received labels[{i}]={label!r}.")
        return np.array([index[label] for label in labels])

    def _choices(self, probabilities, threshold):
        if len(self.classes) == 2:
            return (probabilities[:, 1] >= threshold).astype(int)
        return probabilities.argmax(axis=1)

    def _tune_threshold(self, texts, labels):
        probabilities, targets = self.predict_proba(texts), self._targets(labels)
        candidates = sorted(np.arange(5, 96) / 100, key=lambda x: abs(x - 0.5))  # first of equals
        scores = [macro_f1(targets, self._choices(probabilities, x)) for x in candidates]
        self.threshold = float(candidates[np.argmax(scores)])

    def _check_trained(self):
        if self.model is None:
            raise RuntimeError("TextClassifier must be trained; call fit, or TextClassifier.load.")


class _Progress(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        line = "epoch {:2}: loss {loss:.3f}, accuracy {accuracy:.3f}, validation accuracy {val_accuracy:.3f}"
        print(line.format(epoch + 1, **logs), flush=True)


def _check_architecture(architecture, sizes):
    if architecture not in BUILDERS:
        raise ValueError(f"architecture must be one of {sorted(BUILDERS)}; received {architecture!r}.")
    parameters = set(inspect.signature(BUILDERS[architecture]).parameters)
    known = sorted(parameters - {"vocabulary_size", "num_classes", "max_length"})
    if unknown := sorted(set(sizes) - set(known)):
        raise ValueError(f"architecture {architecture!r} takes {known}; received {unknown}.")


def _check_at_least_one(**numbers):
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1; received {name}={number}.")


def _check_shares(validation_fraction, word_dropout, label_smoothing):
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1; received {validation_fraction}.")
    for name, share in {"word_dropout": word_dropout, "label_smoothing": label_smoothing}.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must lie in [0, 1); received {name}={share}.")
