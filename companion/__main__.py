"""The command line: `python -m companion doctor` checks an installation, `predict` classifies texts."""

import argparse
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from companion import __version__

PYTHONS = ((3, 11), (3, 14))  # from, and below
LINES_AT_A_TIME = 64
FORMATS = ("tsv", "jsonl")


class Finding(NamedTuple):
    """What the doctor saw: "ok", "note" (something optional is absent) or "fault", and what to do."""

    level: str
    subject: str
    found: str
    advice: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Words after the program's name; None takes them from the command line.
    Returns:
        The exit code: 0 done, 1 failed. Bad usage exits with 2.
    """
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")  # as the texts are, whatever the terminal says
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, ImportError) as error:
        print(f"companion {options.command}: {error}", file=sys.stderr)
        return 1


def predict(options: argparse.Namespace) -> int:
    """Prints a label and its probability for each text."""
    if options.text and options.file:
        options.parser.error("give texts or --file, not both")
    from companion import TextClassifier

    classifier = TextClassifier.load(options.model)
    texts = iter(options.text) if options.text else _lines(options.file)
    while some := list(itertools.islice(texts, LINES_AT_A_TIME)):
        probabilities = classifier.predict_proba(some)
        for text, label, row in zip(some, classifier.decide(probabilities), probabilities, strict=True):
            scores = {str(name): round(float(p), 4) for name, p in zip(classifier.classes, row, strict=True)}
            print(_line(text, label, scores, options.format), flush=True)
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Looks at what the package needs, and says what to do where something is wrong."""
    checks = (_python, _keras, *map(_packages, ("layers", "tools", "book", "test")), _font, _cache)
    checks += (_sources, _translations, _interface, _attention)
    faults = 0
    for check in checks:
        finding = _examined(check)
        faults += finding.level == "fault"
        print(f"{finding.level:6}{finding.subject:20}{finding.found}", flush=True)
        if finding.level != "ok":
            print(f"{'':26}-> {finding.advice}", flush=True)
    print(f"\n{faults} fault{'s' * (faults != 1)} found." if faults else "\nAll is well.")
    return int(faults > 0)


def _parser():
    parser = argparse.ArgumentParser("companion", description="Tools of the companion package.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    about = "check the installation; exit code 1 if something is wrong"
    commands.add_parser("doctor", help=about, description=about).set_defaults(run=doctor)
    about = "classify texts with a saved TextClassifier"
    command = commands.add_parser("predict", help=about, description=about)
    command.add_argument("--model", required=True, metavar="FOLDER", help="what TextClassifier.save wrote")
    command.add_argument(
        "--file", metavar="FILE", help="a UTF-8 file, one text a line; blank lines are skipped"
    )
    kinds = "tsv: label, its probability, text; jsonl: an object a line, with the probability of every label"
    command.add_argument("--format", choices=FORMATS, default="tsv", help=kinds)
    command.add_argument("text", nargs="*", help="texts; without them and --file, lines of standard input")
    command.set_defaults(run=predict, parser=command)
    return parser


def _lines(path) -> Iterator[str]:
    with Path(path).open("rb") if path else sys.stdin.buffer as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8").strip("\ufeff\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"texts must be UTF-8; received in line {number}: {error}") from error
            if text.strip():
                yield text


def _line(text, label, scores, form):
    if form == "tsv":
        return f"{label}\t{scores[str(label)]:.4f}\t{' '.join(text.split())}"
    fields = {"text": text, "label": label, "probability": scores[str(label)], "probabilities": scores}
    return json.dumps(fields, ensure_ascii=False)


def _examined(check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a warning says, the finding says
        try:
            return check()
        except Exception as error:  # whatever is broken must not stop the doctor
            level = "note" if isinstance(error, ModuleNotFoundError) else "fault"  # packages: says which
            found = re.sub(r"\x1b\[\d+m|\s+", " ", f"{type(error).__name__}: {error}")  # Keras writes in bold
            return Finding(level, check.subject, found[:200], check.advice)


def _check(subject, advice):
    """Names a check, and what to do when it fails in a way it does not foresee."""

    def named(function):
        function.subject, function.advice = subject, advice
        return function

    return named


@_check("Python", "install Python 3.11, 3.12 or 3.13, and the package with it")
def _python():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {cores} cores"
    level = "ok" if PYTHONS[0] <= sys.version_info < PYTHONS[1] else "fault"
    return Finding(level, "Python", found, _python.advice)


@_check("Keras", 'pip install "keras>=3.12" tensorflow')
def _keras():
    import keras

    backend = keras.config.backend()
    version = importlib.import_module(backend).__version__
    return Finding("ok", "Keras", f"{keras.__version__} on {backend} {version}")


def _packages(extra):
    @_check(f"packages: {extra}", "install the package: see README.md")
    def check():
        wanted = _requirements("" if extra == "layers" else extra)
        installed = {requirement.name: _version(requirement.name) for requirement in wanted}
        lacking = [
            requirement for requirement in wanted if not _fits(requirement, installed[requirement.name])
        ]
        if not lacking:
            return Finding("ok", check.subject, f"all {len(wanted)} present")
        absent = sum(not installed[requirement.name] for requirement in wanted)
        level = "note" if extra != "layers" and 2 * absent > len(wanted) else "fault"  # not wanted, or broken
        found = ", ".join(f"{r.name} {installed[r.name] or 'absent'}" for r in lacking)
        return Finding(level, check.subject, found, "pip install " + " ".join(f'"{r}"' for r in lacking))

    return check


def _fits(requirement, version):
    return bool(version) and requirement.specifier.contains(version, prereleases=True)


def _requirements(extra):
    from packaging.requirements import Requirement

    found = {}
    for line in importlib.metadata.requires("companion") or []:
        requirement = Requirement(line)
        active = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        own = bool(requirement.marker and "extra" in str(requirement.marker)) == bool(extra)
        if active and own and requirement.name != "companion":
            requirement.marker = None
            found[requirement.name] = requirement
    return list(found.values())


def _version(name):
    for distribution in (name, f"{name}-cpu"):  # tensorflow-cpu is tensorflow too
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@_check("Chinese font", "reinstall matplotlib")
def _font():
    from companion.visualization import chinese_font

    font = chinese_font()
    advice = "install one for Chinese in figures (Debian, Ubuntu: apt install fonts-wqy-microhei)"
    return Finding("ok" if font else "note", "Chinese font", font or "none found", advice)


@_check("cache folder", "set COMPANION_CACHE to a folder that you may write")
def _cache():
    from companion.data import cache_folder

    cache_folder().mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=cache_folder()).close()
    return Finding("ok", "cache folder", str(cache_folder()))


@_check("library sources", "use a Python that comes with its sources, such as python.org's")
def _sources():
    from companion.data import PACKAGES

    absent = [name for name in PACKAGES if not _has_sources("json" if name == "stdlib" else name)]
    if absent:
        return Finding("fault", "library sources", f"none of {', '.join(absent)}", _sources.advice)
    return Finding("ok", "library sources", ", ".join(PACKAGES))


def _has_sources(name):
    spec = importlib.util.find_spec(name)  # does not import it
    return bool(spec and spec.origin and spec.origin.endswith(".py") and Path(spec.origin).read_bytes())


@_check("translations", "pip install --force-reinstall babel")
def _translations():
    from companion.data import translation_pairs

    pair = translation_pairs(count=20)[0]
    return Finding("ok", "translations", f"{pair.source} / {pair.target}")


@_check("interface strings", "pip install jupyterlab-language-pack-zh-CN (optional)")
def _interface():
    from companion.data import interface_strings

    pairs = interface_strings()
    found = f"{len(pairs)} pairs" if pairs else "absent"
    return Finding("ok" if pairs else "note", "interface strings", found, _interface.advice)


@_check("attention", "reinstall keras and its backend; if that does not help, report these lines")
def _attention():
    """One head on four orthogonal tokens, projections the identity: scores 1/2 on the diagonal, else 0."""
    import numpy as np

    from companion import MultiHeadAttention

    layer, tokens = MultiHeadAttention(model_dim=4, num_heads=1), np.eye(4, dtype="float32")[None]
    layer(tokens)
    layer.set_weights([np.eye(4) if weight.ndim == 2 else np.zeros(4) for weight in layer.get_weights()])
    output, weights = (np.asarray(result) for result in layer(tokens))
    expected = np.exp(np.eye(4) / 2) / (np.exp(0.5) + 3)
    error = max(abs(weights[0, 0] - expected).max(), abs(output[0] - expected).max())
    found = f"largest difference from the closed form: {error:.1e}"
    return Finding("ok" if error < 1e-5 else "fault", "attention", found, _attention.advice)


if __name__ == "__main__":
    sys.exit(main())
