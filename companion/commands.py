"""The commands that use a trained model: predict, translate, generate, serve (article section 6)."""

import argparse
import importlib
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LINES_AT_A_TIME = 64
FORMATS = ("tsv", "jsonl")
CHAPTERS = {"classifier": "05_2", "translation": "03_2", "text": "03_4"}  # which make the models
SERVE = {"fastapi", "uvicorn", "starlette", "pydantic"}  # what the extra "serve" brings


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds these commands to a parser's commands."""
    about = "classify texts with a saved TextClassifier"
    command = _command(commands, "predict", predict, about, "classifier", "text")
    kinds = "tsv: label, its probability, text; jsonl: an object a line, with the probability of every label"
    command.add_argument("--format", choices=FORMATS, default="tsv", help=kinds)
    about = "translate texts with a saved Translator; a blank line stays one"
    command = _command(commands, "translate", translate, about, "translation", "text")
    size = "1 always takes the likeliest token; above, beam search; default: 1"
    command.add_argument("--beam-size", type=int, default=1, metavar="K", help=size)
    about = "write on from prompts with a saved TextGenerator"
    command = _command(commands, "generate", generate, about, "text", "prompt")
    command.add_argument("--max-tokens", type=int, default=40, metavar="N", help="most to write; default: 40")
    flatter = "0 always takes the likeliest token, 1 draws as learned; default: 1"
    command.add_argument("--temperature", type=float, default=1.0, metavar="T", help=flatter)
    nucleus = "draw among the likeliest tokens that together reach P; default: 1"
    command.add_argument("--top-p", type=float, default=1.0, metavar="P", help=nucleus)
    command.add_argument("--seed", type=int, metavar="N", help="write the same again; default: a new one")
    _add_serve(commands)


def predict(options: argparse.Namespace) -> int:
    """Prints a label and its probability for each text."""
    from companion.classification import TextClassifier

    texts = _texts(options, "text")
    classifier = TextClassifier.load(_model_folder(options))
    while some := list(itertools.islice(texts, LINES_AT_A_TIME)):
        probabilities = classifier.predict_proba(some)
        for text, label, row in zip(some, classifier.decide(probabilities), probabilities, strict=True):
            scores = {str(name): round(float(p), 4) for name, p in zip(classifier.classes, row, strict=True)}
            print(_line(text, label, scores, options.format), flush=True)
    return 0


def translate(options: argparse.Namespace) -> int:
    """Prints the translation of each text, one a line."""
    from companion.applications import Translator

    texts = _texts(options, "text", keep_blank=True)
    translator, start = Translator.load(_model_folder(options)), 0
    while some := list(itertools.islice(texts, LINES_AT_A_TIME)):
        places = [i for i, text in enumerate(some) if text.strip()]
        translations = [""] * len(some)
        try:
            written = translator.translate([some[i] for i in places], options.beam_size)
        except ValueError as error:
            raise ValueError(_placed(str(error), [start + i + 1 for i in places])) from error
        for i, translation in zip(places, written, strict=True):
            translations[i] = " ".join(translation.splitlines())
        print("\n".join(translations), flush=True)
        start += len(some)
    return 0


def generate(options: argparse.Namespace) -> int:
    """Prints each prompt and how it goes on, a piece at a time."""
    from companion.applications import TextGenerator

    prompts = _texts(options, "prompt")
    generator = TextGenerator.load(_model_folder(options))
    settings = {"temperature": options.temperature, "top_p": options.top_p, "seed": options.seed}
    for prompt in prompts:
        pieces = generator.stream(prompt, options.max_tokens, **settings)
        print(prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print(flush=True)
    return 0


def serve(options: argparse.Namespace) -> int:
    """Opens the saved models in the browser, with a JSON API, until it is interrupted."""
    try:
        serving = importlib.import_module("companion.serving")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in SERVE:
            raise
        raise ImportError(
            f"it needs {error.name}, which the extra 'serve' brings: pip install '.[serve,tools]' in "
            "companion's folder."
        ) from error
    return serving.serve(options)


def _command(commands, name, run, about, model, word):
    """A parser for a command that reads texts and a model."""
    command = commands.add_parser(name, help=about, description=about)
    default = f"what save wrote; default: what 'make chapters CHAPTER={CHAPTERS[model]}' leaves"
    command.add_argument("--model", metavar="FOLDER", help=default)
    file = f"a UTF-8 file, one {word} a line"
    command.add_argument("--file", metavar="FILE", help=file)
    words = f"{word}s; without them and --file, lines of standard input"
    command.add_argument(word, nargs="*", help=words)
    command.set_defaults(run=run, parser=command, default_model=model)
    return command


def _add_serve(commands):
    about = "open the saved models in the browser: a page and a JSON API, on this machine only"
    command = commands.add_parser("serve", help=about, description=about)
    command.add_argument("--model", metavar="FOLDER", help="a saved model, or a folder of them")
    host = "default: 127.0.0.1, which only this machine sees"
    command.add_argument("--host", default="127.0.0.1", help=host)
    command.add_argument("--port", type=int, default=8000, help="0: any free one; default: 8000")
    origin = "another site whose pages may use the API; may be given more than once"
    command.add_argument("--allow-origin", action="append", default=[], metavar="URL", help=origin)
    length = "most characters of a text; default: 1000"
    command.add_argument("--max-length", type=int, default=1000, metavar="N", help=length)
    seconds = "seconds that an answer may take; default: 30"
    command.add_argument("--timeout", type=float, default=30.0, metavar="S", help=seconds)
    command.set_defaults(run=serve)


def _model_folder(options) -> Path:
    if options.model:
        return Path(options.model)
    from companion.applications import models_folder

    folder = models_folder() / options.default_model
    if not folder.exists():
        chapter = CHAPTERS[options.default_model]
        how = f"'make chapters CHAPTER={chapter}' makes one; or give --model"
        raise FileNotFoundError(f"no model in {folder}: {how}.")
    return folder


def _texts(options: argparse.Namespace, word: str, keep_blank: bool = False) -> Iterator[str]:
    """The words of the command line, or the lines of a file or of standard input."""
    given = getattr(options, word)
    if given and options.file:
        options.parser.error(f"give {word}s or --file, not both")
    if given:
        return iter(given)
    lines = _lines(options.file, word)
    return lines if keep_blank else filter(str.strip, lines)


def _lines(path: str | None, word: str) -> Iterator[str]:
    if not path and sys.stdin is None:
        raise ValueError(f"standard input is closed: give {word}s or --file.")
    with Path(path).open("rb") if path else sys.stdin.buffer as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8").strip("\ufeff\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{word}s must be UTF-8; received in line {number}: {error}") from error


def _placed(message: str, places: Iterable[int]) -> str:
    """A message about texts[i] with the number of that text, from 1, in all that was given."""
    places = list(places)
    return re.sub(r"^texts\[(\d+)\]", lambda found: f"text {places[int(found[1])]}", message)


def _line(text: str, label: Any, scores: dict[str, float], form: str) -> str:
    if form == "tsv":
        return f"{label}\t{scores[str(label)]:.4f}\t{' '.join(text.split())}"
    fields = {"text": text, "label": label, "probability": scores[str(label)], "probabilities": scores}
    return json.dumps(fields, ensure_ascii=False)
