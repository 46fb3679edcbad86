"""Text to numbers and back: words (spaCy) and subwords (byte-pair encoding)."""

import functools
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable

from companion.cache import cache_folder
from companion.tokenizer import SPECIALS, Tokenizer, checked_text, checked_texts, printable, tokenizer_file

WORDS_FORMAT = "companion words 1"
SPACE, JOIN = " ", ""  # pieces for spacing that differs from the rule of `_expects_space`
PROBE = "A 12 é 你 \n <end>"  # a foreign file may fold, trim or add
OPENING, CLOSING = frozenset("([{$#@-/"), frozenset(".,;:!?%)]}-/")


class WordTokenizer(Tokenizer):
    """Words by spaCy's blank pipelines, one id a word. Made by `train` or `load`.

    A word outside the vocabulary becomes `unknown_id`. Otherwise `decode(encode(text)) == text`, except that
    any whitespace becomes one space (none at the ends) and that `lowercase` loses capitals. Spacing follows a
    rule (English: a space between words, but none before a comma or after a bracket; Chinese: none); where a
    text departs from it, a piece of its own says so, shown by `tokens` as `␣` (a space) or `‿` (none).
    """

    def __init__(self, words: Iterable[str], language="en", segmenter="char", lowercase=True):
        self.language, self.segmenter, self.lowercase = language, segmenter, lowercase
        self._pieces = [*SPECIALS, *words]
        self._index = {word: i for i, word in enumerate(self._pieces) if i >= len(SPECIALS)}
        _pipeline(language, segmenter)  # a wrong name or a missing library shows here

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        language: str = "en",
        segmenter: str = "char",
        max_words: int | None = None,
        min_count: int = 1,
        lowercase: bool | None = None,
    ) -> "WordTokenizer":
        """Builds a vocabulary from the words of texts, the most frequent first.

        Args:
            texts: Training strings.
            language: "en" or "zh".
            segmenter: For "zh": "char" (every character a word) or "jieba" (dictionary words).
            max_words: Keep this many, at least 1, beside the four special ids and the two pieces for spacing;
                None keeps all.
            min_count: Keep words that occur at least so often.
            lowercase: Fold capitals; None folds them in English only.
        Raises:
            TypeError: texts is not a collection of strings.
            ValueError: An argument is out of range, or no word is left.
        """
        if max_words is not None and max_words < 1:
            raise ValueError(f"max_words must be at least 1 or None; received {max_words}.")
        empty = cls((), language, segmenter, language == "en" if lowercase is None else lowercase)
        counts = Counter()
        for text in checked_texts(texts):
            counts.update(empty._spell(*empty._words(text)))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        pieces = [piece for piece, count in ranked if count >= min_count and piece not in SPECIALS]
        spacing = (SPACE, JOIN)
        words = [piece for piece in pieces if piece not in spacing][:max_words]
        if not words:
            raise ValueError(f"texts must hold a word seen min_count={min_count} times; received none.")
        kept = {*words, *spacing}
        return cls([piece for piece in pieces if piece in kept], language, segmenter, empty.lowercase)

    def split(self, text: str) -> list[str]:
        """Cuts a text into words, whether they are in the vocabulary or not."""
        return self._words(checked_text(text))[0]

    def _words(self, text):
        text = " ".join(text.split())
        tokens = _pipeline(self.language, self.segmenter).tokenizer(text)
        words = [token.text.lower() if self.lowercase else token.text for token in tokens]
        return words, [bool(token.whitespace_) for token in tokens]

    def _spell(self, words, spaces):
        pieces = words[:1]
        for left, right, space in zip(words, words[1:], spaces, strict=False):
            if space != self._expects_space(left, right):
                pieces.append(SPACE if space else JOIN)
            pieces.append(right)
        return pieces

    def _expects_space(self, left, right):
        if self.language != "en":
            return False
        contraction = right in ("n't", "n’t") or (len(right) > 1 and right[0] in "'’")
        return left not in OPENING and right not in CLOSING and not contraction

    def _ids(self, text):
        words, spaces = self._words(text)
        known = [word if word in self._index else SPECIALS[self.unknown_id] for word in words]
        pieces = self._spell(known, spaces)
        spacing = (SPACE, JOIN)  # spacing never seen in training is dropped: it is no unknown word
        ids = (self._index.get(piece, None if piece in spacing else self.unknown_id) for piece in pieces)
        return [i for i in ids if i is not None]

    def _text(self, ids):
        pieces = [self._pieces[i] for i in ids]
        text = pieces[:1]
        for left, right in zip(pieces, pieces[1:], strict=False):
            spaced = {left, right}.isdisjoint((SPACE, JOIN)) and self._expects_space(left, right)
            text += [SPACE, right] if spaced else [right]
        return "".join(text)

    def _printable(self, token_id):
        return printable(self._pieces[token_id]) or "‿"

    def _to_json(self):
        settings = {"language": self.language, "segmenter": self.segmenter, "lowercase": self.lowercase}
        fields = {"format": WORDS_FORMAT, **settings, "words": self._pieces[len(SPECIALS) :]}
        return json.dumps(fields, ensure_ascii=False, indent=1)

    @classmethod
    def _from_json(cls, text):
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.pop("format", None) != WORDS_FORMAT:
            raise ValueError(f"its format is not {WORDS_FORMAT!r}.")
        words = fields["words"]
        if not all(isinstance(word, str) for word in words) or len(set(words)) != len(words):
            raise ValueError("its words must be strings, each once.")
        return cls(**fields)


class SubwordTokenizer(Tokenizer):
    """Byte-level byte-pair encoding through `tokenizers`. Made by `train` or `load`.

    A text is a row of bytes and every byte has an id: nothing is unknown, and `decode(encode(text)) == text`.

    Source: Sennrich et al. 2016, section 3.2 (merges); Radford et al. 2019, section 2.2 (bytes).
    """

    def __init__(self, tokenizer):
        vocabulary = tokenizer.get_vocab()
        if [tokenizer.token_to_id(name) for name in SPECIALS] != list(range(len(SPECIALS))):
            raise ValueError(f"ids 0 to 3 must be {', '.join(SPECIALS)}.")
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError("its ids must run from 0 without a gap.")
        tokenizer.encode_special_tokens = True  # "<end>" in a text is text
        self._tokenizer = tokenizer
        pieces = sorted(vocabulary, key=vocabulary.get)
        self._pieces = [_piece_bytes(piece, i) for i, piece in enumerate(pieces)]
        if missing := 256 - len({piece for piece in self._pieces if len(piece) == 1}):
            raise ValueError(f"every byte must have an id; {missing} have none.")
        if self._text(self._ids(PROBE)) != PROBE:
            raise ValueError(f"it must give back what it encodes; of {PROBE!r} it changes something.")

    @classmethod
    def train(
        cls, texts: Iterable[str], vocabulary_size: int = 4096, split_digits: bool = False
    ) -> "SubwordTokenizer":
        """Learns the most frequent merges of bytes; the same texts always give the same merges.

        Args:
            texts: Training strings.
            vocabulary_size: V, at least 260 (4 special ids and 256 bytes); few texts may yield less.
            split_digits: Keep each digit a token of its own, so that numbers are spelled alike everywhere.
        Raises:
            TypeError: texts is not a collection of strings.
            ValueError: vocabulary_size is below 260.
        """
        from tokenizers import Tokenizer as Engine
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if vocabulary_size < 260:
            raise ValueError(f"vocabulary_size must be at least 260; received {vocabulary_size}.")
        digits = [pre_tokenizers.Digits(individual_digits=True)] * split_digits
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        engine = Engine(models.BPE())
        engine.pre_tokenizer = pre_tokenizers.Sequence([*digits, words])
        engine.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        engine.train_from_iterator(checked_texts(texts), trainer)
        return cls(engine)

    def _ids(self, text):
        return self._tokenizer.encode(text).ids

    def _text(self, ids):
        return b"".join(self._pieces[i] for i in ids).decode("utf-8", "replace")

    def _printable(self, token_id):
        piece = self._pieces[token_id]
        try:
            return printable(piece.decode())
        except UnicodeDecodeError:  # part of a character
            return "".join(f"\\x{byte:02x}" for byte in piece)

    def _to_json(self):
        return self._tokenizer.to_str(pretty=True)

    @classmethod
    def _from_json(cls, text):
        from tokenizers import Tokenizer as Engine

        return cls(Engine.from_str(text))


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Reads a tokenizer of either kind.

    Args:
        path: The file, or the folder that holds `tokenizer.json`.
    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or is no tokenizer.
    """
    try:
        fields = json.loads(tokenizer_file(path).read_text(encoding="utf-8"))
    except ValueError as error:  # also UnicodeDecodeError
        raise ValueError(f"path must be a saved tokenizer; received {path}: {error}") from error
    words = isinstance(fields, dict) and fields.get("format") == WORDS_FORMAT
    return (WordTokenizer if words else SubwordTokenizer).load(path)


@functools.cache
def _pipeline(language, segmenter):
    import spacy

    if language not in ("en", "zh"):
        raise ValueError(f'language must be "en" or "zh"; received {language!r}.')
    if segmenter not in ("char", "jieba"):
        raise ValueError(f'segmenter must be "char" or "jieba"; received {segmenter!r}.')
    if language == "en":
        return spacy.blank("en")
    if segmenter == "jieba":
        _place_jieba_cache()
    return spacy.blank("zh", config={"nlp": {"tokenizer": {"segmenter": segmenter}}})


def _place_jieba_cache():
    """Moves jieba's cache, which it trusts, from the temporary folder that all users share."""
    import jieba

    folder = cache_folder() / "jieba"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # no home that can be written
        folder = tempfile.mkdtemp(prefix="jieba-")
    jieba.setLogLevel(logging.WARNING)
    jieba.dt.tmp_dir = str(folder)


@functools.cache
def _byte_of_character():
    """Byte-level BPE writes each byte as a printable character: itself, or the next one from U+0100 on."""
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _piece_bytes(piece, token_id):
    if token_id < len(SPECIALS):
        return piece.encode()
    if strange := set(piece) - _byte_of_character().keys():
        raise ValueError(f"its pieces must be bytes; id {token_id} holds {sorted(strange)}.")
    return bytes(_byte_of_character()[character] for character in piece)
