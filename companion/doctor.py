"""`companion doctor`: what the package needs, looked at, with what to do about each fault."""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

PYTHONS = ((3, 11), (3, 14))  # from, and below
EXTRAS = ("layers", "tools", "serve", "book", "test")
GIGABYTE, NEEDED = 1e9, 1.0  # free on the disk, for caches and models
TOPICS = ("assignment", "class", "for", "import", "numbers", "strings", "try", "typesseq")


class Finding(NamedTuple):
    """What the doctor saw: "ok", "note" (something optional is absent) or "fault", and what to do."""

    level: str
    subject: str
    found: str
    advice: str = ""


def doctor(options: argparse.Namespace) -> int:
    """Looks at what the package needs, and says what to do where something is wrong."""
    checks = (_python, _keras, *map(_packages, EXTRAS), _font, _cache, _disk, _models)
    checks += (_sources, _translations, _interface, _attention, _training)
    faults = 0
    for check in checks:
        finding = _examined(check)
        faults += finding.level == "fault"
        print(f"{finding.level:6}{finding.subject:20}{finding.found}", flush=True)
        if finding.level != "ok":
            print(f"{'':26}-> {finding.advice}", flush=True)
    print(f"\n{faults} fault{'s' * (faults != 1)} found." if faults else "\nAll is well.")
    return int(faults > 0)


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


@_check("disk", "set COMPANION_CACHE to a folder on a disk with more room")
def _disk():
    from companion.data import cache_folder

    free = shutil.disk_usage(
        next(path for path in (cache_folder(), *cache_folder().parents) if path.exists())
    ).free
    level = "ok" if free >= NEEDED * GIGABYTE else "note"
    return Finding(level, "disk", f"{free / GIGABYTE:.1f} GB free for the cache", _disk.advice)


@_check("models", "make chapters CHAPTER=03_2 (translate), 03_4 (generate), 05_2 (predict): all optional")
def _models():
    from companion.applications import find_applications, models_folder

    found = find_applications(models_folder())
    return Finding("ok" if found else "note", "models", ", ".join(found) or "none yet", _models.advice)


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


@_check("training", "reinstall keras and its backend; if that does not help, report these lines")
def _training():
    """A tiny GPT reads the help texts of Python, letter by letter, and writes a few letters."""
    from pydoc_data.topics import topics

    import keras
    import numpy as np

    from companion import generate, gpt

    started, length = time.perf_counter(), 32
    text = "\n".join(topics[name] for name in TOPICS if name in topics).encode("ascii", "ignore")
    letters = np.frombuffer(text, np.uint8)[: len(text) // (length + 1) * (length + 1)]
    rows = letters.reshape(-1, length + 1)[:1024].astype("int32")
    keras.utils.set_random_seed(0)
    model = gpt(128, length, model_dim=32, num_heads=2, hidden_dim=64, num_layers=1, dropout=0.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    losses = model.fit(rows[:, :-1], rows[:, 1:], epochs=2, verbose=0).history["loss"]
    written = generate(model, rows[:1, :8], max_length=8, begin_id=0, end_id=())
    seconds = time.perf_counter() - started
    found = f"loss {np.log(128):.2f} -> {losses[-1]:.2f} on {len(rows)} rows of text, {seconds:.0f} s"
    well = losses[-1] < losses[0] < np.log(128) and losses[-1] < 3.2 and written.shape == (1, 8)
    return Finding("ok" if well else "fault", "training", found, _training.advice)
