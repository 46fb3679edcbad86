import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import companion
from companion import TextClassifier
from companion import __main__ as program
from companion.__main__ import main

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
    count = 2 * program.LINES_AT_A_TIME + 1
    stdin(b"".join(b"text %d\n" % i for i in range(count)))
    assert main(["predict", "--model", str(folder)]) == 0
    assert [text for *_, text in rows(capsys)] == [f"text {i}" for i in range(count)]


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
        (["predict", "text"], "the following arguments are required: --model"),
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
    assert "doctor" in done.stdout and "predict" in done.stdout and not done.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == companion.__version__


# doctor


def examination(capsys):
    code = main(["doctor"])
    out = capsys.readouterr().out
    levels = ("ok", "note", "fault")
    return code, {line[6:26].strip(): line for line in out.splitlines() if line[:6].strip() in levels}, out


@pytest.fixture
def healthy(monkeypatch):
    """Nothing is looked at but attention, so that a fault of this machine fails no test."""
    finding = program.Finding("ok", "stub", "fine")
    names = ["_python", "_keras", "_font", "_cache", "_sources", "_translations", "_interface"]
    for name in names:
        monkeypatch.setattr(program, name, lambda: finding)
    monkeypatch.setattr(program, "_packages", lambda extra: lambda: finding)


def test_doctor_looks_at_everything(capsys):
    code, lines, out = examination(capsys)
    subjects = ["Python", "Keras", *(f"packages: {extra}" for extra in ("layers", "tools", "book", "test"))]
    subjects += ["Chinese font", "cache folder", "library sources", "translations", "interface strings"]
    assert list(lines) == [*subjects, "attention"]
    assert code == ("fault " in {line[:6] for line in lines.values()})
    for subject in ("Python", "Keras", "library sources", "translations", "attention"):
        assert lines[subject].startswith("ok"), out


def test_a_healthy_installation(healthy, capsys):
    code, lines, out = examination(capsys)
    assert code == 0 and lines["attention"].startswith("ok")
    assert out.endswith("\nAll is well.\n") and "->" not in out


def test_wrong_attention_is_a_fault(healthy, monkeypatch, capsys):
    wrong = companion.MultiHeadAttention.attend
    monkeypatch.setattr(
        companion.MultiHeadAttention,
        "attend",
        lambda self, query, *rest, **options: wrong(self, 2 * query, *rest, **options),
    )
    code, lines, out = examination(capsys)
    assert code == 1 and lines["attention"].startswith("fault")
    assert "closed form" in lines["attention"] and "-> reinstall keras" in out and "1 fault found." in out


def test_a_crash_is_a_finding(healthy, monkeypatch, capsys):
    def crash(*_, **__):
        raise RuntimeError("no device\nmore lines")

    monkeypatch.setattr(companion.MultiHeadAttention, "attend", crash)
    code, lines, _ = examination(capsys)
    assert code == 1 and "no device more lines" in lines["attention"]


def test_an_old_python_is_a_fault(monkeypatch):
    monkeypatch.setattr(program.sys, "version_info", (3, 10, 0))
    finding = program._examined(program._python)
    assert finding.level == "fault" and "3.11" in finding.advice


@pytest.fixture
def metadata(monkeypatch):
    """Pretends that companion wants these requirements and that these packages are installed."""

    def pretend(requirements, installed):
        def version(name):
            if name not in installed:
                raise importlib.metadata.PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


def test_packages_are_compared_with_what_is_declared(metadata):
    wanted = ["keras<4,>=3.12", "tensorflow>=2.20", 'a; extra == "tools"', 'b>=2; extra == "tools"']
    wanted += ['c; extra == "tools"', 'companion[tools]; extra == "book"', 'd; sys_platform == "none"']
    metadata(wanted, {"keras": "3.15.1", "tensorflow-cpu": "2.21.0", "a": "1", "b": "1.9"})
    assert program._packages("layers")()[:3] == ("ok", "packages: layers", "all 2 present")
    tools = program._packages("tools")()
    assert tools.level == "fault" and tools.found == "b 1.9, c absent"
    assert tools.advice == 'pip install "b>=2" "c"'
    assert program._packages("book")().level == "ok"  # its own tools are looked at once


def test_an_extra_that_is_not_installed_is_no_fault(metadata):
    metadata([f'{name}; extra == "tools"' for name in "abc"], {"a": "1"})
    assert program._packages("tools")().level == "note"
    metadata(["keras", "numpy"], {})
    assert program._packages("layers")().level == "fault"


def test_a_missing_font_is_a_note(monkeypatch):
    from companion import visualization

    monkeypatch.setattr(visualization, "chinese_font", lambda: None)
    finding = program._examined(program._font)
    assert finding.level == "note" and "fonts-wqy-microhei" in finding.advice


def test_a_cache_folder_that_cannot_be_is_a_fault(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "file" / "cache"))
    finding = program._examined(program._cache)
    assert finding.level == "fault" and "COMPANION_CACHE" in finding.advice
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "new"))
    assert program._examined(program._cache)[:3] == ("ok", "cache folder", str(tmp_path / "new"))
    assert not list((tmp_path / "new").iterdir())


def test_missing_sources_are_a_fault(monkeypatch):
    monkeypatch.setattr("companion.data.PACKAGES", ("stdlib", "no_such_package", "_json"))
    finding = program._examined(program._sources)
    assert finding.level == "fault" and finding.found == "none of no_such_package, _json"


def test_missing_modules_are_a_note(monkeypatch):
    monkeypatch.setitem(sys.modules, "companion.visualization", None)
    finding = program._examined(program._font)
    assert finding.level == "note" and "ModuleNotFoundError" in finding.found
