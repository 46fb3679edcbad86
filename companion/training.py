"""What surrounds a long training run: checkpoints to go on from, and its progress."""

import os
import re
import shutil
import time
import warnings
from pathlib import Path

import keras
import numpy as np

from companion.artifact import load_artifact, save_artifact
from companion.base import check_at_least

KIND, VERSION, ARRAYS = "companion.Checkpoint", 1, "variables.npz"


class Checkpoint(keras.callbacks.Callback):
    """Writes down a training run every few batches, so that it can be interrupted after any of them.

        checkpoint = Checkpoint("run", every=100)
        step = checkpoint.resume(trainer)  # 0 in a new folder
        batches = causal_batches(rows, batch_size=8, start_step=step, num_steps=1000)
        trainer.fit(batches, shuffle=False, callbacks=[checkpoint])

    Run again after an interruption, these lines end with the same weights as if there had been none: weights,
    the state of the optimizer (accumulated gradients included) and of the generators that dropout draws from
    are all restored. What callbacks remember, such as the best loss of `EarlyStopping`, is not; nor is the
    generator of PyTorch's own, from which Keras draws dropout on that backend.

    In a run of several epochs let `every` be a multiple of steps_per_epoch, and go on with
    `fit(..., steps_per_epoch=n, initial_epoch=step // n)`: then no epoch is cut.

    A checkpoint is a folder of its own, step-00000100, written whole or not at all.

    Args:
        folder: For the checkpoints of this run.
        every: Batches from one checkpoint to the next, >= 1; the end of `fit` is one too.
        keep: The newest checkpoints to keep, >= 1; with 2 or more, one that was damaged since costs little.
    Raises:
        ValueError: every or keep is below 1; or training begins in a folder with checkpoints that were not
            resumed: a new run would be taken for an old one, whose checkpoints go as newer ones come.
    """

    def __init__(self, folder: str | os.PathLike, every: int, keep: int = 2):
        super().__init__()
        check_at_least(1, every=every, keep=keep)
        self.folder, self.every, self.keep = Path(folder), every, keep
        self.step, self._saved_step, self._steps_before_epoch = 0, None, 0

    def resume(self, trainer: keras.Model) -> int:
        """Restores the newest checkpoint that is not damaged.

        Args:
            trainer: Built and compiled as it was when the checkpoint was written.
        Returns:
            How many batches it has seen: the step to go on with. 0 if there is no checkpoint yet.
        Raises:
            ValueError: all checkpoints are damaged, or the newest is of another model or optimizer.
        Warns:
            UserWarning: a checkpoint is damaged, and an older one is used.
        """
        trainer.optimizer.build(trainer.trainable_variables)
        problems = []
        for path in reversed(self._paths()):
            try:
                config = load_artifact(path, KIND, VERSION)
            except (ValueError, FileNotFoundError) as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(f"{problem} Going on from {path}.", stacklevel=2)
            _restore(_variables(trainer), config["variables"], path)
            self.step = self._saved_step = config["step"]
            return self.step
        if problems:
            raise ValueError(f"folder must hold a checkpoint that can be read; {' '.join(problems)}")
        return 0

    def on_train_begin(self, logs=None):
        if self._saved_step is None and (paths := self._paths()):
            raise ValueError(
                f"folder must be new, or its run be resumed first; {self.folder} holds {paths[-1].name}."
            )

    def on_epoch_begin(self, epoch, logs=None):
        self._steps_before_epoch = self.step

    def on_train_batch_end(self, batch, logs=None):
        before, self.step = self.step, self._steps_before_epoch + batch + 1
        if self.step // self.every > before // self.every:  # Keras may run several steps in one go
            self._save()

    def on_train_end(self, logs=None):
        if self.step != self._saved_step:
            self._save()

    def _save(self):
        arrays = {str(i): _plain(variable) for i, variable in enumerate(_variables(self.model))}
        described = [[list(array.shape), str(array.dtype)] for array in arrays.values()]
        path = self.folder / f"step-{self.step:08d}"
        config = {"step": self.step, "variables": described}
        save_artifact(path, KIND, VERSION, config, lambda new: _write(new / ARRAYS, arrays))
        self._saved_step = self.step
        for old in self._paths()[: -self.keep]:
            shutil.rmtree(old)

    def _paths(self):
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path for path in found if re.fullmatch(r"step-\d{8,}", path.name))


class Progress(keras.callbacks.Callback):
    """Prints a line every few batches: loss, perplexity, and tokens trained on in a second.

    Callbacks named after it find tokens_per_second among the numbers of an epoch, as do Keras's own logs:

        logs = [Progress(8 * 128), CSVLogger("log.csv", append=True), TensorBoard("logs")]
        trainer.fit(batches, shuffle=False, verbose=0, callbacks=logs)

    Args:
        tokens_per_step: Tokens of a batch, B * T; for an encoder-decoder B * (S + T).
        every: Batches from one line to the next, >= 1; the end of an epoch has one too.
    Raises:
        ValueError: a number is below 1.
    """

    def __init__(self, tokens_per_step: int, every: int = 100):
        super().__init__()
        check_at_least(1, tokens_per_step=tokens_per_step, every=every)
        self.tokens_per_step, self.every = tokens_per_step, every

    def on_epoch_begin(self, epoch, logs=None):
        self._first, self._speed = None, {}

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if self._first is None:
            self._first = batch, now  # the first batch is left out: its time is that of compiling
        else:
            count = (batch - self._first[0]) * self.tokens_per_step
            self._speed = {"tokens_per_second": count / (now - self._first[1])}
        if (batch + 1) % self.every == 0:
            print(f"step {batch + 1}/{self.params['steps'] or '?'}  {_line(logs | self._speed)}", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self._speed)
        print(f"epoch {epoch + 1}/{self.params['epochs']}  {_line(logs)}", flush=True)


def _line(logs):
    parts = []
    for name, value in logs.items():
        if name.endswith("loss"):
            perplexity = np.exp(np.float64(value))
            parts.append(f"{name} {value:.4f}  {name.replace('loss', 'perplexity')} {perplexity:.2f}")
        elif name == "tokens_per_second":
            parts.append(f"{value:,.0f} tokens/s")
    return "  ".join(parts)


def _variables(trainer):
    """All there is to a run, in an order that depends on how the trainer was made only."""
    return [*trainer.variables, *trainer.optimizer.variables]


def _plain(variable):
    """A NumPy array of a type that files know: bfloat16 becomes float32, and loses nothing."""
    array = keras.ops.convert_to_numpy(variable.value)
    return array.astype("float32") if array.dtype == "bfloat16" else array


def _write(path, arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())


def _restore(variables, described, path):
    expected = [[list(variable.shape), str(_plain(variable).dtype)] for variable in variables]
    if described != expected:
        raise ValueError(
            f"trainer must have the variables of {path}, {len(described)} of them; received {len(expected)}, "
            "or others in shape or type. Make model and optimizer as they were."
        )
    with np.load(path / ARRAYS) as arrays:
        for i, variable in enumerate(variables):
            variable.assign(arrays[str(i)])
