"""The tokenizer of a checkpoint: its tokenizer.json, and the ids that its configs name."""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Engine
from tokenizers import decoders

from companion.checkpoint_files import CONFIG, GENERATION, read_json, write_json
from companion.tokenizer import Tokenizer, checked_text, checked_texts, printable

SPECIALS, TOKENIZER = "special_tokens_map.json", "tokenizer_config.json"
# the names that transformers has for the tokens whose ids these are
ROLES = {"padding_id": "pad_token", "begin_id": "bos_token", "end_id": "eos_token"}
ROLES |= {"unknown_id": "unk_token", "mask_id": "mask_token"}


class PretrainedTokenizer(Tokenizer):
    """The tokenizer that a checkpoint was trained with.

    Encoding adds what the checkpoint's own template adds: `[CLS]` and `[SEP]` for BERT, the end for T5,
    nothing for GPT-2. A special token that is written out in a text becomes its id, as in transformers.

    Args:
        engine: The `tokenizers.Tokenizer`.
        padding_id: Fills short texts; the end's if not given, else 0: GPT-2 has no padding of its own.
        begin_id: Begins what a model writes; padding for T5 and Marian.
        end_id, unknown_id, mask_id: None if there is no such token.
    """

    def __init__(self, engine, padding_id=None, begin_id=None, end_id=None, unknown_id=None, mask_id=None):
        engine.no_truncation()
        engine.no_padding()
        self._engine, self._size = engine, 1 + max(engine.get_vocab().values(), default=-1)
        fallback = 0 if end_id is None else end_id
        self.padding_id = fallback if padding_id is None else padding_id
        self.begin_id, self.end_id, self.unknown_id, self.mask_id = begin_id, end_id, unknown_id, mask_id

    @classmethod
    def load(cls, path: str | os.PathLike) -> "PretrainedTokenizer":
        """Reads the tokenizer of a checkpoint.

        Args:
            path: The checkpoint's folder.
        Raises:
            FileNotFoundError: There is no tokenizer.json.
            ValueError: A file is damaged.
        """
        folder = Path(path)
        if not (folder / "tokenizer.json").is_file():
            raise FileNotFoundError(
                f"the checkpoint must have a tokenizer.json; {folder} has none. With transformers and a fast "
                "tokenizer, AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes one; "
                "load_pretrained(..., tokenizer=False) does without."
            )
        try:
            engine = Engine.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"{folder / 'tokenizer.json'} is damaged: {error}.") from error
        return cls(engine, **special_ids(folder, engine.token_to_id))

    def encode(self, text: str, begin: bool = False, end: bool = False) -> list[int]:
        """Turns one text into token ids.

        Args:
            text: Any Unicode string.
            begin, end: Put `begin_id` first, `end_id` last, unless the checkpoint's template does.
        Returns:
            List of int, each in [0, vocabulary_size).
        Raises:
            TypeError: text is not a string.
            ValueError: text holds a lone surrogate, or there is no begin_id or end_id to put.
        """
        return self._rows([checked_text(text)], None, begin, end)[0]

    def encode_batch(
        self, texts: Iterable[str], length: int | None = None, begin: bool = False, end: bool = False
    ) -> np.ndarray:
        """Turns texts into one array of token ids, padded on the right: (B, L) int32.

        Args:
            texts: B strings.
            length: L; None: the longest text. Longer texts lose their last tokens, never what is added.
            begin, end: See `encode`.
        Raises:
            TypeError: texts is not a collection of strings.
            ValueError: length leaves no room for a token beside those that are added.
        """
        rows = self._rows(list(checked_texts(texts)), length, begin, end)
        return _padded(rows, length, self.padding_id)

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """Turns two texts that belong together into token ids and segments, as BERT reads them.

        Returns:
            ids, segments: Lists of int, equally long; a segment is 0 for the first text, 1 for the second.
        """
        encoding = self._engine.encode(checked_text(first, "first"), checked_text(second, "second"))
        return encoding.ids, encoding.type_ids

    def encode_pair_batch(
        self, firsts: Iterable[str], seconds: Iterable[str], length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Turns pairs of texts into arrays, padded on the right.

        Args:
            firsts, seconds: B strings each.
            length: L; None: the longest pair. Of longer pairs the longer text loses its last tokens.
        Returns:
            tokens, segments: (B, L) int32 each; segments are padded with 0.
        """
        pairs = list(zip(checked_texts(firsts), checked_texts(seconds), strict=True))
        with self._truncated(length, 0, self._engine.num_special_tokens_to_add(True)):
            encodings = self._engine.encode_batch(pairs)
        tokens = _padded([encoding.ids for encoding in encodings], length, self.padding_id)
        return tokens, _padded([encoding.type_ids for encoding in encodings], length, 0)

    def decode(self, ids: Sequence[int]) -> str:
        """Turns (L,) token ids back into text; special tokens are left out.

        Raises:
            ValueError: ids is not one row of ints in [0, vocabulary_size).
        """
        silent = (self.padding_id, self.begin_id, self.end_id)
        return self._engine.decode([i for i in self._checked_ids(ids) if i not in silent])

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Names each id with something printable, for plots; a space shows as `␣`."""
        return [printable(self._piece(i).replace("▁", " ")) for i in self._checked_ids(ids)]

    def save(self, path: str | os.PathLike) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which transformers reads, into a folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self._engine.save(str(folder / "tokenizer.json"))
        names = {role: self._name(getattr(self, name)) for name, role in ROLES.items()}
        if self.padding_id == self.end_id:  # it has no padding of its own
            del names["pad_token"]
        fields = {role: name for role, name in names.items() if name is not None}
        fields |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        write_json(folder / "tokenizer_config.json", fields)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids V, special ones included."""
        return self._size

    def _rows(self, texts, length, begin, end):
        for name, wanted in (("begin_id", begin), ("end_id", end)):
            if wanted and getattr(self, name) is None:
                raise ValueError(f"the tokenizer has no {name} to put; received {name[:-3]}=True.")
        template = self._engine.encode("").ids
        begin, end = begin and template[:1] != [self.begin_id], end and template[-1:] != [self.end_id]
        with self._truncated(length, begin + end, self._engine.num_special_tokens_to_add(False)):
            encodings = self._engine.encode_batch(texts)
        return [[self.begin_id] * begin + x.ids + [self.end_id] * end for x in encodings]

    @contextlib.contextmanager
    def _truncated(self, length, outside, inside):
        """The engine cuts texts so that they have `length` tokens with those that it and others add."""
        if length is None:
            yield
            return
        if length <= outside + inside:
            raise ValueError(
                f"length must be above {outside + inside}, for what is added; received {length}."
            )
        self._engine.enable_truncation(length - outside)
        try:
            yield
        finally:
            self._engine.no_truncation()

    def _piece(self, token_id):
        piece = self._engine.id_to_token(token_id) or f"<{token_id}>"  # ids may have gaps
        if not isinstance(self._engine.decoder, decoders.ByteLevel):
            return piece
        text = self._engine.decoder.decode([piece])
        return piece if "\ufffd" in text else text  # part of a character

    def _name(self, token_id):
        return None if token_id is None else self._engine.id_to_token(token_id)


def _padded(rows, length, value):
    batch = np.full((len(rows), length or max([1, *map(len, rows)])), value, np.int32)
    for line, row in zip(batch, rows, strict=True):
        line[: len(row)] = row
    return batch


def special_ids(folder: Path, token_to_id: Callable[[str], int | None]) -> dict[str, int | None]:
    """The ids that a checkpoint names: by number in its configs, or else by the token in its tokenizer's.

    Args:
        folder: The checkpoint's folder.
        token_to_id: None for a token that there is not.
    Returns:
        Arguments of `PretrainedTokenizer`.
    """
    config, names = (_merged(folder, *files) for files in ((CONFIG, GENERATION), (SPECIALS, TOKENIZER)))
    ids = {}
    for name, role in ROLES.items():
        token = names.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        number = config.get(f"{role}_id")
        number = number[0] if isinstance(number, list) else number
        ids[name] = token_to_id(token) if number is None and isinstance(token, str) else number
        if not isinstance(ids[name], int | None):
            raise ValueError(f"{role}_id must be an int in {folder / CONFIG}; received {number!r}.")
    if config.get("is_encoder_decoder"):
        ids["begin_id"] = config.get("decoder_start_token_id", ids["padding_id"])
    return ids


def _merged(folder, *files):
    fields = {}
    for file in files:
        found = read_json(folder / file) if (folder / file).is_file() else {}
        fields |= {name: value for name, value in found.items() if value is not None}
    return fields
