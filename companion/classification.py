"""Text classification, whole: the article's section 5, working. Texts and labels in, one artifact out."""

import copy
import inspect
import os
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from companion.artifact import reading_artifact, save_artifact
from companion.base import check_at_least, check_heads, check_shares, takes_plain_numbers
from companion.classifiers import lstm_classifier, transformer_classifier
from companion.evaluation import accuracy, macro_f1
from companion.labeled import (
    Progress,
    WordDropoutBatches,
    checked_labeled,
    checked_sides,
    checked_texts,
    class_numbers,
    class_weights,
)
from companion.rounds import Rounds, fingerprint
from companion.text import WordTokenizer, load_tokenizer

BUILDERS = {"lstm": lstm_classifier, "transformer": transformer_classifier}
KIND, VERSION = "companion.TextClassifier", 1  # of the saved folder
STATE = "threshold", "classes", "history"  # what `fit` finds, besides tokenizer and model
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
            classes the most probable one is the answer, whatever the threshold. `fit` begins with it again.
        seed: Of the split, the weights, the order and the dropout: `fit` sets the global seeds.
        **sizes: Passed on to `transformer_classifier` or `lstm_classifier`: model_dim, dropout ...
    Attributes:
        classes: The labels, sorted: the columns of `predict_proba`.
        history: "loss", "accuracy", "val_loss", "val_accuracy": lists, a number per epoch of the last `fit`.
    Raises:
        ValueError: An argument is out of range, or not one of the architecture's.
    Source: the article, section 5. Differs: errata E22 to E27.
    """

    @takes_plain_numbers
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
        check_at_least(1, vocabulary_size=vocabulary_size, min_count=min_count, max_length=max_length)
        WordTokenizer((), language)  # a wrong language shows here
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1; received threshold={threshold}.")
        self.architecture, self.language, self.seed, self.sizes = architecture, language, seed, sizes
        self.vocabulary_size, self.min_count, self.max_length = vocabulary_size, min_count, max_length
        self.initial_threshold = self.threshold = threshold
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
        checkpoint: str | os.PathLike | None = None,
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
            learning_rate, batch_size, epochs: Of Adam; texts per step, >= 1; most passes over them, >= 1.
            patience: Passes without a smaller validation loss before stopping, >= 0.
            tune_threshold: Of two classes, set `threshold` where macro-F1 on the validation texts is best.
            progress: Print a line per epoch.
            checkpoint: Folder for the state after each epoch, from which the same call goes on, as `Rounds`.
        Returns:
            The classifier itself. If anything fails it stays as it was.
        Raises:
            TypeError: A text is no string; a label is neither string nor integer; validation_data is no pair.
            ValueError: One class, an empty text, other lengths, a label that only validation_data has, an
                argument out of range, a checkpoint of another training.
        """
        check_shares(word_dropout=word_dropout, label_smoothing=label_smoothing)
        check_at_least(1, batch_size=batch_size, epochs=epochs)
        check_at_least(0, patience=patience)
        sides = checked_sides(texts, labels, validation_data, validation_fraction, self.seed)
        train, held_out, classes = sides
        settings = balance, word_dropout, label_smoothing, learning_rate, batch_size, patience
        key = fingerprint(sides, self._arguments(), settings)
        if tune_threshold and not len(classes) == len(set(held_out[1])) == 2:
            counts = f"{len(classes)}, {len(set(held_out[1]))} of them in the validation texts"
            raise ValueError(f"tune_threshold needs two classes and texts of both; received {counts}.")
        keras.utils.set_random_seed(self.seed)
        fitted = copy.copy(self)  # if training fails, nothing of self has changed
        fitted.classes, fitted.threshold = classes, self.initial_threshold
        fitted._build(train[0], learning_rate, label_smoothing)
        batches = fitted._batches(*train, balance, word_dropout, batch_size)
        rounds = Rounds(batches, patience, checkpoint, key)
        how = {"initial_epoch": rounds.resume(fitted.model), "epochs": epochs, "verbose": 0}
        how["callbacks"] = [rounds, Progress()] if progress else [rounds]
        fitted.model.fit(batches, validation_data=fitted._arrays(*held_out), **how)
        fitted.history = rounds.history
        if tune_threshold:
            fitted._tune_threshold(*held_out)
        vars(self).update(vars(fitted))
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
            abstain_below: Answer None where the label is less probable than this, in [0, 1].
        Returns:
            List of N: labels, or None.
        Raises:
            As `predict_proba`; ValueError: abstain_below is out of range.
        """
        return self.decide(self.predict_proba(texts), abstain_below)

    def decide(self, probabilities: np.ndarray, abstain_below: float = 0.0) -> list:
        """The N labels, or None, that `predict` answers where `predict_proba` gives these probabilities.

        Args:
            probabilities: (N, C) floats.
            abstain_below: As `predict`.
        """
        if not 0 <= abstain_below <= 1:
            raise ValueError(f"abstain_below must lie in [0, 1]; received abstain_below={abstain_below}.")
        choices = self._choices(probabilities, self.threshold)
        sure = probabilities[np.arange(len(choices)), choices] >= abstain_below
        return [self.classes[i] if is_sure else None for i, is_sure in zip(choices, sure, strict=True)]

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
        targets, probabilities = class_numbers(labels, self.classes), self.predict_proba(texts)
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
            folder: New, empty, or a saved TextClassifier, which is replaced.
        Raises:
            FileExistsError: The folder holds something else.
            RuntimeError: Nothing is trained yet.
        """
        self._check_trained()
        config = {name: getattr(self, name) for name in STATE} | {"arguments": self._arguments()}
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
        with reading_artifact(folder, KIND, VERSION) as config:
            tokenizer = load_tokenizer(Path(folder, "tokenizer.json"))
            model = keras.saving.load_model(Path(folder, "model.keras"), compile=False)
        classifier = cls(**config["arguments"])
        vars(classifier).update({name: config[name] for name in STATE}, tokenizer=tokenizer, model=model)
        return classifier

    def _arguments(self):
        names = [name for name in inspect.signature(type(self)).parameters if name != "sizes"]
        arguments = {name: getattr(self, name) for name in names}
        return arguments | self.sizes | {"threshold": self.initial_threshold}

    def _write(self, folder):
        self.tokenizer.save(folder / "tokenizer.json")
        self.model.save(folder / "model.keras", include_optimizer=False)

    def _build(self, texts, learning_rate, label_smoothing):
        self.tokenizer = WordTokenizer.train(
            texts, self.language, max_words=self.vocabulary_size, min_count=self.min_count
        )
        length = {"max_length": self.max_length} if self.architecture == "transformer" else {}
        build = BUILDERS[self.architecture]
        self.model = build(self.tokenizer.vocabulary_size, len(self.classes), **length, **self.sizes)
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
        optimizer = keras.optimizers.Adam(learning_rate)
        self.model.compile(optimizer, loss, metrics=["accuracy"], weighted_metrics=[])

    def _tokens(self, texts):
        return self.tokenizer.encode_batch(texts, length=self.max_length)  # (N, L), L never varies

    def _arrays(self, texts, labels):
        numbers = class_numbers(labels, self.classes)
        return self._tokens(texts), np.eye(len(self.classes), dtype=np.float32)[numbers]

    def _batches(self, texts, labels, balance, word_dropout, batch_size):
        tokens, targets = self._arrays(texts, labels)
        weights = class_weights(targets) if balance else np.ones(len(targets), np.float32)
        unknown_id = self.tokenizer.unknown_id
        return WordDropoutBatches(tokens, targets, weights, word_dropout, unknown_id, batch_size, self.seed)

    def _choices(self, probabilities, threshold):
        if len(self.classes) == 2:
            return (probabilities[:, 1] >= threshold).astype(int)
        return probabilities.argmax(axis=1)

    def _tune_threshold(self, texts, labels):
        probabilities, targets = self.predict_proba(texts), class_numbers(labels, self.classes)
        candidates = sorted(np.arange(5, 96) / 100, key=lambda x: abs(x - 0.5))  # first of equals
        scores = [macro_f1(targets, self._choices(probabilities, x)) for x in candidates]
        self.threshold = float(candidates[np.argmax(scores)])

    def _check_trained(self):
        if self.model is None:
            raise RuntimeError("TextClassifier must be trained; call fit, or TextClassifier.load.")


def _check_architecture(architecture, sizes):
    if architecture not in BUILDERS:
        raise ValueError(f"architecture must be one of {sorted(BUILDERS)}; received {architecture!r}.")
    parameters = inspect.signature(BUILDERS[architecture]).parameters
    known = sorted(set(parameters) - {"vocabulary_size", "num_classes", "max_length"})
    if unknown := sorted(set(sizes) - set(known)):
        raise ValueError(f"architecture {architecture!r} takes {known}; received {unknown}.")
    values = {name: sizes.get(name, parameters[name].default) for name in known}
    check_shares(dropout=values["dropout"])
    if values["num_layers"]:
        check_heads(values["model_dim"], values.get("num_heads", 1))
