"""The command line: texts from arguments, files and standard input; exit codes; one-line errors."""

import io
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import companion
from companion import SubwordTokenizer, TextClassifier, commands, gpt, transformer
from companion.__main__ import main
from companion.applications import TextGenerator, Translator
from companion.saved_model import SavedModel

TEXTS = ["a good film", "我爱北京", "bad\tand \n dull"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "saved"
    texts, labels = (
        ["good film", "fine film", "bad film", "dull film"] * 3,
        ["good", "good", "bad", "bad"] * 3,
    )
    classifier = TextClassifier("lstm", min_count=1, max_length=5, model_dim=4, hidden_dim=4)
    classifier.fit(texts, labels, epochs=1, progress=False, validation_fraction=0.25)
    classifier.save(path)
    return path


@pytest.fixture
def scores(folder):
    classifier = TextClassifier.load(folder)
    return dict(
        zip(TEXTS, zip(classifier.predict(TEXTS), classifier.predict_proba(TEXTS), strict=True), strict=True)
    )


@pytest.fixture
def stdin(monkeypatch):
    return lambda content: monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def rows(capsys):
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


# predict


def test_predict_prints_label_probability_and_text(folder, scores, capsys):
    assert main(["predict", "--model", str(folder), *TEXTS]) == 0
    for (label, probability, text), (source, (expected, row)) in zip(
        rows(capsys), scores.items(), strict=True
    ):
        assert (label, text) == (expected, " ".join(source.split()))
        assert float(probability) == pytest.approx(row[["bad", "good"].index(label)], abs=1e-4)


def test_predict_scores_each_text_once(folder, monkeypatch):
    scored, score = [], TextClassifier.predict_proba

    def counting(self, texts):
        scored.extend(texts)
        return score(self, texts)

    monkeypatch.setattr(TextClassifier, "predict_proba", counting)
    assert main(["predict", "--model", str(folder), *TEXTS]) == 0
    assert scored == TEXTS


def test_a_damaged_model_is_an_error_and_no_traceback(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "copy")
    for damaged in ("null", '{"kind": "companion.TextClassifier", "version": 1, "sha256": [], "config": {}}'):
        (tmp_path / "copy" / "config.json").write_text(damaged, encoding="utf-8")
        assert main(["predict", "--model", str(tmp_path / "copy"), "text"]) == 1
        message = capsys.readouterr().err
        assert message.startswith("companion predict: ") and "damaged" in message


def test_predict_prints_json_lines(folder, scores, capsys):
    assert main(["predict", "--model", str(folder), "--format", "jsonl", *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, (text, (label, row)) in zip(lines, scores.items(), strict=True):
        fields = json.loads(line)
        assert (fields["text"], fields["label"]) == (text, label)
        assert fields["probability"] == fields["probabilities"][label]
        np.testing.assert_allclose(list(fields["probabilities"].values()), row, atol=1e-4)
    assert "我爱北京" in lines[1]


def test_predict_reads_lines(folder, tmp_path, stdin, capsys):
    content = "\ufeffa good film\r\n\n   \n我爱北京\nlast".encode()
    (tmp_path / "texts.txt").write_bytes(content)
    assert main(["predict", "--model", str(folder), "--file", str(tmp_path / "texts.txt")]) == 0
    from_file = rows(capsys)
    stdin(content)
    assert main(["predict", "--model", str(folder)]) == 0
    assert rows(capsys) == from_file
    assert [text for *_, text in from_file] == ["a good film", "我爱北京", "last"]


def test_predict_reads_more_lines_than_fit_at_a_time(folder, stdin, capsys):
    count = 2 * commands.LINES_AT_A_TIME + 1
    stdin(b"".join(b"text %d\n" % i for i in range(count)))
    assert main(["predict", "--model", str(folder)]) == 0
    assert [text for *_, text in rows(capsys)] == [f"text {i}" for i in range(count)]


def test_a_closed_input_is_an_error(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["predict", "--model", str(folder)]) == 1
    assert "standard input is closed: give texts or --file" in capsys.readouterr().err


def test_nothing_to_read_prints_nothing(folder, stdin, capsys):
    stdin(b"")
    assert main(["predict", "--model", str(folder)]) == 0
    assert capsys.readouterr().out == ""


def test_errors_are_one_line(folder, tmp_path, stdin, capsys):
    assert main(["predict", "--model", str(tmp_path / "nowhere"), "text"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("companion predict: ") and "nowhere" in message and message.count("\n") == 1
    assert main(["predict", "--model", str(folder), "--file", str(tmp_path / "absent.txt")]) == 1
    assert "absent.txt" in capsys.readouterr().err
    stdin(b"good\n" + "北京".encode("gb18030"))
    assert main(["predict", "--model", str(folder)]) == 1
    assert "texts must be UTF-8; received in line 2" in capsys.readouterr().err
    assert main(["predict", "--model", str(folder), ""]) == 1
    assert "companion predict: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: command"),
        (["guess"], "invalid choice: 'guess'"),
        (["train", "texts.csv"], "the following arguments are required: --model"),
        (["train", "--model", "m"], "the following arguments are required: FILE"),
        (["train", "a.csv", "--model", "m", "--architecture", "rnn"], "invalid choice: 'rnn'"),
        (["translate", "--file", "f", "text"], "give texts or --file, not both"),
        (["generate", "--file", "f", "prompt"], "give prompts or --file, not both"),
        (["generate", "--temperature", "warm"], "invalid float value: 'warm'"),
        (["serve", "--port", "http"], "invalid int value: 'http'"),
        (["predict", "--model", "m", "--format", "xml"], "invalid choice: 'xml'"),
        (["predict", "--model", "m", "--file", "f", "text"], "give texts or --file, not both"),
    ],
)
def test_bad_usage_exits_with_two(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_closed_pipe_is_no_crash(folder):
    command = [sys.executable, "-m", "companion", "predict", "--model", str(folder), *["text"] * 500]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(timeout=300) == 1
    assert "Traceback" not in errors and "BrokenPipe" not in errors


def test_help_names_the_commands():
    done = subprocess.run(
        [sys.executable, "-m", "companion", "--help"],
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
        check=True,
    )
    for command in ("doctor", "train", "predict", "translate", "generate", "serve"):
        assert f"    {command}" in done.stdout and f"companion {command}" in done.stdout
    assert not done.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == companion.__version__


# translate, generate

SOURCES = ["one red house", "two green trees", "a small garden", "three red trees"]
SIZES = {"model_dim": 8, "num_heads": 2, "hidden_dim": 8, "num_layers": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def tokenizer():
    return SubwordTokenizer.train(SOURCES, vocabulary_size=270)


@pytest.fixture(scope="module")
def cache(tokenizer, randomized, tmp_path_factory):
    """A cache folder with the models that chapters leave."""
    keras.utils.set_random_seed(0)
    folder, size = tmp_path_factory.mktemp("cache"), tokenizer.vocabulary_size
    model = randomized(transformer(size, size, max_length=20, **SIZES))
    Translator(model, tokenizer, tokenizer, 20, 8).save(folder / "models" / "translation")
    model = randomized(gpt(size, max_length=24, **SIZES))
    TextGenerator(model, tokenizer, 24).save(folder / "models" / "text")
    return folder


@pytest.fixture(scope="module")
def load():
    """Load a model once, so that its loops are compiled once."""
    loaded, read = {}, SavedModel.load.__func__

    def load(cls, folder):
        if folder not in loaded:
            loaded[folder] = read(cls, folder)
        return loaded[folder]

    return load


@pytest.fixture
def at_home(cache, load, monkeypatch):
    monkeypatch.setenv("COMPANION_CACHE", str(cache))
    monkeypatch.setattr(SavedModel, "load", classmethod(load))


@pytest.fixture(scope="module")
def translations(cache, load):
    translated = load(Translator, cache / "models" / "translation").translate(SOURCES)
    return [" ".join(text.splitlines()) for text in translated]


def test_translate_arguments(cache, translations, capsys):
    assert main(["translate", "--model", str(cache / "models" / "translation"), *SOURCES]) == 0
    assert capsys.readouterr().out.splitlines() == translations


def test_translate_keeps_lines_in_their_places(at_home, translations, tmp_path, stdin, monkeypatch, capsys):
    monkeypatch.setattr(commands, "LINES_AT_A_TIME", 3)
    lines = [SOURCES[0], "", SOURCES[1], "   ", SOURCES[2]]
    content = ("\ufeff" + "\r\n".join(lines)).encode()
    (tmp_path / "句子.txt").write_bytes(content)
    assert main(["translate", "--file", str(tmp_path / "句子.txt")]) == 0
    expected = [translations[0], "", translations[1], "", translations[2]]
    assert capsys.readouterr().out.split("\n") == [*expected, ""]
    stdin(content)
    assert main(["translate"]) == 0
    assert capsys.readouterr().out.split("\n") == [*expected, ""]


def test_translate_names_the_line_that_is_too_long(at_home, stdin, monkeypatch, capsys):
    monkeypatch.setattr(commands, "LINES_AT_A_TIME", 3)
    stdin(b"one\n\ntwo\n\n" + b"x" * 21)
    assert main(["translate"]) == 1
    wanted = "companion translate: text 5 must have at most max_source_length=20 tokens; received one of 21."
    assert capsys.readouterr().err == f"{wanted}\n"


def test_translate_with_a_beam(at_home, cache, capsys):
    assert main(["translate", "--beam-size", "3", SOURCES[1]]) == 0
    (expected,) = Translator.load(cache / "models" / "translation").translate([SOURCES[1]], beam_size=3)
    assert capsys.readouterr().out == " ".join(expected.splitlines()) + "\n"
    assert main(["translate", "--beam-size", "0", "one"]) == 1
    assert "beam_size must be at least 1; received beam_size=0" in capsys.readouterr().err


@pytest.mark.parametrize("way", [{"temperature": 0.0}, {"seed": 7, "temperature": 0.8, "top_p": 0.9}])
def test_generate_prints_prompts_and_how_they_go_on(at_home, cache, stdin, capsys, way):
    prompts = SOURCES[:2]
    written = TextGenerator.load(cache / "models" / "text").complete(prompts, max_new_tokens=9, **way)
    expected = "".join(f"{prompt}{text}\n" for prompt, text in zip(prompts, written, strict=True))
    options = [word for name, x in way.items() for word in (f"--{name.replace('_', '-')}", str(x))]
    assert main(["generate", "--max-tokens", "9", *options, *prompts]) == 0
    assert capsys.readouterr().out == expected
    stdin("\n \n".join(prompts).encode())
    assert main(["generate", "--max-tokens", "9", *options]) == 0
    assert capsys.readouterr().out == expected


def test_generate_prints_each_piece_at_once(at_home, monkeypatch):
    events = []
    pieces = iter(["a", "b"])
    monkeypatch.setattr(TextGenerator, "stream", lambda *_, **__: (events.append(x) or x for x in pieces))
    shown = SimpleNamespace(write=lambda text: events.append(f"shown {text}"), flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["generate", "prompt"]) == 0
    kept = [event for event in events if event not in ("shown ", "shown \n")]
    assert kept == ["shown prompt", "a", "shown a", "b", "shown b"]


def test_generate_refuses_what_the_model_cannot(at_home, capsys):
    assert main(["generate", "--max-tokens", "24", "one"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("companion generate: max_new_tokens must be from 1 to 23")
    assert main(["generate", "--model", "nowhere", "one"]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name", "chapter"),
    [("predict", "classifier", "05_2"), ("translate", "translation", "03_2"), ("generate", "text", "03_4")],
)
def test_without_a_model_the_chapter_that_makes_it_is_named(
    command, name, chapter, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path))
    assert main([command, "text"]) == 1
    message = capsys.readouterr().err
    assert f"'make chapters CHAPTER={chapter}' makes one; or give --model." in message
    assert str(tmp_path / "models" / name) in message


def test_a_model_of_another_kind_is_refused(cache, capsys):
    assert main(["predict", "--model", str(cache / "models" / "text"), "one"]) == 1
    assert "must hold a companion.TextClassifier; " in capsys.readouterr().err


def test_a_fresh_process_translates_utf8_whatever_the_terminal(cache, translations):
    environment = os.environ | {"COMPANION_CACHE": str(cache), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "companion", "translate"]
    lines = "\n".join(SOURCES).encode()
    done = subprocess.run(command, input=lines, env=environment, capture_output=True, check=True)
    assert done.stdout.decode("utf-8").splitlines() == translations


# serve


def test_serve_hands_its_options_on(monkeypatch):
    given = []
    monkeypatch.setitem(
        sys.modules, "companion.serving", SimpleNamespace(serve=lambda x: given.append(x) or 0)
    )
    assert main(["serve"]) == 0
    words = ["--model", "m", "--host", "0.0.0.0", "--port", "0", "--max-length", "9", "--timeout", "2.5"]
    assert main(["serve", *words, "--allow-origin", "http://a", "--allow-origin", "http://b"]) == 0
    names = ("model", "host", "port", "allow_origin", "max_length", "timeout")
    first, second = ([getattr(options, name) for name in names] for options in given)
    assert first == [None, "127.0.0.1", 8000, [], 1000, 30.0]
    assert second == ["m", "0.0.0.0", 0, ["http://a", "http://b"], 9, 2.5]


def test_serve_without_its_packages_says_how_to_get_them(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "companion.serving", raising=False)
    monkeypatch.delattr(companion, "serving", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 1
    message = capsys.readouterr().err
    assert "needs uvicorn" in message and "pip install '.[serve,tools]'" in message
