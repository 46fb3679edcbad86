"""Checkpoints as the Hugging Face hub keeps them: a folder, its config, its tensors in safetensors files.

Reads only what cannot execute code; writes a folder whole or not at all.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from companion.artifact import swap

CONFIG, GENERATION, WEIGHTS = "config.json", "generation_config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("source.spm", "target.spm", "vocab.json"),
)
FILES = (CONFIG, GENERATION, WEIGHTS, INDEX, "model-*-of-*.safetensors", *TOKENIZER_FILES)
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
FLOATS = ("F64", "F32", "F16", "BF16")
PICKLED = (
    "Only safetensors files are read: unpickling a pytorch_model.bin can execute code. With transformers, "
    "from_pretrained(...).save_pretrained(folder) converts it."
)


def checkpoint_folder(path_or_name: str | os.PathLike, revision: str | None = None) -> Path:
    """The folder of a checkpoint; one on the hub is fetched into huggingface_hub's cache.

    Args:
        path_or_name: A folder, or the name of a model on the hub, "google-bert/bert-base-chinese".
        revision: Branch, tag or commit on the hub.
    Raises:
        FileNotFoundError: There is no such folder, and the hub cannot be asked or has no such model.
    Environment: HF_ENDPOINT is asked instead of the hub's own address; HF_HUB_OFFLINE=1 leaves what is in the
    cache already; HF_HOME moves the cache.
    """
    if (folder := Path(path_or_name)).is_dir():
        return folder
    name = str(path_or_name)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise FileNotFoundError(
            f"path_or_name must be a folder or the name of a model on the hub; there is no folder {name}."
        )
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{name} is neither a folder nor to be had from the hub: it is not in the cache, and the hub is "
            "out of reach or HF_HUB_OFFLINE is set. Fetch it where there is a network, or set HF_ENDPOINT to "
            "the address of a mirror."
        ) from error
    except (HfHubHTTPError, ValueError) as error:
        raise FileNotFoundError(
            f"{name} is neither a folder nor to be had from the hub: {str(error).strip()}"
        ) from error


def read_json(path: Path) -> dict:
    """A file that holds one JSON object.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint must have a {path.name}; there is no {path}.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also UnicodeDecodeError
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold a JSON object; it holds a {type(fields).__name__}.")
    return fields


class Tensors:
    """The tensors of a checkpoint by name: shapes first, values when they are asked for.

    Args:
        folder: Holds `model.safetensors`, or `model.safetensors.index.json` and the files that it lists.
    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or does not hold what the index says.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if (folder / WEIGHTS).is_file():
            self.homes = dict.fromkeys(_names(folder / WEIGHTS), folder / WEIGHTS)
        elif (folder / INDEX).is_file():
            self.homes = _indexed(folder)
        else:
            raise FileNotFoundError(f"the checkpoint must have a {WEIGHTS}; {folder} has none. {PICKLED}")

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape; ValueError if it does not hold floating-point numbers."""
        with safe_open(self.homes[name], framework="numpy") as file:
            found = file.get_slice(name)
            if found.get_dtype() not in FLOATS:
                raise ValueError(
                    f"{name} must hold one of {', '.join(FLOATS)}; it holds {found.get_dtype()} in "
                    f"{self.homes[name]}."
                )
            return tuple(found.get_shape())

    def read(self, name: str) -> np.ndarray:
        """A tensor's values, float32."""
        with safe_open(self.homes[name], framework="numpy") as file:
            return np.asarray(file.get_tensor(name)).astype("float32")


def _names(path):
    if not path.is_file():
        raise FileNotFoundError(f"{INDEX} lists {path.name}; there is no {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut off: {error}.") from error


def _indexed(folder):
    listed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{folder / INDEX} must have a weight_map; it is damaged.")
    strange = [name for name in listed.values() if not (isinstance(name, str) and SHARD.fullmatch(name))]
    if strange:
        raise ValueError(
            f"{folder / INDEX} must list files beside it, {SHARD.pattern}; it lists {strange[0]!r}."
        )
    held = {name: set(_names(folder / name)) for name in sorted(set(listed.values()))}
    for tensor, name in listed.items():
        if tensor not in held[name]:
            raise ValueError(f"{folder / INDEX} says that {name} holds {tensor}; it does not.")
    if unlisted := set().union(*held.values()) - listed.keys():
        raise ValueError(f"{folder / INDEX} does not list {sorted(unlisted)[0]}, which its files hold.")
    return {tensor: folder / name for tensor, name in listed.items()}


def write_tensors(folder: Path, tensors: Iterable[tuple[str, np.ndarray]], max_shard_size: int) -> None:
    """Writes tensors into one file, or into several and an index.

    Args:
        folder: An empty folder.
        tensors: Names and float32 arrays; one shard of them is in memory at a time.
        max_shard_size: Bytes of a file, > 0; a larger tensor gets a file of its own.
    """
    shards = []
    for shard in _shards(tensors, max_shard_size):
        save_file(shard, folder / f"{len(shards)}", metadata={"format": "pt"})
        shards.append({name: array.nbytes for name, array in shard.items()})
    if len(shards) == 1:
        os.replace(folder / "0", folder / WEIGHTS)
        return
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        os.replace(folder / f"{i}", folder / name)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(sum(shard.values()) for shard in shards)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(tensors, max_shard_size) -> Iterator[dict]:
    shard, size = {}, 0
    for name, array in tensors:
        if shard and size + array.nbytes > max_shard_size:
            yield shard
            shard, size = {}, 0
        shard[name] = np.ascontiguousarray(array)  # safetensors writes the memory as it lies
        size += array.nbytes
    yield shard


def write_json(path: Path, fields: dict) -> None:
    """Writes a JSON object, its names in order."""
    path.write_text(json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_folder(folder: str | os.PathLike, write: Callable[[Path], None]) -> None:
    """Writes a checkpoint's folder, whole or not at all.

    Args:
        folder: New, empty, or replaced if it holds nothing but a checkpoint's files.
        write: Called with an empty folder, fills it.
    Raises:
        FileExistsError: The folder holds something else.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"folder must be a folder; {folder} is a file.")
    if folder.exists() and any(folder.iterdir()) and not _is_checkpoint(folder):
        raise FileExistsError(
            f"folder must be new, empty or hold a checkpoint and nothing else; {folder} holds other files."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        write(new)
        swap(new, folder, Path(temporary, "old"))


def _is_checkpoint(folder):
    try:
        known = "model_type" in read_json(folder / CONFIG)
    except (FileNotFoundError, ValueError):
        return False
    return known and all(path.name in FILES or SHARD.fullmatch(path.name) for path in folder.iterdir())
