"""From a checkpoint's config.json to the arguments of our model, and back."""

import keras

from companion.checkpoint_families import ACTIVATIONS, FAMILIES, MARIAN, REQUIRED, Family
from companion.weight_maps import blocks


def family_of(config: dict) -> tuple[str, Family]:
    """The family that a config names, and its name.

    Raises:
        ValueError: It is none of ours, or the config asks for what our models do not compute.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"model_type must be one of {', '.join(FAMILIES)}; the checkpoint's is {name!r}.")
    family = FAMILIES[name]
    for architecture in config.get("architectures") or []:
        if architecture not in family.architectures:
            known = ", ".join(family.architectures)
            raise ValueError(f"architectures must be one of {known}; the checkpoint's is {architecture!r}.")
    for field, allowed in family.fixed.items():
        if config.get(field) is not None and config[field] not in allowed:
            raise ValueError(f"{field} must be {allowed[0]} in a {name} model; received {config[field]!r}.")
    return name, family


def arguments(name: str, config: dict, tensors: dict) -> dict:
    """The arguments that make our model as a config says.

    Args:
        name: Of the family.
        config: What config.json holds.
        tensors: The checkpoint's tensors by name, without prefix: heads are told by theirs.
    Raises:
        ValueError: A field is missing, or of the wrong kind.
    """
    found = {field.argument: _read(field, config) for field in FAMILIES[name].fields}
    heads = set(config.get("architectures") or [])
    if name == "gpt2":
        found["hidden_dim"] = found["hidden_dim"] or 4 * found["model_dim"]
    elif name == "bert":
        found["pooler"] = "BertForPreTraining" in heads or any(x.startswith("pooler.") for x in tensors)
        found["masked_lm"] = bool(heads & {"BertForPreTraining", "BertForMaskedLM"}) or any(
            x.startswith("cls.predictions.") for x in tensors
        )
    elif name == "t5":
        kind = config.get("feed_forward_proj", "relu")
        inner = "gelu_new" if kind == "gated-gelu" else str(kind).removeprefix("gated-")
        found["gated"] = str(kind).startswith("gated-")
        found["activation"] = _activation("feed_forward_proj", inner)
        found["tied"] = config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
    else:
        found |= MARIAN | {"target_vocabulary_size": found["source_vocabulary_size"]}
        size = config.get("decoder_vocab_size")
        if size not in (None, found["source_vocabulary_size"]):
            raise ValueError(f"decoder_vocab_size must be vocab_size in a marian model; received {size!r}.")
    return found


def _read(field, config):
    value = config.get(field.name, field.default)
    if value is REQUIRED:
        raise ValueError(f"config.json must have {field.name}; it does not.")
    if field.argument == "activation":
        return _activation(field.name, value)
    if value is None and field.default is None:
        return None
    kinds = {bool: (bool,), float: (float, int)}.get(type(field.default), (int,))
    if not isinstance(value, kinds) or isinstance(value, bool) != (kinds == (bool,)) or value < 0:
        raise ValueError(f"{field.name} must be a {kinds[0].__name__} in config.json; received {value!r}.")
    return value


def _activation(name, value):
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ValueError(f"{name} must be one of {', '.join(ACTIVATIONS)}; received {value!r}.")
    return ACTIVATIONS[value]


def describe(model: keras.Model) -> tuple[str, dict]:
    """The family of one of our models, and its config, read from its layers.

    Args:
        model: From `gpt`, `bert`, `t5`, or from `transformer` as Marian's are.
    Raises:
        ValueError: No family has such models.
    """
    name = {family.builder.__name__: name for name, family in FAMILIES.items()}.get(model.name)
    layers = {layer.name: layer for layer in model.layers}
    if name is None or "embedding" not in layers or not any(blocks(model, x) for x in ("encoder", "decoder")):
        raise ValueError(
            "model must be from gpt, bert, t5, or from transformer with shared=True; "
            f"received {model.name!r} with the layers {', '.join(layers)}."
        )
    found = _settings(model, layers)
    for argument, value in (MARIAN if name == "marian" else {"norm_first": name != "bert"}).items():
        if found.get(argument, value) != value:
            raise ValueError(
                f"{argument} must be {value!r} to save a {model.name} as a {name} checkpoint; "
                f"received {found[argument]!r}."
            )
    family = FAMILIES[name]
    config = {"model_type": name, "architectures": [family.architectures[-1]], "dtype": "float32"}
    config |= {theirs: allowed[0] for theirs, allowed in family.fixed.items()}
    config |= {theirs: found[argument] for theirs, argument in family.also.items()}
    config |= {field.name: found[field.argument] for field in family.fields}
    return name, config | _of_family(name, found, layers)


def _settings(model, layers):
    """The arguments of all our models at once, as far as this one has them."""
    sides = [side for side in (blocks(model, "encoder"), blocks(model, "decoder")) if side]
    first, last, embedding = sides[0][0], sides[-1][0], layers["embedding"]
    attention, last_attention = _attention(first), _attention(last)
    found = {
        "vocabulary_size": embedding.vocabulary_size,
        "source_vocabulary_size": embedding.vocabulary_size,
        "max_length": embedding.max_length,
        "positions": embedding.positions,
        "scaled": embedding.scaled,
        "model_dim": embedding.model_dim,
        "num_heads": attention.num_heads,
        "head_dim": attention.head_dim,
        "hidden_dim": first.feed_forward.hidden.units,
        "num_layers": len(sides[0]),
        "decoder_num_heads": last_attention.num_heads,
        "decoder_hidden_dim": last.feed_forward.hidden.units,
        "num_decoder_layers": len(sides[-1]),
        "dropout": first.dropout.rate,
        "norm_first": first.norm_first,
        "epsilon": first.feed_forward_norm.epsilon,
        "gated": first.feed_forward.gate is not None,
        "padding_id": _padding_id(model),
    }
    activation = first.get_config().get("activation", "relu")
    names = [theirs for theirs, ours in ACTIVATIONS.items() if ours == activation]
    if not names:
        raise ValueError(f"activation must be one of {set(ACTIVATIONS.values())}; received {activation!r}.")
    found["activation"] = names[0]
    if "segment_embedding" in layers:
        found["num_segments"] = layers["segment_embedding"].input_dim
    if "encoder_position_bias" in layers:
        bias = layers["encoder_position_bias"]
        found |= {"num_buckets": bias.num_buckets, "max_distance": bias.max_distance}
    return found


def _of_family(name, found, layers):
    if name == "bert" and "masked_lm_transform" not in layers:
        return {"architectures": ["BertModel"]}
    if name != "t5":
        return {}
    activation = found["activation"]
    if found["gated"]:
        if activation == "gelu":
            raise ValueError("activation must be 'gelu_tanh' in a gated T5; received 'gelu'.")
        activation = "gated-" + {"gelu_new": "gelu"}.get(activation, activation)
    return {"feed_forward_proj": activation, "tie_word_embeddings": "logits" not in layers}


def _attention(block):
    return block.attention if hasattr(block, "attention") else block.self_attention


def _padding_id(model):
    """What the model's masks compare tokens with; None if it has none."""
    compared = [operation for operation in model.operations if type(operation).__name__ == "NotEqual"]
    return int(compared[0]._inbound_nodes[0].arguments.args[1]) if compared else None
