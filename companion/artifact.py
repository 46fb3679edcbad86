"""A trained thing as one folder: its files, their checksums and the version, written whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

CONFIG = "config.json"


def save_artifact(
    folder: str | os.PathLike, kind: str, version: int, config: dict, write: Callable[[Path], None]
) -> None:
    """Writes a folder that `load_artifact` reads.

    Args:
        folder: New, or a folder of the same kind, which is replaced; a reader never sees half of either.
        kind: What it holds, "companion.TextClassifier".
        version: Of the layout; raise it when older code could not read it.
        config: What JSON can hold.
        write: Called with an empty folder, fills it with files.
    Raises:
        FileExistsError: The folder holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and _kind_of(folder / CONFIG) == kind):
        raise FileExistsError(f"folder must be new or hold a {kind}; {folder} holds something else.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        write(new)
        digests = {path.name: _digest(path) for path in sorted(new.iterdir())}
        fields = {"kind": kind, "version": version, "sha256": digests, "config": config}
        (new / CONFIG).write_text(json.dumps(fields, indent=1, ensure_ascii=False), encoding="utf-8")
        _swap(new, folder, Path(temporary, "old"))


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
        raise FileNotFoundError(f"folder must hold a {kind}; there is no {path}.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        found, saved, digests, config = (fields[name] for name in ("kind", "version", "sha256", "config"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"folder must hold a {kind}; {path} is damaged: {error!r}.") from error
    if found != kind:
        raise ValueError(f"folder must hold a {kind}; {path} says {found!r}.")
    if not isinstance(saved, int) or saved > version:
        raise ValueError(
            f"{folder} was saved by a newer companion: version {saved} of a {kind}, and this one reads up to "
            f"{version}. Upgrade companion."
        )
    for name, digest in digests.items():
        if not path.with_name(name).is_file() or _digest(path.with_name(name)) != digest:
            raise ValueError(f"{folder} is damaged: {name} is missing or not as it was saved.")
    return config


def _swap(new, folder, old):
    if not folder.exists():
        os.replace(new, folder)
        return
    os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        os.replace(old, folder)
        raise


def _kind_of(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
