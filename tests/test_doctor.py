"""`companion doctor`: every fault is found, and says what to do."""

import importlib.metadata
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import companion
from companion import doctor as program
from companion.__main__ import main


def examination(capsys):
    code = main(["doctor"])
    out = capsys.readouterr().out
    levels = ("ok", "note", "fault")
    return code, {line[6:26].strip(): line for line in out.splitlines() if line[:6].strip() in levels}, out


@pytest.fixture
def healthy(monkeypatch):
    """Nothing is looked at but attention, so that a fault of this machine fails no test."""
    finding = program.Finding("ok", "stub", "fine")
    names = ["_python", "_keras", "_font", "_cache", "_disk", "_models", "_sources", "_translations"]
    names += ["_interface", "_training"]
    for name in names:
        monkeypatch.setattr(program, name, lambda: finding)
    monkeypatch.setattr(program, "_packages", lambda extra: lambda: finding)


def test_doctor_looks_at_everything(capsys):
    code, lines, out = examination(capsys)
    extras = ("layers", "tools", "serve", "book", "test")
    subjects = ["Python", "Keras", *(f"packages: {extra}" for extra in extras)]
    subjects += ["Chinese font", "cache folder", "disk", "models", "library sources", "translations"]
    assert list(lines) == [*subjects, "interface strings", "attention", "training"]
    assert code == ("fault " in {line[:6] for line in lines.values()})
    for subject in ("Python", "Keras", "library sources", "translations", "attention", "training"):
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


def test_a_model_that_does_not_learn_is_a_fault(monkeypatch):
    learning = keras.optimizers.Adam
    monkeypatch.setattr(keras.optimizers, "Adam", lambda rate: learning(0.0))
    monkeypatch.setattr(companion, "generate", lambda *_, **__: np.zeros((1, 8)))  # takes seconds to compile
    finding = program._examined(program._training)
    assert finding.level == "fault" and "reinstall keras" in finding.advice and "loss" in finding.found


def test_a_full_disk_is_a_note(monkeypatch):
    monkeypatch.setattr(program.shutil, "disk_usage", lambda path: SimpleNamespace(free=2e8))
    finding = program._examined(program._disk)
    assert (finding.level, finding.found) == ("note", "0.2 GB free for the cache")
    assert "COMPANION_CACHE" in finding.advice


def test_the_models_of_the_chapters_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path))
    finding = program._examined(program._models)
    assert finding[:3] == ("note", "models", "none yet") and "CHAPTER=03_2" in finding.advice
    for name in ("translation", "text"):
        (tmp_path / "models" / name).mkdir(parents=True)
        config = '{"kind": "companion.Translator"}'
        (tmp_path / "models" / name / "config.json").write_text(config, encoding="utf-8")
    assert program._examined(program._models)[:3] == ("ok", "models", "text, translation")
