"""A model that writes, with its tokenizers, as one folder: checked, saved and loaded (article section 6)."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import keras

from companion.artifact import reading_artifact, save_artifact
from companion.base import check_at_least, plain
from companion.decoding import Decoder
from companion.text import SubwordTokenizer, WordTokenizer, load_tokenizer
from companion.tokenizer import Tokenizer, checked_text

VERSION = 1  # of the folder's layout


class SavedModel:
    """What such models share: a subclass names its kind, its tokenizers and its lengths, each an argument.

    Args:
        model: Functional, with a decoder, as `Decoder` takes it.
        **settings: The tokenizers and lengths that the subclass names: the first of each belongs to the
            model's first input, the last to its target.
    Raises:
        ValueError: The model has another number of inputs or no decoder block, a tokenizer has other ids than
            the model, or the model reads less than a length.
    """

    KIND, TOKENIZERS, LENGTHS = "", (), ()

    def __init__(self, model: keras.Model, **settings: Tokenizer | int):
        decoder = Decoder(model)
        if len(model.inputs) != len(self.TOKENIZERS) or not decoder.blocks:
            raise ValueError(
                f"model must have {len(self.TOKENIZERS)} inputs and decoder blocks; received {model.name!r} "
                f"with {len(model.inputs)} and {len(decoder.blocks)}."
            )
        inputs = [decoder.prompt, decoder.target][-len(self.TOKENIZERS) :]
        for tensor, tokenizer, length in zip(inputs, self.TOKENIZERS, self.LENGTHS, strict=True):
            _check_fit(decoder.limits(tensor), settings, tokenizer, length)
        self.model = model
        for name, value in settings.items():
            setattr(self, name, plain(value))

    def save(self, folder: str | os.PathLike) -> None:
        """Writes model, tokenizers and lengths into one folder, whole or not at all.

        Args:
            folder: New, empty, or one of the same kind, which is replaced.
        Raises:
            FileExistsError: The folder holds something else.
            TypeError: A tokenizer is none of companion's own; `save_pretrained` keeps those of checkpoints.
        """
        for name in self.TOKENIZERS:
            if not isinstance(tokenizer := getattr(self, name), WordTokenizer | SubwordTokenizer):
                raise TypeError(
                    f"{name} must be a WordTokenizer or a SubwordTokenizer to be saved; received "
                    f"{type(tokenizer).__name__}: `save_pretrained` keeps such a model."
                )
        config = {name: getattr(self, name) for name in self.LENGTHS}
        save_artifact(folder, self.KIND, VERSION, config, self._write)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Self:
        """Reads what `save` wrote; what it writes is the same.

        Args:
            folder: The folder given to `save`.
        Raises:
            FileNotFoundError: Nothing of the kind is there.
            ValueError: The folder is damaged, holds something else, or was saved by a newer companion.
        """
        folder = Path(folder)
        with reading_artifact(folder, cls.KIND, VERSION) as config:
            tokenizers = {name: load_tokenizer(folder / f"{name}.json") for name in cls.TOKENIZERS}
            model = keras.saving.load_model(folder / "model.keras", compile=False)
        return cls(model, **tokenizers, **config)

    def _write(self, folder):
        for name in self.TOKENIZERS:
            getattr(self, name).save(folder / f"{name}.json")
        self.model.save(folder / "model.keras", include_optimizer=False)


def given_texts(texts: Iterable[str], name: str) -> list[str]:
    """Texts as a list; raises TypeError if they are no collection, or as `given_text`."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise TypeError(f"{name} must be a list of strings; received {type(texts).__name__}.")
    return [given_text(text, f"{name}[{i}]") for i, text in enumerate(texts)]


def given_text(text: str, name: str) -> str:
    """A text; raises TypeError if it is no string, ValueError if it is empty or no Unicode text."""
    if not checked_text(text, name).strip():
        raise ValueError(f"{name} must not be empty; received {name}={text!r}.")
    return text


def _check_fit(limits, settings, tokenizer, length):
    vocabulary_size, longest = limits
    known = settings[tokenizer].vocabulary_size
    if known > vocabulary_size:
        raise ValueError(
            f"{tokenizer} must have at most the model's {vocabulary_size} ids; received one of {known}."
        )
    check_at_least(1, **{length: settings[length]})
    if settings[length] > longest:
        received = f"{length}={settings[length]}"
        raise ValueError(f"{length} must be at most what the model reads, {longest}; received {received}.")
