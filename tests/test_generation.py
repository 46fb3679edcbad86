"""Generation: cached as uncached, together as alone, streamed as whole; stop strings, compiling, weights."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from companion import generate, gpt, lstm_language_model, lstm_seq2seq, stream, t5, transformer
from companion.decoding import compiled
from companion.prompts import STRATEGIES

pytestmark = pytest.mark.backend
V, BEGIN, END = 12, 2, 3
PROMPTS = np.array([[5, 4, 8, 9, 6], [4, 7, 0, 0, 0], [9, 9, 4, 0, 0], [10, 1, 5, 8, 0]], "int32")
EVERYTHING = {"temperature": 1.5, "top_k": 8, "top_p": 0.95, "min_p": 0.01, "seed": 4}
EVERYTHING |= {"repetition_penalty": 1.2, "end_id": [3, 11], "length_penalty": 0.7, "max_length": 14}


@functools.cache
def model(name):
    """Random matrices, large enough for the targets to differ in tokens and in length."""
    made = {
        "gpt": lambda: gpt(V, 40, 8, 2, 16, 2),
        "t5": lambda: t5(V, 8, 2, 16, 2),
        "transformer": lambda: transformer(V, V, 40, 8, 2, 16, 2),
    }[name]()
    return with_random_matrices(made, 2)


def with_random_matrices(made, seed):
    generator = np.random.default_rng(seed)
    weights = made.get_weights()
    made.set_weights([generator.standard_normal(w.shape) if w.ndim > 1 else w for w in weights])
    return made


def chain(following):
    """A decoder-only model that writes token following[i] after token i."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    made = keras.Model(tokens, keras.layers.Embedding(len(following), len(following))(tokens))
    made.set_weights([np.eye(len(following), dtype="float32")[following]])
    return made


class Bytes:
    """Ids 4 and up are the bytes of UTF-8."""

    padding_id, unknown_id, begin_id, end_id = range(4)

    def encode(self, text):
        return [byte + 4 for byte in text.encode()]

    def decode(self, ids):
        return bytes(int(i) - 4 for i in ids if i > 3).decode("utf-8", "replace")


def writes(text):
    """A model that writes this text, in which no byte occurs twice."""
    ids = [BEGIN, *Bytes().encode(text), END]
    following = np.full(260, END)
    following[ids[:-1]] = ids[1:]
    return chain(following)


CASES = [("gpt", "greedy"), ("gpt", "sample"), ("gpt", "beam"), ("t5", "beam"), ("transformer", "sample")]


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_the_same_tokens_with_a_cache_and_without(name, strategy):
    write = functools.partial(generate, model(name), PROMPTS, strategy=strategy, **EVERYTHING)
    cached, uncached = write(), write(use_cache=False)
    np.testing.assert_array_equal(cached, uncached)
    assert cached.dtype == np.int32 and len({tuple(row) for row in cached.tolist()}) > 1  # prompts matter


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_prompts_of_different_lengths_are_answered_as_each_alone(name, strategy):
    write = functools.partial(generate, model(name), strategy=strategy, **EVERYTHING)
    together = write(PROMPTS)
    for i, row in enumerate(PROMPTS):
        alone = write([row[row > 0]] * 4)[i]  # as many rows: the same code, the same draws
        np.testing.assert_array_equal(np.trim_zeros(alone, "b"), np.trim_zeros(together[i], "b"))


@pytest.mark.parametrize(("name", "strategy"), [case for case in CASES if case[1] != "beam"])
def test_a_stream_gives_the_columns_of_the_whole(name, strategy):
    settings = {"strategy": strategy} | EVERYTHING
    columns = list(stream(model(name), PROMPTS, **settings))
    assert all(column.shape == (4,) for column in columns)
    np.testing.assert_array_equal(np.stack(columns, axis=1), generate(model(name), PROMPTS, **settings))


def test_rows_end_on_their_own_and_padding_follows():
    tokens = generate(model("gpt"), PROMPTS, strategy="sample", **EVERYTHING)
    ends = [next((i for i, token in enumerate(row) if token in (3, 11)), len(row)) for row in tokens]
    assert len(set(ends)) > 1
    for row, end in zip(tokens, ends, strict=True):
        assert (row[: end + 1] > 0).all() and (row[end + 1 :] == 0).all()


def test_a_longer_target_begins_as_the_shorter_one():
    settings = {"strategy": "sample", **EVERYTHING, "end_id": ()}
    longer, shorter = (generate(model("gpt"), PROMPTS, **settings | {"max_length": n}) for n in (14, 5))
    assert longer.shape == (4, 14)
    np.testing.assert_array_equal(longer[:, :5], shorter)


def test_a_seed_repeats_a_sample_and_another_changes_it():
    draw = functools.partial(
        generate, model("gpt"), PROMPTS, strategy="sample", **EVERYTHING | {"end_id": ()}
    )
    first = draw()
    np.random.seed(5)
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(draw(), first)  # no other generator has a part in it
    assert not np.array_equal(draw(seed=5), first)
    assert not np.array_equal(draw(seed=None), draw(seed=None))


@pytest.mark.parametrize("name", ["gpt", "t5"])
def test_prompts_without_tokens_are_answered(name):
    assert generate(model(name), [[], [5]], max_length=4).shape[0] == 2
    assert generate(model(name), np.zeros((0, 3), int), max_length=4).shape == (0, 0)
    assert list(stream(model(name), np.zeros((0, 3), int), max_length=4)) == []


# Texts


def test_a_stream_of_text_holds_back_what_is_not_yet_a_character():
    text = "aé你🙂!"
    pieces = list(stream(writes(text), "", max_length=20, tokenizer=Bytes(), use_cache=False))
    assert pieces == ["a", "é", "你", "🙂", "!"]
    cut = list(stream(writes(text), "", max_length=5, tokenizer=Bytes(), use_cache=False))
    assert cut == ["a", "é", "\ufffd"]  # two bytes of three; at the end they are shown


def test_texts_are_continued():
    tokens = generate(writes("bread"), ["br", "b"], tokenizer=Bytes(), use_cache=False)
    assert [Bytes().decode(row) for row in tokens] == ["ead", "read"]
    assert tokens.tolist()[0][-2:] == [END, 0]


@pytest.mark.parametrize(
    ("stops", "written"),
    [
        (["m"], "abcdefghijklm"),
        (["bc"], "abc"),
        (["hij", "ef", "z"], "abcdef"),
        (["gh"], "abcdefgh"),
        (["hi"], "abcdefghi"),
        (["ba"], "abcdefghijklmnopqrst"),
        (["a"], "a"),
        (["t"], "abcdefghijklmnopqrst"),
    ],
)
def test_stop_strings_end_a_text(stops, written):
    settings = {"tokenizer": Bytes(), "stop_strings": stops, "max_length": 20, "use_cache": False}
    made = alphabet()
    tokens = generate(made, [[BEGIN]], **settings)
    assert Bytes().decode(tokens[0]) == written and tokens.shape == (1, len(written))
    assert "".join(stream(made, "", **settings)) == written


@functools.cache
def alphabet():
    return writes("abcdefghijklmnopqrstuvwxyz")


def test_stop_strings_end_each_row_alone():
    settings = {"tokenizer": Bytes(), "max_length": 20, "use_cache": False}
    tokens = generate(alphabet(), ["a", "m", "w"], stop_strings=["de", "op"], **settings)
    assert [Bytes().decode(row) for row in tokens] == ["bcde", "nop", "xyz"]
    assert tokens.shape == (3, 4) and tokens[1].tolist()[-1] == 0 and tokens[2].tolist()[-1] == END


# Compilation and weights


def test_the_loop_is_compiled_once():
    made, seen = gpt(V, 200, 8, 2, 16, 1), []
    for settings in [
        {"seed": 1, "temperature": 0.5, "top_p": 0.9, "end_id": 3},
        {"seed": 2, "temperature": 2.0, "top_p": 0.5, "end_id": [4, 5], "max_length": 9},
        {"seed": 3, "begin_id": 4, "padding_id": 5, "suppress_ids": [6], "top_p": 0.1, "max_length": 20},
    ]:
        for prompts in (PROMPTS, [[5] * n for n in (9, 1, 12, 4)]):
            generate(made, prompts, strategy="sample", **{"max_length": 14} | settings)
            list(stream(made, prompts, strategy="sample", **{"max_length": 14} | settings))
    loops = [loop for key, loop in made._generation.items() if key != "decoder"]
    assert len(loops) == 2  # for the prompts, and for what is written
    if keras.backend.backend() == "tensorflow":
        seen = [loop.experimental_get_tracing_count() for loop in loops]
        assert seen == [1, 1]


def test_pytorch_keeps_nothing_for_a_gradient():
    if keras.backend.backend() != "torch":
        pytest.skip("the others record nothing unless they are asked to")
    import torch

    made = chain([1, 0])
    assert torch.is_grad_enabled()
    assert not compiled(made, lambda: made(np.array([[0, 1]])), fused=True)().requires_grad


@pytest.mark.parametrize("use_cache", [True, False])
def test_weights_changed_after_compilation_are_used(use_cache):
    made = gpt(V, 40, 8, 2, 16, 2)
    write = functools.partial(generate, made, PROMPTS, max_length=8, use_cache=use_cache)
    before = write()
    made.set_weights(model("gpt").get_weights())
    after = write()
    assert before.shape != after.shape or (before != after).any()
    np.testing.assert_array_equal(after, generate(model("gpt"), PROMPTS, max_length=8))


def test_adapters_added_after_compilation_are_used():
    made = gpt(V, 40, 8, 2, 16, 1)
    write = functools.partial(generate, made, PROMPTS, max_length=8, use_cache=False)
    before = write()
    layer = made.get_layer("decoder_0").feed_forward.output_projection
    layer.enable_lora(2)
    np.testing.assert_array_equal(write(), before)  # they begin with zeros
    layer.lora_kernel_b.assign(np.random.default_rng(0).standard_normal(layer.lora_kernel_b.shape) * 9)
    adapted = write()
    assert before.shape != adapted.shape or (before != adapted).any()


def test_training_after_generation_is_used(rng):
    """The model learns to answer with its source's first token."""
    made = transformer(V, V, 16, 16, 2, 32, 1, dropout=0.0)
    source = rng.integers(4, V, (64, 3)).astype("int32")
    target = np.stack([np.full(64, BEGIN), source[:, 0]], axis=1).astype("int32")
    labels = np.stack([source[:, 0], np.full(64, END)], axis=1).astype("int32")
    wrong = (generate(made, source, max_length=2)[:, :1] != labels[:, :1]).mean()
    made.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.fit({"source_tokens": source, "target_tokens": target}, labels, epochs=40, batch_size=64, verbose=0)
    np.testing.assert_array_equal(generate(made, source, max_length=2), labels)
    assert wrong > 0.5


def test_a_model_that_has_written_saves_and_loads(tmp_path):
    made = model("gpt")
    expected = generate(made, PROMPTS, max_length=6)
    made.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(generate(loaded, PROMPTS, max_length=6), expected)


@pytest.mark.parametrize(("policy", "strategy"), [("mixed_float16", "beam"), ("mixed_bfloat16", "sample")])
def test_half_precision_writes(policy, strategy, under_policy):
    with under_policy(policy):
        made = t5(V, 8, 2, 16, 1)
    tokens = generate(made, PROMPTS, max_length=5, strategy=strategy, seed=0)
    assert tokens.min() >= 0 and tokens.max() < V


# Any model, bad input


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("build", [lambda: lstm_seq2seq(V, V, 8, 8), lambda: lstm_language_model(V, 8, 8)])
def test_models_without_decoder_blocks_write_without_a_cache(build, strategy):
    made = with_random_matrices(build(), 1)
    tokens = generate(made, PROMPTS, max_length=6, strategy=strategy, seed=0, use_cache=False)
    assert tokens.shape[0] == 4 and 1 <= tokens.shape[1] <= 6
    if strategy == "greedy":
        prompt = PROMPTS[3:, :4]
        logits = made([prompt, np.array([[BEGIN]])] if len(made.inputs) == 2 else prompt)
        logits = ops.convert_to_numpy(logits)[0, -1].copy()
        logits[[0, BEGIN]] = -np.inf
        assert tokens[3, 0] == logits.argmax()


def test_a_stream_refuses_at_once():
    write = functools.partial(stream, model("gpt"), PROMPTS, max_length=8)
    with pytest.raises(
        ValueError, match=r"strategy must be greedy or sample in a stream; received .*'beam'\."
    ):
        write(strategy="beam")
    with pytest.raises(ValueError, match=r"temperature must be from 1e-30"):
        write(temperature=0)
    with pytest.raises(TypeError, match="heat"):
        write(heat=1)


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="model must be functional"):
        generate(keras.Sequential([keras.layers.Dense(2)]), PROMPTS)
