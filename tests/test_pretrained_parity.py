"""Parity with transformers, both ways: hidden states, logits and generated tokens of tiny checkpoints."""

import keras
import numpy as np
import pytest

from companion import bert, generate, gpt, t5, transformer
from companion.pretrained import load_pretrained, save_pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.backend

TOLERANCE = 2e-5
VOCABULARY, PADDING, END = 53, 0, 1
GPT2 = {"vocab_size": VOCABULARY, "n_positions": 29, "n_embd": 21, "n_layer": 3, "n_head": 3, "n_inner": 31}
GPT2 |= {"bos_token_id": 2, "eos_token_id": END}
BERT = {"vocab_size": VOCABULARY, "hidden_size": 21, "num_hidden_layers": 3, "num_attention_heads": 3}
BERT |= {"intermediate_size": 31, "max_position_embeddings": 29, "type_vocab_size": 3}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 21,
    "d_kv": 5,
    "d_ff": 31,
    "num_layers": 2,
    "num_decoder_layers": 3,
}
T5 |= {"num_heads": 3, "relative_attention_num_buckets": 12, "relative_attention_max_distance": 17}
T5 |= {"decoder_start_token_id": PADDING}
MARIAN = {"vocab_size": VOCABULARY, "max_position_embeddings": 29, "d_model": 18, "encoder_layers": 2}
MARIAN |= {"encoder_ffn_dim": 31, "encoder_attention_heads": 3, "decoder_layers": 3, "decoder_ffn_dim": 23}
MARIAN |= {
    "decoder_attention_heads": 2,
    "pad_token_id": 52,
    "eos_token_id": END,
    "decoder_start_token_id": 52,
}
MARIAN |= {"forced_eos_token_id": None, "activation_function": "swish", "scale_embedding": True}

# name: the class, the config, and the layers whose outputs are its hidden states
CASES = {
    "gpt2": ("GPT2LMHeadModel", GPT2, ["decoder_norm"]),
    "gpt2 bare": ("GPT2Model", GPT2, ["decoder_norm"]),
    "gpt2 relu": (
        "GPT2LMHeadModel",
        GPT2 | {"activation_function": "relu", "n_inner": None},
        ["decoder_norm"],
    ),
    "bert": ("BertForPreTraining", BERT, ["encoder_2"]),
    "bert masked": ("BertForMaskedLM", BERT | {"hidden_act": "gelu_new"}, ["encoder_2"]),
    "bert bare": ("BertModel", BERT | {"hidden_act": "relu", "pad_token_id": 3}, ["encoder_2"]),
    "t5": ("T5ForConditionalGeneration", T5, ["encoder_norm", "decoder_norm"]),
    "t5 v1.1": (
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        ["encoder_norm", "decoder_norm"],
    ),
    "t5 v1.1 tied": (
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_kv": 7},
        ["encoder_norm", "decoder_norm"],
    ),
    "marian": ("MarianMTModel", MARIAN, ["encoder_1", "decoder_2"]),
    "marian relu": (
        "MarianMTModel",
        MARIAN | {"activation_function": "relu", "scale_embedding": False},
        ["encoder_1", "decoder_2"],
    ),
    "marian gelu": ("MarianMTModel", MARIAN | {"activation_function": "gelu"}, ["encoder_1", "decoder_2"]),
}
LENGTHS = [23, 9, 1, 14]
each_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def made(name, scale=0.15):
    """A random model of transformers, its matrices with this standard deviation."""
    kind, config, _ = CASES[name]
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    theirs = cls(cls.config_class(**config)).eval()
    if name == "t5 v1.1":  # as the published ones: an output layer of its own
        theirs.lm_head.weight = torch.nn.Parameter(theirs.lm_head.weight.clone())
        theirs.all_tied_weights_keys.pop("lm_head.weight")
    for key, weight in theirs.state_dict(keep_vars=True).items():
        if "embed_positions" not in key and weight.is_floating_point():
            weight.data.copy_(torch.randn(weight.shape) * (scale if weight.ndim == 2 else 0.3))
            if weight.ndim == 1 and key.endswith(
                "weight"
            ):  # of either sign: or else tokens repeat themselves
                weight.data += torch.randn(weight.shape).sign()
    return theirs


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """For each case their model, ours, and the folder."""
    cache = {}

    def load(name):
        if name not in cache:
            folder = tmp_path_factory.mktemp("checkpoint")
            theirs = made(name)
            theirs.save_pretrained(folder)
            cache[name] = theirs, load_pretrained(folder, tokenizer=False)[0], folder
        return cache[name]

    return load


def padded(padding_id, seed=0):
    """(B, S) tokens of different lengths, and which are real."""
    tokens = np.random.default_rng(seed).integers(4, 50, (len(LENGTHS), max(LENGTHS)))
    real = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    return np.where(real, tokens, padding_id).astype("int32"), real


def theirs_of(name, model):
    """What transformers computes; which tokens are real; the inputs for ours."""
    config = model.config
    tokens, real = padded(getattr(config, "pad_token_id", None) or 0)
    given = {"attention_mask": torch.tensor(real.astype("int64")), "output_hidden_states": True}
    long = {"input_ids": torch.tensor(tokens, dtype=torch.long)}
    if config.is_encoder_decoder:
        target = np.random.default_rng(1).integers(4, 50, (len(LENGTHS), 11)).astype("int32")
        long["decoder_input_ids"] = torch.tensor(target, dtype=torch.long)
        inputs = [tokens, target]
    elif name.startswith("bert"):
        kinds = config.type_vocab_size
        segments = np.random.default_rng(1).integers(0, kinds, tokens.shape).astype("int32")
        long["token_type_ids"] = torch.tensor(segments, dtype=torch.long)
        inputs = [tokens, segments]
    else:
        inputs = tokens
    with torch.no_grad():
        return model(**long, **given), real, inputs


def arrays(x):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, x)


@each_case
def test_hidden_states_and_logits(name, loaded):
    theirs, ours, _ = loaded(name)
    expected, real, inputs = theirs_of(name, theirs)
    hidden = arrays(keras.Model(ours.input, [ours.get_layer(x).output for x in CASES[name][2]])(inputs))
    hidden, logits = keras.tree.flatten(hidden), keras.tree.flatten(arrays(ours(inputs)))
    if theirs.config.is_encoder_decoder:
        assert np.abs(expected.encoder_last_hidden_state.numpy() - hidden[0])[real].max() <= TOLERANCE
        assert np.abs(expected.decoder_hidden_states[-1].numpy() - hidden[1]).max() <= TOLERANCE
        real = np.ones((len(LENGTHS), 11), bool)
    else:
        assert np.abs(expected.hidden_states[-1].numpy() - hidden[0])[real].max() <= TOLERANCE
    scores = getattr(expected, "prediction_logits", None)
    scores = getattr(expected, "logits", None) if scores is None else scores
    if scores is not None:
        assert scores.abs().max() > 0.3  # or else the tolerance would mean little
        assert np.abs(scores.numpy() - logits[-1])[real].max() <= TOLERANCE
    if name == "bert":
        with torch.no_grad():
            tokens, segments = (torch.tensor(x, dtype=torch.long) for x in inputs)
            mask = {"attention_mask": (tokens != 0).long(), "token_type_ids": segments}
            pooled = theirs.bert(tokens, **mask).pooler_output
        assert np.abs(pooled.numpy() - logits[1]).max() <= TOLERANCE
    assert len(logits) == {"bert": 3, "bert masked": 2, "bert bare": 2}.get(name, 1)


@each_case
def test_what_we_write_transformers_reads_without_a_difference(name, loaded, tmp_path):
    theirs, ours, _ = loaded(name)
    save_pretrained(tmp_path / "new", ours, max_shard_size=4000)
    again, report = type(theirs).from_pretrained(tmp_path / "new", output_loading_info=True)
    missing = {key for key in report["missing_keys"] if "seq_relationship" not in key}
    assert not missing and not report["mismatched_keys"]
    assert all("pooler" in key or "cls." in key for key in report["unexpected_keys"])
    before = theirs.state_dict()
    for key, weight in again.state_dict().items():
        if "seq_relationship" not in key:
            torch.testing.assert_close(weight, before[key], rtol=0, atol=0)
    expected, actual = theirs_of(name, theirs)[0], theirs_of(name, again.eval())[0]
    for key in {"logits", "last_hidden_state", "prediction_logits", "pooler_output"} & expected.keys():
        torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=1e-6)


OURS = {
    "gpt": (lambda: gpt(VOCABULARY, 29, 12, 3, 20, 2, activation="silu"), "AutoModelForCausalLM"),
    "bert": (lambda: bert(VOCABULARY, 29, 12, 3, 20, 2, epsilon=1e-6), "AutoModelForMaskedLM"),
    "t5": (lambda: t5(VOCABULARY, 12, 3, 20, 2, 1, head_dim=5), "AutoModelForSeq2SeqLM"),
    "t5 v1.1": (
        lambda: t5(VOCABULARY, 12, 3, 20, 2, activation="gelu_tanh", gated=True, tied=False),
        "AutoModelForSeq2SeqLM",
    ),
    "marian": (
        lambda: transformer(
            *(VOCABULARY, VOCABULARY, 29, 12, 3, 20, 2),
            norm_first=False,
            positions="sinusoidal_halves",
            epsilon=1e-5,
            shared=True,
        ),
        "AutoModelForSeq2SeqLM",
    ),
}


@pytest.mark.parametrize("name", OURS)
def test_models_that_we_made_compute_the_same_in_transformers(name, randomized, tmp_path):
    make, kind = OURS[name]
    ours = randomized(make())
    save_pretrained(tmp_path / "new", ours)
    theirs, report = getattr(transformers, kind).from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    expected, real, inputs = theirs_of(name, theirs.eval())
    actual = keras.tree.flatten(arrays(ours(inputs)))[-1]
    real = np.ones(actual.shape[:2], bool) if theirs.config.is_encoder_decoder else real
    assert np.abs(actual - expected.logits.numpy())[real].max() <= TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "t5", "t5 v1.1", "marian"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_and_shards_of_transformers_are_read(name, dtype, loaded, tmp_path):
    theirs = made(name).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    ours, _ = load_pretrained(tmp_path, tokenizer=False)
    theirs = type(theirs).from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected, real, inputs = theirs_of(name, theirs)
    actual = arrays(ours(inputs))
    real = np.ones(actual.shape[:2], bool) if theirs.config.is_encoder_decoder else real
    assert np.abs(actual - expected.logits.numpy())[real].max() <= TOLERANCE


SCALES = {"gpt2": 0.5, "t5": 0.5, "t5 v1.1": 0.3, "marian": 0.15}  # with which the tokens vary
SETTINGS = {
    "greedy": {"strategy": "greedy"},
    "beam": {"strategy": "beam", "beam_size": 4, "length_penalty": 1.0},
    "beam, short": {"strategy": "beam", "beam_size": 3, "length_penalty": -0.7},
}


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    """Their model and ours, with layers that matter to the tokens; prompts, and what follows them."""
    cache = {}

    def get(name):
        if name not in cache:
            theirs, folder = made(name, SCALES[name]), tmp_path_factory.mktemp("writer")
            theirs.save_pretrained(folder)
            generator = np.random.default_rng(2)
            rows = [generator.integers(4, 50, length).tolist() for length in (14, 9, 1, 12)]
            ours, _ = load_pretrained(folder, tokenizer=False)
            cache[name] = theirs, ours, rows, written(theirs, rows, 51)
        return cache[name]

    return get


def written(theirs, rows, end_id, beam_size=1, length_penalty=1.0, **_):
    """What transformers writes: for padded sources, or for prompts one by one (it would pad them left)."""
    padding_id = theirs.config.pad_token_id or PADDING
    asked = {
        "max_new_tokens": 12,
        "do_sample": False,
        "num_beams": beam_size,
        "length_penalty": length_penalty,
    }
    asked |= {"early_stopping": False, "pad_token_id": padding_id, "eos_token_id": end_id}
    asked["use_cache"] = theirs.config.model_type != "t5"  # which takes as many blocks in decoder and encoder
    if not theirs.config.is_encoder_decoder:
        return [theirs.generate(torch.tensor([row]), **asked)[0, len(row) :].tolist() for row in rows]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [padding_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return theirs.generate(tokens, attention_mask=mask, **asked)[:, 1:].tolist()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", SCALES)
def test_generated_tokens(name, settings, writers):
    theirs, ours, rows, endless = writers(name)
    assert len(set(np.ravel(endless))) > 4
    end_id = endless[0][4]  # so that at least one ends early
    expected = written(theirs, rows, end_id, **settings)
    padding_id = theirs.config.pad_token_id or PADDING
    special = {"end_id": end_id, "padding_id": padding_id, "begin_id": padding_id, "suppress_ids": ()}
    actual = generate(ours, rows, max_length=12, **special, **settings).tolist()
    cut = [row[: row.index(end_id) + 1] if end_id in row else row for row in expected]
    assert [row[: len(other)] for row, other in zip(actual, cut, strict=True)] == cut
    assert settings["strategy"] == "beam" or min(map(len, cut)) <= 5
