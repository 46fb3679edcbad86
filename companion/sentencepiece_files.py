"""Tokenizers in SentencePiece's files, which Marian's translation models have instead of a tokenizer.json."""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Engine

from companion.checkpoint_files import read_json, write_json
from companion.pretrained_tokenizer import PretrainedTokenizer, special_ids

SOURCE, TARGET, VOCABULARY = "source.spm", "target.spm", "vocab.json"
UNKNOWN, SPACE = "<unk>", "▁"
NORMAL, IS_UNKNOWN, CONTROL, UNUSED = 1, 2, 3, 5  # kinds of pieces
UNIGRAM = 1


class SentencePieceTokenizer(PretrainedTokenizer):
    """Cuts a text into SentencePiece's pieces and looks them up in a vocabulary that two languages share.

    A language code that begins a text, ">>cmn_Hans<<", is one token: models with several target languages
    need it. Special tokens that are written out in a text stay text.

    Args:
        engine: Cuts texts: what `read_sentencepiece` returned.
        vocabulary: {piece: id}.
        files: {name: bytes} of the files it was read from, for `save`.
        ids: padding_id, begin_id, end_id, unknown_id.
    Attributes:
        target: The same for texts in the target language; decoding is the same in both.
    """

    def __init__(self, engine: Engine, vocabulary: dict[str, int], files: dict[str, bytes], **ids):
        super().__init__(engine, **ids)
        self._vocabulary, self._files = vocabulary, files
        self._names = {i: piece for piece, i in vocabulary.items()}
        special = (self.padding_id, self.begin_id, self.end_id)
        self._pieces = {piece: i for piece, i in vocabulary.items() if i not in special}
        self.target = self

    @classmethod
    def load(cls, path: str | os.PathLike) -> "SentencePieceTokenizer":
        """Reads `source.spm`, `target.spm` and `vocab.json` in a checkpoint's folder; returns the source's.

        Raises:
            FileNotFoundError: One of them is missing.
            ValueError: One of them is damaged, or of a kind that is not supported.
        """
        folder = Path(path)
        vocabulary = read_json(folder / VOCABULARY)
        numbers = [i for i in vocabulary.values() if isinstance(i, int)]
        if UNKNOWN not in vocabulary or sorted(numbers) != list(range(len(vocabulary))):
            raise ValueError(f"{folder / VOCABULARY} must number its pieces from 0 on, {UNKNOWN} among them.")
        files = {name: (folder / name).read_bytes() for name in (SOURCE, TARGET, VOCABULARY)}
        ids = special_ids(folder, vocabulary.get) | {"unknown_id": vocabulary[UNKNOWN], "mask_id": None}
        if ids["end_id"] not in numbers or ids["padding_id"] not in numbers:
            raise ValueError(f"{folder} must name an eos_token_id and a pad_token_id of its {VOCABULARY}.")
        engines = [read_sentencepiece(folder / name) for name in (SOURCE, TARGET)]
        source, target = (cls(engine, vocabulary, files, **ids) for engine in engines)
        source.target = target
        return source

    def encode_pair(self, first, second):
        """Refused: translation models read one text."""
        raise ValueError("pairs are for BERT; a translation model reads one text.")

    encode_pair_batch = encode_pair

    def decode(self, ids: Sequence[int]) -> str:
        """Turns (L,) token ids back into text; special tokens are left out."""
        silent = (self.padding_id, self.begin_id, self.end_id, self.unknown_id)
        pieces = [self._names[i] for i in self._checked_ids(ids) if i not in silent]
        return "".join(pieces).replace(SPACE, " ").strip()

    def save(self, path: str | os.PathLike) -> None:
        """Writes the files that it was read from, and a tokenizer_config.json, into a folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        names = {"pad_token": self._names[self.padding_id], "eos_token": self._names[self.end_id]}
        names |= {"unk_token": UNKNOWN, "tokenizer_class": "MarianTokenizer"}
        write_json(folder / "tokenizer_config.json", names)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids V, special ones included."""
        return len(self._vocabulary)

    def _rows(self, texts, length, begin, end):
        if length is not None and length <= begin + 1:
            raise ValueError(f"length must be above {begin + 1}, for what is added; received {length}.")
        rows = [[self.begin_id] * begin + self._ids(text) for text in texts]
        return [row[: len(row) if length is None else length - 1] + [self.end_id] for row in rows]

    def _ids(self, text):
        code, separator, rest = text.partition("<<") if text.startswith(">>") else ("", "", text)
        codes, text = ([code + separator], rest) if separator else ([], text)
        pieces = codes + self._engine.encode(text).tokens
        return [self._pieces.get(piece, self.unknown_id) for piece in pieces]

    def _piece(self, token_id):
        return self._names[token_id]


def read_sentencepiece(path: Path) -> Engine:
    """Reads a unigram model of SentencePiece.

    Args:
        path: The `.spm` or `.model` file.
    Returns:
        A `tokenizers.Tokenizer` whose pieces are the model's; its ids are not.
    Raises:
        ValueError: The file is damaged, or not a unigram model.
    Source: Kudo and Richardson 2018; the fields' numbers are those of their sentencepiece_model.proto.
    """
    try:
        pieces, kind, rules = _parse(path.read_bytes())
        return _engine(pieces, kind, rules)
    except _Unsupported as error:
        raise ValueError(f"{path} {error}") from error
    except OSError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(f"{path} is damaged: {error}.") from error


class _Unsupported(ValueError):
    pass


def _parse(content):
    pieces, kind, rules = [], UNIGRAM, {}
    for field, value in _fields(content):
        if field == 1:
            piece = dict(_fields(value))  # text, score, kind
            score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
            pieces.append((piece[1].decode(), score, piece.get(3, NORMAL)))
        elif field == 2:  # how it was trained
            kind = dict(_fields(value)).get(3, UNIGRAM)
        elif field == 3:  # how texts are normalized
            rules = dict(_fields(value))
    return pieces, kind, rules


def _engine(pieces, kind, rules):
    if kind != UNIGRAM:
        raise _Unsupported(f"must be a unigram model (type {UNIGRAM}); it is of type {kind}.")
    if strange := {kind for _, _, kind in pieces} - {NORMAL, IS_UNKNOWN, CONTROL, UNUSED}:
        raise _Unsupported(
            f"must hold no user-defined pieces and no bytes; it holds pieces of type {strange}."
        )
    if not (rules.get(3, 1) and rules.get(4, 1) and rules.get(5, 1)):
        raise _Unsupported("must prefix, trim and escape spaces; its normalizer_spec does not.")
    vocabulary = [(text, score) for text, score, kind in pieces if kind == NORMAL]
    engine = Engine(models.Unigram([(UNKNOWN, 0.0), *vocabulary], unk_id=0, byte_fallback=False))
    spaces = [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex("^ | $"), "")]
    charsmap = [normalizers.Precompiled(rules[2])] if rules.get(2) else []
    engine.normalizer = normalizers.Sequence(charsmap + spaces)
    engine.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=False)
    return engine


def _fields(content) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer's message: numbers, and the bytes of everything else."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(content, place)
        elif kind in (1, 2, 5):
            length, place = _varint(content, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            value, place = content[place : place + length], place + length
        else:
            raise ValueError(f"wire type {kind} at byte {place}")
        if place > len(content):
            raise ValueError("it is cut off")
        yield tag >> 3, value


def _varint(content, place):
    number, shift = 0, 0
    while True:
        byte = content[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
