"""What every tokenizer shares: special ids, batches, files, and the checks of what it is given."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

SPECIALS = ("<padding>", "<unknown>", "<begin>", "<end>")
SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Text to token ids and back, one at a time or in batches; saved as one JSON file.

    Ids 0 to 3 are padding, unknown, begin and end. No text encodes to padding, begin or end: a user's
    "<end>" stays text.
    """

    padding_id, unknown_id, begin_id, end_id = range(4)

    def encode(self, text: str, begin: bool = False, end: bool = False) -> list[int]:
        """Turns one text into token ids.

        Args:
            text: Any Unicode string.
            begin: Put `begin_id` first.
            end: Put `end_id` last.
        Returns:
            List of int, each in [0, vocabulary_size).
        Raises:
            TypeError: text is not a string.
            ValueError: text holds a lone surrogate, which is not Unicode text.
        """
        ids = self._ids(checked_text(text))
        return [self.begin_id] * begin + ids + [self.end_id] * end

    def encode_batch(
        self, texts: Iterable[str], length: int | None = None, begin: bool = False, end: bool = False
    ) -> np.ndarray:
        """Turns texts into one array of token ids, padded on the right.

        Args:
            texts: B strings.
            length: L; None: the longest text. Longer texts lose their last tokens, never begin or end.
            begin: Put `begin_id` first.
            end: Put `end_id` last.
        Returns:
            (B, L) int32, L at least 1.
        Raises:
            TypeError: texts is not a collection of strings.
            ValueError: length leaves no room for a token beside begin and end.
        """
        if length is not None and length <= begin + end:
            raise ValueError(f"length must be above {begin + end}, for begin and end; received {length}.")
        rows = [self.encode(text, begin) for text in checked_texts(texts)]
        width = length or max([1] + [len(row) + end for row in rows])
        batch = np.full((len(rows), width), self.padding_id, np.int32)
        for line, row in zip(batch, rows, strict=True):
            row = row[: width - end] + [self.end_id] * end
            line[: len(row)] = row
        return batch

    def decode(self, ids: Sequence[int]) -> str:
        """Turns token ids back into text.

        Args:
            ids: (L,) ints. Padding, begin and end are left out everywhere; unknown shows as `<unknown>`.
        Returns:
            str.
        Raises:
            ValueError: ids is not one row of ints in [0, vocabulary_size).
        """
        silent = (self.padding_id, self.begin_id, self.end_id)
        return self._text([i for i in self._checked_ids(ids) if i not in silent])

    def decode_batch(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """Turns (B, L) token ids back into B texts."""
        return [self.decode(row) for row in ids]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Names each id with something printable, for plots; a space shows as `␣`.

        Args:
            ids: (L,) ints.
        Returns:
            L strings, none of them empty.
        """
        return [SPECIALS[i] if i < len(SPECIALS) else self._printable(i) for i in self._checked_ids(ids)]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the tokenizer as JSON, whole or not at all.

        Args:
            path: A file, or a folder that gets a `tokenizer.json`.
        """
        path = tokenizer_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(self._to_json(), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Reads a tokenizer that `save` wrote.

        Args:
            path: The file, or the folder that holds `tokenizer.json`.
        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or is no tokenizer of this class.
        """
        path = tokenizer_file(path)
        try:
            return cls._from_json(path.read_text(encoding="utf-8"))
        except (OSError, ImportError):
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"path must be a saved {cls.__name__}; received {path}: {error}") from error

    @property
    def vocabulary_size(self) -> int:
        """Number of ids V, special ones included."""
        return len(self._pieces)

    def _checked_ids(self, ids):
        array = np.asarray(ids)
        if array.size and (array.ndim != 1 or array.dtype.kind not in "iu"):
            raise ValueError(f"ids must be one row of ints; received shape {array.shape}, {array.dtype}.")
        if array.size and not 0 <= array.min() <= array.max() < self.vocabulary_size:
            span = f"{array.min()} to {array.max()}"
            raise ValueError(f"ids must be in [0, vocabulary_size={self.vocabulary_size}); received {span}.")
        return array.tolist()


def tokenizer_file(path: str | os.PathLike) -> Path:
    """The file itself, or `tokenizer.json` in a folder."""
    path = Path(path)
    return path / "tokenizer.json" if path.is_dir() else path


def printable(text: str) -> str:
    """Makes whitespace and control characters visible."""
    text = text.replace(" ", "␣")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def checked_texts(texts: Iterable[str]) -> Iterator[str]:
    """Yields texts one by one; raises as `checked_text` at the first that is none, and says which."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a collection of strings; received {type(texts).__name__}.")
    return (checked_text(text, f"texts[{i}]") for i, text in enumerate(texts))


def checked_text(text: str, name: str = "text") -> str:
    """Returns a text; raises TypeError if it is no string, ValueError if it is no Unicode text."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string; received {type(text).__name__}.")
    if SURROGATE.search(text):
        raise ValueError(f"{name} must be Unicode text; received a lone surrogate.")
    return text
