"""Pretrained models: Hugging Face checkpoints of GPT-2, BERT, T5 and Marian, read and written.

Nothing is executed that a checkpoint brings, and nothing is half loaded: every tensor's name and shape is
checked before the first weight is set.
"""

import os
import re

import keras
import numpy as np
from tokenizers import Tokenizer as Engine

from companion.base import check_at_least
from companion.checkpoint_configs import arguments, describe, family_of
from companion.checkpoint_families import FAMILIES
from companion.checkpoint_files import (
    CONFIG,
    GENERATION,
    Tensors,
    checkpoint_folder,
    read_json,
    write_folder,
    write_json,
    write_tensors,
)
from companion.pretrained_tokenizer import PretrainedTokenizer
from companion.sentencepiece_files import SOURCE, SentencePieceTokenizer
from companion.tokenizer import Tokenizer


def load_pretrained(
    path_or_name: str | os.PathLike, revision: str | None = None, tokenizer: bool = True
) -> tuple[keras.Model, PretrainedTokenizer | None]:
    """Reads a checkpoint of GPT-2, BERT, T5 (v1.0 and v1.1) or Marian.

    Args:
        path_or_name: A folder, or the name of a model on the Hugging Face hub: "openai-community/gpt2".
        revision: Branch, tag or commit on the hub.
        tokenizer: False leaves it out, for checkpoints with neither a tokenizer.json nor Marian's source.spm.
    Returns:
        model: As `gpt`, `bert`, `t5` or `transformer` make it, its weights float32 if the checkpoint's are
            halves. Its padding id is the checkpoint's.
        tokenizer: As `encode` and `decode` need it, with the ids that `generate` needs; None if left out.
    Raises:
        FileNotFoundError: There is no such checkpoint, or one of its files is missing.
        ValueError: A file is damaged, a tensor is missing, is left over, has another shape or holds other
            numbers than the one it is tied to, or the model computes something that ours do not.
    Environment: see `companion.checkpoint_files.checkpoint_folder`.
    Differs: one dropout rate for all of a model's, that of the sums. BERT's head for the next sentence is not
    read, nor is forced_eos_token_id: what `generate` writes up to max_length need not end.
    """
    folder = checkpoint_folder(path_or_name, revision)
    config = read_json(folder / CONFIG)
    name, family = family_of(config)
    loaded = _tokenizer(folder) if tokenizer else None
    tensors = Tensors(folder)
    names = _without_prefix(tensors, family)
    model = family.builder(**arguments(name, config, names))
    if tokenizer:
        _check_vocabulary(model, loaded)
    rows = list(family.rows(model))
    _untie(rows, family, config, tensors, names)
    _check_positions(model, tensors, names)
    _check_tensors(rows, tensors, names)
    for row in rows:
        row.assign(tensors.read(names[row.name]))
    return model, loaded


def save_pretrained(
    folder: str | os.PathLike,
    model: keras.Model,
    tokenizer: Tokenizer | None = None,
    max_shard_size: int = 5_000_000_000,
) -> None:
    """Writes a checkpoint that `load_pretrained` and transformers read, whole or not at all.

    Args:
        folder: New, empty, or holding a checkpoint and nothing else, which is replaced.
        model: From `gpt`, `bert`, `t5`, or `transformer` with shared=True, norm_first=False, epsilon=1e-5 and
            positions="sinusoidal_halves", as Marian's are. Weights are written as float32.
        tokenizer: `PretrainedTokenizer` or `SubwordTokenizer`; its ids become those of the config.
        max_shard_size: Bytes of a weights file, >= 1; a larger checkpoint gets several and an index.
    Raises:
        ValueError: The model is of no family, or holds weights that its family does not have; the tokenizer
            has more ids than the model or another padding; max_shard_size is below 1.
        FileExistsError: The folder holds something else.
    """
    check_at_least(1, max_shard_size=max_shard_size)
    name, config = describe(model)
    if tokenizer is not None:
        _check_vocabulary(model, tokenizer)
    ids = _ids(name, config, tokenizer)
    rows = list(FAMILIES[name].rows(model))
    _check_covered(model, rows)
    named = ((_with_prefix(row.name, FAMILIES[name]), row.theirs()) for row in rows)

    def write(new):
        write_json(new / CONFIG, config | ids)
        write_json(new / GENERATION, ids)
        write_tensors(new, named, max_shard_size)
        if tokenizer is not None:
            _write_tokenizer(new, tokenizer)

    write_folder(folder, write)


def _tokenizer(folder):
    spm = (folder / SOURCE).is_file() and not (folder / "tokenizer.json").is_file()
    return (SentencePieceTokenizer if spm else PretrainedTokenizer).load(folder)


def _without_prefix(tensors, family):
    """{name in the map: name in the file}; what holds no weights is left out."""
    names = {}
    for name in tensors.homes:
        short = re.sub(r"LayerNorm\.(gamma|beta)$", _torch_name, name.removeprefix(family.prefix))
        if re.fullmatch(family.ignored, short):
            continue
        if short in names:
            raise ValueError(f"the checkpoint must hold a tensor once; it holds {names[short]} and {name}.")
        names[short] = name
    return names


def _torch_name(match):
    """Old checkpoints of BERT keep TensorFlow's names."""
    return {"gamma": "LayerNorm.weight", "beta": "LayerNorm.bias"}[match[1]]


def _with_prefix(name, family):
    return name if re.match(family.headless, name) else family.prefix + name


def _untie(rows, family, config, tensors, names):
    """Of tensors that are one, keeps one; they may be there under any of their names, or under several."""
    wanted = {row.name for row in rows}
    for alias, name in family.tied.items():
        if alias in wanted and alias not in names and config.get("scale_decoder_outputs") is False:
            names[alias] = names.get(name)  # a T5 v1.1 that transformers 5 made: tied, but not scaled
        if alias in wanted or alias not in names:
            continue
        found = names.pop(alias)
        if not np.array_equal(tensors.read(found), tensors.read(names.setdefault(name, found))):
            raise ValueError(f"{found} must hold the same numbers as {names[name]}, to which it is tied.")


def _check_positions(model, tensors, names):
    """Marian's sinusoids may be stored; ours are computed."""
    for side in ("encoder", "decoder"):
        if found := names.pop(f"{side}.embed_positions.weight", None):
            stored, ours = tensors.read(found), model.get_layer("embedding").sinusoids
            if stored.shape != ours.shape or not np.allclose(stored, ours, atol=5e-3):  # halves are coarse
                raise ValueError(f"{found} must hold sinusoids of shape {ours.shape}; it holds others.")


def _check_tensors(rows, tensors, names):
    missing = [f"{row.name} {row.shape}" for row in rows if names.get(row.name) is None]
    if missing:
        raise ValueError(f"the checkpoint lacks {len(missing)} tensors: {_some(missing)}.")
    wanted = {row.name for row in rows}
    extra = [f"{names[name]} {tensors.shape(names[name])}" for name in names if name not in wanted]
    if extra:
        raise ValueError(f"the checkpoint holds {len(extra)} tensors that the model has not: {_some(extra)}.")
    for row in rows:
        found = tensors.shape(names[row.name])
        if found != row.shape:
            raise ValueError(f"{names[row.name]} must have shape {row.shape}; the checkpoint's has {found}.")


def _check_covered(model, rows):
    covered = {id(variable) for row in rows for variable in row.variables}
    extra = [weight.path for weight in model.weights if id(weight) not in covered]
    if extra:
        raise ValueError(f"model holds {len(extra)} weights that its family has not: {_some(extra)}.")


def _some(names):
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)


def _check_vocabulary(model, tokenizer):
    size = model.get_layer("embedding").vocabulary_size
    if tokenizer.vocabulary_size > size:
        raise ValueError(
            f"the tokenizer must have at most the model's {size} ids; it has {tokenizer.vocabulary_size}."
        )


def _ids(name, config, tokenizer):
    """The special ids, for config.json and generation_config.json."""
    padding_id = config.get("pad_token_id")
    ids = {"pad_token_id": padding_id, "bos_token_id": None, "eos_token_id": None}
    if tokenizer is not None:
        if padding_id not in (None, tokenizer.padding_id):
            raise ValueError(
                f"the tokenizer must have the model's padding_id={padding_id}; it has {tokenizer.padding_id}."
            )
        # padding with the end's id is what a tokenizer without padding does
        own = tokenizer.padding_id if tokenizer.padding_id != tokenizer.end_id else padding_id
        ids = {"pad_token_id": own, "bos_token_id": tokenizer.begin_id, "eos_token_id": tokenizer.end_id}
    if name in ("t5", "marian"):
        start = padding_id if tokenizer is None else tokenizer.begin_id
        ids |= {"bos_token_id": None, "decoder_start_token_id": start, "forced_eos_token_id": None}
        ids |= {"is_encoder_decoder": True}
    return ids


def _write_tokenizer(folder, tokenizer):
    if not isinstance(tokenizer, PretrainedTokenizer):
        path = folder / "tokenizer.json"
        tokenizer.save(path)
        try:
            engine = Engine.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            kind = type(tokenizer).__name__
            raise ValueError(
                f"tokenizer must be one of subwords, which others can read; received a {kind}."
            ) from error
        names = ("padding_id", "begin_id", "end_id", "unknown_id")
        tokenizer = PretrainedTokenizer(engine, **{name: getattr(tokenizer, name) for name in names})
    tokenizer.save(folder)
