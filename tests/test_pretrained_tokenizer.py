"""Tokenizers of checkpoints: templates, ids, files, SentencePiece, and parity with transformers."""

import json
import struct

import numpy as np
import pytest
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from companion import bert, generate, gpt, t5, transformer
from companion.pretrained import load_pretrained, save_pretrained
from companion.pretrained_tokenizer import PretrainedTokenizer
from companion.sentencepiece_files import SentencePieceTokenizer, read_sentencepiece
from companion.tokenizer import Tokenizer

pytestmark = pytest.mark.backend

ENGLISH = [
    "the cat sat on the mat",
    "a dog sat on a log",
    "cats and dogs, 12 of them",
    "The mat is on a log!",
]
CHINESE = ["我喜欢这本书", "这本书是我的", "你喜欢这只猫吗?", "猫坐在垫子上。"]
TEXTS = [
    *ENGLISH,
    *CHINESE,
    "",
    " a  b ",
    "naïve ①全角ＡＢＣ",
    "emoji 😀😀 한국어",
    "tab\tand\nnewline 猫 cat",
]


def wordpiece():
    engine = Engine(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer, engine.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    engine.train_from_iterator(
        ENGLISH + CHINESE,
        trainers.WordPieceTrainer(vocab_size=120, special_tokens=specials, show_progress=False),
    )
    engine.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    return engine


def byte_level():
    engine = Engine(models.BPE())
    engine.pre_tokenizer, engine.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    engine.train_from_iterator(ENGLISH + CHINESE, trainer)
    return engine


def unigram():
    engine = Engine(models.Unigram())
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    specials = ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    engine.train_from_iterator(ENGLISH + CHINESE, trainer)
    engine.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    return engine


ENGINES = {"bert": wordpiece, "gpt": byte_level, "t5": unigram}
IDS = {
    "bert": {"padding_id": 0, "unknown_id": 1, "mask_id": 4},
    "gpt": {"begin_id": 0, "end_id": 0},
    "t5": {"padding_id": 0, "begin_id": 0, "end_id": 1, "unknown_id": 2},
}
MODELS = {
    "bert": lambda size: bert(size, 16, 6, 3, 10, 1),
    "gpt": lambda size: gpt(size, 16, 6, 3, 10, 1),
    "t5": lambda size: t5(size, 6, 3, 10, 1),
}
each_kind = pytest.mark.parametrize("kind", ENGINES)


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: PretrainedTokenizer(make(), **IDS[kind]) for kind, make in ENGINES.items()}


@pytest.fixture(scope="module")
def folders(tokenizers, tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    for kind, tokenizer in tokenizers.items():
        save_pretrained(root / kind, MODELS[kind](tokenizer.vocabulary_size), tokenizer)
    return {kind: root / kind for kind in tokenizers}


def test_the_template_of_the_checkpoint_is_added(tokenizers):
    ids = {kind: tokenizer.encode("the cat") for kind, tokenizer in tokenizers.items()}
    assert ids["bert"][0] == 2 and ids["bert"][-1] == 3
    assert ids["t5"][-1] == 1 and 0 not in ids["gpt"]
    assert tokenizers["gpt"].encode("the cat", begin=True, end=True) == [0, *ids["gpt"], 0]
    assert tokenizers["t5"].encode("the cat", end=True) == ids["t5"]
    assert tokenizers["t5"].encode("the cat", begin=True) == [0, *ids["t5"]]
    assert tokenizers["bert"].tokens(tokenizers["bert"].encode("the cat")) == ["[CLS]", "the", "cat", "[SEP]"]
    with pytest.raises(ValueError, match="no end_id to put; received end=True"):
        tokenizers["bert"].encode("the cat", end=True)


@each_kind
def test_batches_are_padded_and_cut_on_the_right(kind, tokenizers):
    tokenizer = tokenizers[kind]
    rows = [tokenizer.encode(text) for text in TEXTS]
    whole = tokenizer.encode_batch(TEXTS)
    assert whole.shape == (len(TEXTS), max(map(len, rows))) and whole.dtype == np.int32
    short = tokenizer.encode_batch(TEXTS, length=5)
    added = len(tokenizer.encode(""))
    for row, line, cut in zip(rows, whole, short, strict=True):
        assert line.tolist() == row + [tokenizer.padding_id] * (len(line) - len(row))
        if len(row) > 5:
            last = row[len(row) - added + (kind == "bert") :]
            assert cut.tolist() == row[: 5 - len(last)] + last
    assert tokenizer.encode(TEXTS[0]) == rows[0]  # nothing is cut any more
    ended = tokenizers["gpt"].encode_batch(TEXTS, length=4, begin=True, end=True)
    assert (ended[:4, 0] == 0).all() and (ended[:4, 3] == 0).all() and (ended[:4, 1:3] > 0).all()
    with pytest.raises(
        ValueError, match=f"length must be above {added}, for what is added; received {added}"
    ):
        tokenizer.encode_batch(TEXTS, length=added)
    with pytest.raises(TypeError, match="texts must be a collection"):
        tokenizer.encode_batch("the cat")
    assert tokenizer.encode_batch([]).shape == (0, 1)


def test_pairs_have_segments(tokenizers):
    tokenizer = tokenizers["bert"]
    ids, segments = tokenizer.encode_pair("the cat", "猫")
    first, second = tokenizer.encode("the cat"), tokenizer.encode("猫")
    assert ids == first + second[1:] and segments == [0] * len(first) + [1] * (len(second) - 1)
    tokens, segments = tokenizer.encode_pair_batch(ENGLISH, CHINESE, length=8)
    assert tokens.shape == segments.shape == (4, 8)
    assert (tokens[:, 0] == 2).all() and (tokens == 3).sum(axis=1).tolist() == [2] * 4
    assert (np.diff(segments, axis=1) >= 0).all() and segments.max() == 1
    tokens, segments = tokenizer.encode_pair_batch(["a", "the cat"], ["a", "猫 猫 猫"])
    assert tokens[0, 5:].tolist() == segments[0, 5:].tolist() == [0, 0, 0]


@each_kind
def test_decoding_leaves_out_special_tokens(kind, tokenizers):
    tokenizer = tokenizers[kind]
    for text in ENGLISH[:3] + CHINESE[:2]:
        decoded = tokenizer.decode(tokenizer.encode(text))
        assert decoded.replace(" ", "") == text.replace(" ", "")
    assert tokenizer.decode_batch(tokenizer.encode_batch(ENGLISH[:2])) == ENGLISH[:2]
    with pytest.raises(ValueError, match=r"ids must be in \[0, vocabulary_size"):
        tokenizer.decode([tokenizer.vocabulary_size])


@each_kind
def test_every_id_has_a_printable_name(kind, tokenizers):
    names = tokenizers[kind].tokens(range(tokenizers[kind].vocabulary_size))
    assert all(name and name.isprintable() and " " not in name for name in names)
    assert {"bert": "##t", "gpt": "␣the", "t5": "␣the"}[kind] in names or kind == "t5"
    if kind == "gpt":
        assert "".join(tokenizers[kind].tokens(tokenizers[kind].encode("the cat 12"))) == "the␣cat␣12"


@each_kind
def test_checkpoints_bring_their_tokenizer(kind, tokenizers, folders):
    _, loaded = load_pretrained(folders[kind])
    assert isinstance(loaded, Tokenizer)
    for name in ("padding_id", "begin_id", "end_id", "unknown_id", "mask_id", "vocabulary_size"):
        assert getattr(loaded, name) == getattr(tokenizers[kind], name), name
    for text in TEXTS:
        assert loaded.encode(text) == tokenizers[kind].encode(text)
    assert load_pretrained(folders[kind], tokenizer=False)[1] is None


def test_ids_come_from_the_configs_or_from_the_names_of_the_tokens(tokenizers, tmp_path):
    tokenizers["t5"].save(tmp_path)
    assert PretrainedTokenizer.load(tmp_path).end_id == 1

    def ids(config=(), generation=(), names=None):
        for file, fields in {
            "config": config,
            "generation_config": generation,
            "tokenizer_config": names,
        }.items():
            (tmp_path / f"{file}.json").write_text(json.dumps(dict(fields or {})))
        loaded = PretrainedTokenizer.load(tmp_path)
        return loaded.padding_id, loaded.begin_id, loaded.end_id

    assert ids() == (0, None, None)
    assert ids({"eos_token_id": 7}) == (7, None, 7)  # the end's serves as padding
    assert ids({"eos_token_id": 7, "pad_token_id": 5}, {"eos_token_id": [6, 7]}) == (5, None, 6)
    assert ids({"is_encoder_decoder": True, "pad_token_id": 4}) == (4, 4, None)
    assert ids({"is_encoder_decoder": True, "decoder_start_token_id": 9}) == (0, 9, None)
    assert ids({"bos_token_id": 3, "pad_token_id": None}, (), {"pad_token": "<unk>"}) == (2, 3, None)
    assert ids((), (), {"eos_token": {"content": "</s>"}, "bos_token": "<s>"}) == (1, None, 1)


def test_a_tokenizer_that_does_not_fit_is_refused(tokenizers, folders, tmp_path):
    def refused(model, tokenizer, message):
        with pytest.raises(ValueError, match=message):
            save_pretrained(tmp_path / "new", model, tokenizer)
        assert not (tmp_path / "new").exists()

    size = tokenizers["t5"].vocabulary_size
    refused(t5(size - 1, 6, 3, 10, 1), tokenizers["t5"], f"at most the model's {size - 1} ids; it has {size}")
    refused(t5(size, 6, 3, 10, 1, padding_id=2), tokenizers["t5"], "the model's padding_id=2; it has 0")

    class Words(Tokenizer):
        vocabulary_size = 5

        def _to_json(self):
            return '{"format": "words"}'

    refused(t5(size, 6, 3, 10, 1), Words(), "tokenizer must be one of subwords.*; received a Words")
    (folders["t5"] / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer.json is damaged"):
        load_pretrained(folders["t5"])
    (folders["t5"] / "tokenizer.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"must have a tokenizer\.json.*save_pretrained.*tokenizer=False"
    ):
        load_pretrained(folders["t5"])
    tokenizers["t5"].save(folders["t5"])
    load_pretrained(folders["t5"])


def test_our_own_subwords_are_written_too(tmp_path):
    text = pytest.importorskip("companion.text", exc_type=ImportError)
    subwords = text.SubwordTokenizer.train(ENGLISH + CHINESE, vocabulary_size=300)
    save_pretrained(tmp_path / "gpt", gpt(subwords.vocabulary_size, 16, 6, 3, 10, 1), subwords)
    _, loaded = load_pretrained(tmp_path / "gpt")
    for line in TEXTS:
        assert loaded.encode(line) == subwords.encode(line)
        assert loaded.decode(loaded.encode(line, begin=True, end=True)) == line
    assert (loaded.padding_id, loaded.begin_id, loaded.end_id, loaded.unknown_id) == (0, 2, 3, 1)


PIECES = [
    ("</s>", 0.0, 3),
    ("<unk>", 0.0, 2),
    ("▁", -3.0, 1),
    ("▁ab", -1.0, 1),
    ("a", -4.0, 1),
    ("b", -4.0, 1),
]
PIECES += [("c", -5.0, 1), ("▁a", -2.5, 1), ("猫", -6.0, 1)]


def message(*fields):
    """A protocol buffer's message, of numbers, floats, texts and bytes."""
    encoded = b""
    for number, value in fields:
        if isinstance(value, float):
            encoded += bytes([number << 3 | 5]) + struct.pack("<f", value)
        elif isinstance(value, int):
            encoded += bytes([number << 3, value])
        else:
            value = value.encode() if isinstance(value, str) else value
            encoded += bytes([number << 3 | 2, len(value) & 127 | 128, len(value) >> 7]) + value
    return encoded


def sentencepiece(pieces=PIECES, trained=(), normalized=((1, "identity"),)):
    fields = [(1, message((1, text), (2, score), (3, kind))) for text, score, kind in pieces]
    return message(*fields, (2, message(*trained)), (3, message(*normalized)))


@pytest.fixture
def translation(tmp_path):
    (tmp_path / "source.spm").write_bytes(sentencepiece())
    (tmp_path / "target.spm").write_bytes(sentencepiece([*PIECES[:2], ("▁", -1.0, 1), ("a", -1.0, 1)]))
    pieces = ["</s>", "<unk>", "▁", "▁ab", "a", "b", "▁a", "猫", "c", ">>zh<<", "<pad>"]
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    config = {"pad_token_id": 10, "eos_token_id": 0, "decoder_start_token_id": 10, "is_encoder_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return SentencePieceTokenizer.load(tmp_path)


def test_sentencepiece_takes_the_likeliest_pieces(translation):
    names = lambda text, side: side.tokens(side.encode(text))  # noqa: E731
    assert names("ab", translation) == ["␣ab", "</s>"]
    assert names("  ab   a ", translation) == ["␣ab", "␣a", "</s>"]  # -1 beats -2.5 - 4; spaces are trimmed
    assert names("ab c", translation) == ["␣ab", "␣", "c", "</s>"]
    assert names("ab", translation.target) == [
        "␣",
        "a",
        "b",
        "</s>",
    ]  # not a piece there, but in the vocabulary
    assert translation.encode("aXYa") == [6, 1, 4, 0]  # unknown characters are one token
    assert translation.encode("") == [0]
    assert translation.encode(">>zh<< ab") == [9, 3, 0]
    assert translation.encode(">>zh ab")[0] != 9 and translation.encode(">>de<<") == [1, 0]
    assert translation.encode("</s>") == [2, 1, 0]  # what is written out stays text
    assert translation.encode("ab", begin=True, end=True) == [10, 3, 0]
    np.testing.assert_array_equal(
        translation.encode_batch(["ab c a", "ab"], length=3), [[3, 2, 0], [3, 0, 10]]
    )
    with pytest.raises(ValueError, match="length must be above 1"):
        translation.encode_batch(["ab"], length=1)
    assert translation.decode([10, 3, 6, 7, 1, 0, 10]) == "ab a猫"
    assert translation.vocabulary_size == 11
    assert (translation.padding_id, translation.begin_id, translation.end_id) == (10, 10, 0)
    with pytest.raises(ValueError, match="a translation model reads one text"):
        translation.encode_pair("a", "b")


def test_sentencepiece_is_written_as_it_was_read(translation, tmp_path):
    translation.save(tmp_path / "again")
    for name in ("source.spm", "target.spm", "vocab.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    again = SentencePieceTokenizer.load(tmp_path / "again")
    assert again.encode(">>zh<< ab猫") == translation.encode(">>zh<< ab猫") and again.padding_id == 10


def test_a_translation_model_brings_its_sentencepiece(translation, tmp_path):
    marian = {"shared": True, "norm_first": False, "epsilon": 1e-5, "positions": "sinusoidal_halves"}
    model = transformer(11, 11, 16, 6, 3, 10, 1, padding_id=10, **marian)
    save_pretrained(tmp_path / "new", model, translation)
    loaded, tokenizer = load_pretrained(tmp_path / "new")
    assert type(tokenizer) is SentencePieceTokenizer and loaded.name == "transformer"
    assert tokenizer.target.encode("ab") == translation.target.encode("ab") != tokenizer.encode("ab")
    written = generate(loaded, ["ab c", "a"], max_length=5, tokenizer=tokenizer)
    assert written.shape[0] == 2 and all(isinstance(text, str) for text in tokenizer.decode_batch(written))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (sentencepiece(trained=[(3, 2)]), "must be a unigram model .*; it is of type 2"),
        (sentencepiece([*PIECES, ("<x>", 0.0, 4)]), "must hold no user-defined pieces and no bytes; .*4"),
        (sentencepiece(normalized=[(3, 0)]), "must prefix, trim and escape spaces"),
        (sentencepiece()[:-1], "source.spm is damaged"),
        (sentencepiece()[:40], "source.spm is damaged"),
        (b"\x0f", "source.spm is damaged"),
        (b"<html>", "source.spm is damaged"),
    ],
)
def test_other_sentencepiece_files_are_refused(content, problem, tmp_path):
    (tmp_path / "source.spm").write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        read_sentencepiece(tmp_path / "source.spm")


def test_a_damaged_vocabulary_is_refused(translation, tmp_path):
    for vocabulary in ({"a": 0}, {"<unk>": 0, "a": 0}, {"<unk>": 1}, {"<unk>": 0, "a": "1"}):
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        with pytest.raises(ValueError, match="must number its pieces from 0 on, <unk> among them"):
            SentencePieceTokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"<unk>": 0, "</s>": 1}))
    for ids in ({"pad_token_id": 2, "eos_token_id": 1}, {"pad_token_id": 1}):
        (tmp_path / "config.json").write_text(json.dumps(ids))
        with pytest.raises(
            ValueError, match="must name an eos_token_id and a pad_token_id of its vocab.json"
        ):
            SentencePieceTokenizer.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": "2"}))
    with pytest.raises(ValueError, match="pad_token_id must be an int in .*config.json; received '2'"):
        SentencePieceTokenizer.load(tmp_path)


@each_kind
def test_parity_with_transformers(kind, tokenizers, folders):
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folders[kind] / "tokenizer.json"))
    for theirs in (fast, transformers.AutoTokenizer.from_pretrained(folders[kind])):
        for text in TEXTS:
            ids = tokenizers[kind].encode(text)
            assert theirs(text)["input_ids"] == ids, text
            assert theirs.decode(ids, skip_special_tokens=True) == tokenizers[kind].decode(ids)
    if kind == "bert":
        pair = fast("the cat", "猫", return_token_type_ids=True)
        assert tokenizers[kind].encode_pair("the cat", "猫") == (pair["input_ids"], pair["token_type_ids"])
    assert theirs.pad_token_id == IDS[kind].get("padding_id") and theirs.eos_token_id == IDS[kind].get(
        "end_id"
    )
    assert theirs.mask_token_id == IDS[kind].get("mask_id")


def test_parity_of_sentencepiece(tmp_path):
    transformers, trainer = pytest.importorskip("transformers"), pytest.importorskip("sentencepiece")
    pieces = ["</s>", "<unk>"]
    for name, lines, size in (("source", ENGLISH, 40), ("target", CHINESE, 34)):
        trainer.SentencePieceTrainer.train(
            sentence_iterator=iter(lines * 3),
            model_prefix=str(tmp_path / name),
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=0.98,
            bos_id=-1,
            eos_id=0,
            unk_id=1,
            minloglevel=2,
        )
        (tmp_path / f"{name}.model").rename(tmp_path / f"{name}.spm")
        model = trainer.SentencePieceProcessor(model_file=str(tmp_path / f"{name}.spm"))
        pieces += [model.id_to_piece(i) for i in range(2, model.vocab_size())]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, ">>zh<<", "<pad>"]))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    config = {"pad_token_id": len(vocabulary) - 1, "eos_token_id": 0, "is_encoder_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = SentencePieceTokenizer.load(tmp_path)
    ours.save(tmp_path / "again")
    files = [str(tmp_path / "again" / name) for name in ("source.spm", "target.spm", "vocab.json")]
    theirs = transformers.MarianTokenizer(*files)
    for text in [*TEXTS, ">>zh<< the cat", ">>xx<< a"]:
        assert ours.encode(text) == theirs(text)["input_ids"], text
        assert ours.target.encode(text) == theirs(text_target=text)["input_ids"], text
        ids = ours.target.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
