"""Rounds of training that an interruption does not cost: early stopping, with its state on disk."""

import hashlib
import os
import random
from pathlib import Path

import keras
import numpy as np

from companion.artifact import CONFIG, left_behind, load_artifact, save_artifact
from companion.labeled import WordDropoutBatches

KIND, VERSION, ARRAYS = "companion.Rounds", 1, "arrays.npz"


class Rounds(keras.callbacks.EarlyStopping):
    """Stops when the validation loss no longer falls, keeps the best weights, and can go on where it was.

        rounds = Rounds(batches, patience=3, folder="unfinished", key=fingerprint(texts, labels))
        model.fit(batches, validation_data=..., initial_epoch=rounds.resume(model), callbacks=[rounds])

    Run again after an interruption, these lines end with the same weights as if there had been none: after
    each epoch the folder gets, whole or not at all, the weights, the best ones, the state of the optimizer,
    of dropout, of the order of the texts, and what early stopping remembers.

    Args:
        batches: What is trained on.
        patience: Epochs without a smaller validation loss before stopping, >= 0.
        folder: For the state; None keeps none.
        key: Stands for texts and settings: a state of another key is refused.
    Attributes:
        history: {name: a number per epoch}, those before the interruption included.
    """

    def __init__(
        self,
        batches: WordDropoutBatches,
        patience: int,
        folder: str | os.PathLike | None = None,
        key: str = "",
    ):
        super().__init__("val_loss", patience=patience, restore_best_weights=True)
        self.batches, self.folder, self.key = batches, folder and Path(folder), key
        self.history, self._state, self._arrays = {}, None, {}

    def resume(self, model: keras.Model) -> int:
        """Reads the state in the folder; `fit` then restores it.

        Args:
            model: Built and compiled as it was when the state was written.
        Returns:
            The epoch to begin with, for `fit`: 0 without a state; after early stopping one beyond any end.
        Raises:
            ValueError: The state is damaged, or of other texts or settings.
            FileNotFoundError: A process was killed while it replaced the state; the message says where it is.
        """
        if self.folder is None or not ((self.folder / CONFIG).exists() or left_behind(self.folder)):
            return 0
        state = load_artifact(self.folder, KIND, VERSION)
        if state["key"] != self.key:
            raise ValueError(
                f"{self.folder} holds an unfinished training with other texts, labels or settings: give the "
                "same ones again, or delete that folder."
            )
        model.optimizer.build(model.trainable_variables)
        with np.load(self.folder / ARRAYS) as arrays:
            self._state, self._arrays = state, dict(arrays)
        self.history = state["history"]
        return 2**31 if state["stopped"] else len(self.history["loss"])

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self._state:  # only now: to build a training step may draw random numbers
            for i, variable in enumerate(_variables(self.model)):
                variable.assign(self._arrays[f"now_{i}"])
            self.best_weights = [self._arrays[f"best_{i}"] for i in range(len(self.model.get_weights()))]
            for name in ("best", "wait", "best_epoch"):
                setattr(self, name, self._state[name])
            self.batches.order = self._arrays["order"]
            self.batches.random.bit_generator.state = self._state["draws"]
            version, numbers, rest = self._state["shuffling"]
            random.setstate((version, tuple(numbers), rest))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        if self.folder is not None:
            self._save()

    def _save(self):
        state = {
            "key": self.key,
            "history": self.history,
            "best": float(self.best),
            "wait": self.wait,
            "best_epoch": self.best_epoch,
            "stopped": bool(self.model.stop_training),
            "draws": self.batches.random.bit_generator.state,
            "shuffling": random.getstate(),  # `fit` shuffles the batches with Python's own generator
        }
        arrays = {f"best_{i}": array for i, array in enumerate(self.best_weights)}
        now = map(keras.ops.convert_to_numpy, _variables(self.model))
        arrays |= {f"now_{i}": array for i, array in enumerate(now)} | {"order": self.batches.order}
        save_artifact(self.folder, KIND, VERSION, state, lambda new: np.savez(new / ARRAYS, **arrays))


def fingerprint(*values: object) -> str:
    """A digest of plain values: lists, dictionaries, strings, numbers."""
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()


def _variables(model):
    """All there is to a run but its metrics, which begin anew with each epoch."""
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics]
    return own + list(model.optimizer.variables)
