"""Trained models with their tokenizers, in one folder each, and where they are found (article section 6)."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from companion.artifact import CONFIG, load_artifact
from companion.base import check_at_least
from companion.cache import cache_folder
from companion.classification import KIND, TextClassifier
from companion.generation import generate, stream, text_pieces
from companion.inspection import attention_weights
from companion.saved_model import VERSION, SavedModel, given_text, given_texts
from companion.tokenizer import Tokenizer
from companion.vectors import WordVectors

BATCHES = 1, 4, 16  # so many texts are translated at a time, never another number: few compiled loops
VECTOR_SUFFIXES = ".txt", ".vec", ".bin"


class Attention(NamedTuple):
    """Where a translator looked in the source when it chose each token of the target.

    weights: (layers, heads, T, S) float32, of each decoder block; rows sum to 1.
    source_tokens: S strings.
    target_tokens: T strings: row t belongs to the choice of target_tokens[t]. The last is "<end>", unless
        the translation was cut at its greatest length.
    """

    weights: np.ndarray
    source_tokens: list[str]
    target_tokens: list[str]


class Translator(SavedModel):
    """An encoder-decoder with its two tokenizers: texts in, texts out.

    Args:
        model: From a source (B, S) and a target (B, T) to logits (B, T, V), such as `transformer`, whose
            decoder blocks attend to the source.
        source_tokenizer: Of the texts to translate.
        target_tokenizer: Of the translations.
        max_source_length: Most tokens of a text, from 1 to what the model reads.
        max_length: Most tokens of a translation, its end included, from 1 to what the model reads.
    Raises:
        ValueError: The model is of another kind, has other vocabularies, or reads less than the lengths.
    """

    KIND = "companion.Translator"
    TOKENIZERS, LENGTHS = ("source_tokenizer", "target_tokenizer"), ("max_source_length", "max_length")

    def __init__(
        self,
        model: keras.Model,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        max_source_length: int = 48,
        max_length: int = 48,
    ):
        tokenizers = {"source_tokenizer": source_tokenizer, "target_tokenizer": target_tokenizer}
        super().__init__(model, max_source_length=max_source_length, max_length=max_length, **tokenizers)

    def translate(self, texts: Iterable[str], beam_size: int = 1) -> list[str]:
        """Translates texts, as `generate` does.

        Args:
            texts: N strings, each with something in it and at most max_source_length tokens.
            beam_size: 1 always takes the likeliest token; above it beam search, with its other settings as
                `generate` has them.
        Returns:
            N strings.
        Raises:
            TypeError: texts is no collection of strings.
            ValueError: A text is empty or too long, or beam_size is out of range.
        """
        check_at_least(1, beam_size=beam_size)
        settings = {"strategy": "beam", "beam_size": beam_size} if beam_size > 1 else {}
        rows = [self._source_ids(text, f"texts[{i}]") for i, text in enumerate(given_texts(texts, "texts"))]
        return self.target_tokenizer.decode_batch(self._written(rows, settings))

    def attention(self, text: str, translation: str | None = None) -> Attention:
        """The weights with which the model chooses each token of a translation, and its end.

        Args:
            text: As one of `translate`.
            translation: Any text of at most max_length - 1 tokens; None: what `translate` answers, in the
                very tokens it wrote.
        Raises:
            TypeError, ValueError: As `translate`; or translation is too long.
        """
        source = self._source_ids(given_text(text, "text"), "text")
        target = self._target_ids(translation) if translation is not None else self._written([source], {})[0]
        given = np.array([[self.target_tokenizer.begin_id, *target[:-1]]])
        blocks = attention_weights(self.model, [np.array([source]), given]).values()
        weights = [pair[1][0] for pair in blocks if isinstance(pair, tuple) and pair[1] is not None]
        names = self.source_tokenizer.tokens(source), self.target_tokenizer.tokens(target)
        return Attention(np.stack(weights), *names)

    def _source_ids(self, text, name):
        ids = self.source_tokenizer.encode(text)
        if len(ids) > self.max_source_length:
            raise ValueError(
                f"{name} must have at most max_source_length={self.max_source_length} tokens; received one "
                f"of {len(ids)}."
            )
        return ids

    def _target_ids(self, translation):
        ids = self.target_tokenizer.encode(translation, end=True)
        if len(ids) > self.max_length:
            raise ValueError(
                f"translation must have at most {self.max_length - 1} tokens, one less than max_length; "
                f"received one of {len(ids) - 1}."
            )
        return ids

    def _written(self, rows, settings):
        """The ids written for each row of source ids, ends included, without padding."""
        settings = {**settings, "tokenizer": self.target_tokenizer, "max_length": self.max_length}
        padding_id, written = self.target_tokenizer.padding_id, []
        for start in range(0, len(rows), BATCHES[-1]):
            some = rows[start : start + BATCHES[-1]]
            size = next(size for size in BATCHES if size >= len(some))
            filled = some + some[-1:] * (size - len(some))
            tokens = generate(self.model, filled, **settings)[: len(some)]
            written += [[token for token in row if token != padding_id] for row in tokens.tolist()]
        return written


class TextGenerator(SavedModel):
    """A decoder-only model with its tokenizer: the beginning of a text in, how it may go on out.

    Args:
        model: From tokens (B, T) int to logits (B, T, V), such as `gpt`.
        tokenizer: Of prompts and texts.
        max_length: Most tokens of a prompt and what follows it, together, from 2 to what the model reads.
    Raises:
        ValueError: The model is of another kind, has another vocabulary, or reads less than max_length.
    """

    KIND, TOKENIZERS, LENGTHS = "companion.TextGenerator", ("tokenizer",), ("max_length",)

    def __init__(self, model: keras.Model, tokenizer: Tokenizer, max_length: int):
        check_at_least(2, max_length=max_length)
        super().__init__(model, tokenizer=tokenizer, max_length=max_length)

    def complete(
        self,
        prompts: Iterable[str],
        max_new_tokens: int = 40,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> list[str]:
        """What follows each prompt, until the text ends or max_new_tokens are written.

        Each prompt is written on by itself: with a seed the answer is the same alone and among others.

        Args:
            prompts: N strings, each with something in it. Of a prompt that with max_new_tokens has more
                than max_length tokens, the last ones are read, as many as there is room for.
            max_new_tokens: Most tokens to write, from 1 to max_length - 1.
            temperature: Divides the scores before a token is drawn; 0 always takes the likeliest.
            top_p: Draw only among the fewest tokens whose probabilities reach it, in (0, 1].
            seed: Makes the drawing reproducible; None draws anew.
        Returns:
            N strings, the prompts left out.
        Raises:
            TypeError: prompts is no collection of strings.
            ValueError: A prompt is empty, or an argument is out of range.
        """
        settings = self._settings(max_new_tokens, temperature, top_p, seed)
        rows = [self._last_ids(prompt, max_new_tokens) for prompt in given_texts(prompts, "prompts")]
        return [self.tokenizer.decode(generate(self.model, [row], **settings)[0]) for row in rows]

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 40,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The same as `complete` for one prompt, in pieces: each is given away as soon as it is there.

        Args:
            prompt, max_new_tokens, temperature, top_p, seed: As `complete`.
        Returns:
            An iterator over strings, none of them empty, which joined are the whole. A character waits until
            all its bytes are there.
        Raises:
            TypeError, ValueError: As `complete`, and at once, not at the first piece.
        """
        settings = self._settings(max_new_tokens, temperature, top_p, seed)
        row = self._last_ids(given_text(prompt, "prompt"), max_new_tokens)
        return text_pieces(stream(self.model, [row], **settings), self.tokenizer)

    def _settings(self, max_new_tokens, temperature, top_p, seed):
        if not 1 <= max_new_tokens < self.max_length:
            raise ValueError(
                f"max_new_tokens must be from 1 to {self.max_length - 1}, one less than max_length; received "
                f"max_new_tokens={max_new_tokens}."
            )
        drawn = {"strategy": "sample", "temperature": temperature, "top_p": top_p, "seed": seed}
        chosen = drawn if temperature else {"top_p": top_p}  # greedy: only checked
        return {"max_length": max_new_tokens, "tokenizer": self.tokenizer, **chosen}

    def _last_ids(self, prompt, max_new_tokens):
        return self.tokenizer.encode(prompt)[-(self.max_length - max_new_tokens) :]


KINDS = {KIND: TextClassifier, Translator.KIND: Translator, TextGenerator.KIND: TextGenerator}


def models_folder() -> Path:
    """Where the chapters leave their trained models, and where they are looked for: in `cache_folder`."""
    return cache_folder() / "models"


def find_applications(folder: str | os.PathLike) -> dict[str, Path]:
    """The trained models in a folder.

    Args:
        folder: One saved model, or a folder of them.
    Returns:
        {name: path for `load_application`}, sorted by path; names are those of folders, and of files of word
        vectors (.txt, .vec, .bin, also .gz) without these suffixes. Empty where there is nothing.
    """
    folder = Path(folder)
    paths = [folder] if _is_application(folder) or not folder.is_dir() else sorted(folder.iterdir())
    found: dict[str, Path] = {}
    for path in filter(_is_application, paths):
        name = path.resolve().name if path.is_dir() else _stem(path)
        found[path.name if name in found else name] = path
    return found


def load_application(path: str | os.PathLike) -> TextClassifier | Translator | TextGenerator | WordVectors:
    """Loads a trained model of whichever kind.

    Args:
        path: What `TextClassifier`, `Translator` or `TextGenerator` saved, or a file of word vectors.
    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is damaged, is none of these, or was saved by a newer companion.
    """
    if Path(path).is_file():
        return WordVectors.load(path, progress=False)
    kind = _kind(path)
    if kind not in KINDS:
        load_artifact(path, f"trained model ({', '.join(KINDS)})", VERSION)  # says what is wrong
    return KINDS[kind].load(path)


def _is_application(path):
    if path.is_dir():
        return not path.name.startswith(".") and _kind(path) in KINDS
    return path.is_file() and path.name.lower().removesuffix(".gz").endswith(VECTOR_SUFFIXES)


def _kind(folder):
    try:
        return str(json.loads(Path(folder, CONFIG).read_text(encoding="utf-8"))["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stem(path):
    return Path(path.name[:-3] if path.name.lower().endswith(".gz") else path.name).stem
