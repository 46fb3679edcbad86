"""A trained thing as one folder: its files, their checksums and the version, written whole or not at all."""

import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG = "config.json"


def save_artifact(
    folder: str | os.PathLike, kind: str, version: int, config: dict, write: Callable[[Path], None]
) -> None:
    """Writes a folder that `load_artifact` reads.

    Args:
        folder: New, empty, or of the same kind and replaced; a reader never sees half of either.
        kind: What it holds, "companion.TextClassifier".
        version: Of the layout; raise it when older code could not read it.
        config: What JSON can hold.
        write: Called with an empty folder, fills it with files.
    Raises:
        FileExistsError: The folder holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (_is_empty(folder) or _kind_of(folder / CONFIG) == kind):
        raise FileExistsError(f"folder must be new, empty or hold a {kind}; {folder} holds something else.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        write(new)
        digests = {path.name: _digest(path) for path in sorted(new.iterdir())}
        fields = {"kind": kind, "version": version, "sha256": digests, "config": config}
        fields["seal"] = _seal(fields)
        with open(new / CONFIG, "w", encoding="utf-8") as file:
            json.dump(fields, file, indent=1, ensure_ascii=False)
        for path in new.rglob("*"):
            if path.is_file():
                with open(path, "r+b") as file:
                    os.fsync(file.fileno())  # on disk before the name is
        swap(new, folder, Path(temporary, "old"))


def load_artifact(folder: str | os.PathLike, kind: str, version: int) -> dict:
    """Checks a folder written by `save_artifact`.

    Args:
        folder: The folder.
        kind: What it must hold.
        version: The newest layout that the caller can read.
    Returns:
        The config it was saved with.
    Raises:
        FileNotFoundError: There is no such folder, or no config in it.
        ValueError: It is of another kind, of a newer version, or damaged.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        old = left_behind(folder)
        advice = f" A process that was killed while it saved left it in {old}." if old else ""
        raise FileNotFoundError(f"folder must hold a {kind}; there is no {path}.{advice}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        found, saved, seal = (fields[name] for name in ("kind", "version", "seal"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"folder must hold a {kind}; {path} is damaged: {error!r}.") from error
    if found != kind:
        raise ValueError(f"folder must hold a {kind}; {path} says {found!r}.")
    if isinstance(saved, int) and saved > version:
        raise ValueError(
            f"{folder} was saved by a newer companion: version {saved} of a {kind}, and this one reads up to "
            f"{version}. Upgrade companion."
        )
    if seal != _seal(fields):
        raise ValueError(f"{folder} is damaged: {CONFIG} is not as it was saved.")
    for name, digest in fields["sha256"].items():
        if not path.with_name(name).is_file() or _digest(path.with_name(name)) != digest:
            raise ValueError(f"{folder} is damaged: {name} is missing or not as it was saved.")
    return fields["config"]


@contextmanager
def reading_artifact(folder: str | os.PathLike, kind: str, version: int) -> Iterator[dict]:
    """`load_artifact`, and the block that reads the files: refused if they were replaced meanwhile.

    Args, Returns and Raises: As `load_artifact`; the config is what `with` gives.
    """
    path = Path(folder) / CONFIG
    before = path.read_bytes() if path.exists() else b""
    yield load_artifact(folder, kind, version)
    if not path.exists() or path.read_bytes() != before:
        raise ValueError(f"{folder} was replaced while it was read; read it again.")


def left_behind(folder: str | os.PathLike) -> Path | None:
    """Where a folder was put that is not there because a process was killed between two renames, or None."""
    folder = Path(folder)
    places = [] if folder.exists() else sorted(folder.parent.glob(f".{glob.escape(folder.name)}-*/old"))
    return places[-1] if places else None


def swap(new: Path, folder: Path, old: Path) -> None:
    """Puts a new folder in another's place, which goes to `old`; if that fails, all is as it was."""
    if not folder.exists():
        os.replace(new, folder)
        return
    try:
        os.replace(folder, old)
        os.replace(new, folder)
    except BaseException:  # an interruption, too
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise


def _kind_of(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_empty(folder):
    return folder.is_dir() and not any(folder.iterdir())


def _seal(fields):
    """A checksum of all fields but itself: then whoever reads them need not doubt any of them."""
    text = json.dumps({name: value for name, value in fields.items() if name != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
