import json
import sys
import warnings
from pathlib import Path

import pytest

from companion import sources

CODE = '''
"""A module."""
import os.path, json
from collections.abc import Sequence
from . import sibling
try:
    import numpy as np
except ImportError:
    np = None

COLORS = dict(a=1)
COLORS = {"red": (1, 0, 0)}
RULES = [f(x)]

class Layer:
    """A layer."""
    def __init__(self, units, rate=0.5, *, name=None, kind=str): ...
    def call(self, x, /, training=-1, *args):
        """Calls."""
        def inner():
            """Inner."""
            import socket

if np:
    async def late(): "Late."

def bare(x=1): ...

add_newdoc("pkg.core", "array", """
    Makes an array.
    """)
add_newdoc("pkg.core", "ndarray", ("sort", """Sorts."""))
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on the path that cannot be imported, and a cache of its own."""
    folder = tmp_path / "site" / "shelf"
    (folder / "inner").mkdir(parents=True)
    (folder / "tests").mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "inner" / "code.py").write_text(CODE)
    (folder / "inner" / "broken.py").write_text("def (:\n")
    (folder / "inner" / "latin.py").write_bytes(b"# \xe9\n")
    (folder / "tests" / "test_it.py").write_text('"""No."""')
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "cache"))
    return folder


def test_sources_reads_without_importing(package):
    empty, found = sources.sources(["shelf"])
    assert (empty.file, empty.module, empty.definitions) == ("shelf/__init__.py", "shelf", [])
    assert found.imports == ["collections", "json", "numpy", "os", "socket"]
    assert (found.file, found.package, found.module) == ("shelf/inner/code.py", "shelf", "shelf.inner.code")
    assert [(d.name, d.doc, d.defaults) for d in found.definitions] == [
        ("", "A module.", {}),
        ("Layer", "A layer.", {"rate": "0.5", "name": "None"}),
        ("Layer.call", "Calls.", {"training": "-1"}),
        ("Layer.call.inner", "Inner.", {}),
        ("late", "Late.", {}),
        ("array", "Makes an array.", {}),
        ("ndarray.sort", "Sorts.", {}),
    ]
    assert "shelf" not in sys.modules


def test_one_warning_names_every_missing_package(package):
    with pytest.warns(UserWarning, match="skipped: absent_one, absent_two") as caught:
        found = sources.sources(["absent_one", "shelf", "absent_two"])
    assert len(caught) == 1 and {file.package for file in found} == {"shelf"}


def test_a_python_without_sources_is_skipped(monkeypatch, tmp_path):
    monkeypatch.setattr(sources.sysconfig, "get_path", lambda name: str(tmp_path / "absent"))
    with pytest.warns(UserWarning, match="without sources, and skipped: stdlib"):
        assert sources.sources(["stdlib"]) == []


def test_the_standard_library_is_found():
    found = {file.module: file for file in sources.sources(["stdlib"])}
    assert len(found) > 300 and "json.decoder" in found and found["json"].file == "stdlib/json/__init__.py"
    assert not [file for file in found.values() if "site-packages" in file.file or "/test/" in file.file]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows.jsonl"


def builder(rows, calls):
    def build():
        calls.append(1)
        return rows

    return build


def test_kept_builds_once_per_key(cache):
    calls, rows = [], [["ä\u2028\n", 1], [None, [2.5]]]
    assert [sources.kept("rows", ["1.0"], builder(rows, calls)) for _ in range(2)] == [rows, rows]
    assert len(calls) == 1
    assert sources.kept("rows", ["1.1"], builder(rows[:1], calls)) == rows[:1] and len(calls) == 2
    assert list(cache.parent.iterdir()) == [cache]  # no temporary file stays


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: text.replace("7", "8"),
        lambda text: "",
        lambda text: "null\n",
        lambda text: text.split("\n", 1)[0],
        lambda text: "\udce9" + text,
    ],
)
def test_kept_builds_again_after_damage(cache, damage):
    calls = []
    build = builder([[7], [7]], calls)
    sources.kept("rows", "key", build)
    cache.write_bytes(damage(cache.read_text()).encode("utf-8", "surrogateescape"))
    assert sources.kept("rows", "key", build) == [[7], [7]] and len(calls) == 2
    sources.kept("rows", "key", build)
    assert len(calls) == 2


def test_kept_is_stale_when_extraction_changes(cache, monkeypatch):
    calls = []
    sources.kept("rows", "key", builder([[1]], calls))
    monkeypatch.setattr(sources, "EXTRACTOR", sources.EXTRACTOR + 1)
    sources.kept("rows", "key", builder([[1]], calls))
    assert len(calls) == 2


def test_an_unwritable_cache_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written, so it will be built again next time"):
        assert sources.kept("rows", "key", lambda: [[1]]) == [[1]]


def test_an_interrupted_write_leaves_the_old_rows(cache, monkeypatch):
    sources.kept("rows", "key", lambda: [[1]])
    before = cache.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(sources.os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sources.kept("rows", "other", lambda: [[2]])
    assert cache.read_bytes() == before and list(cache.parent.iterdir()) == [cache]


def test_literal(package):
    assert sources.literal("shelf", "inner/code.py", "COLORS", None) == {"red": (1, 0, 0)}
    for name, path in (("RULES", "inner/code.py"), ("COLORS", "absent.py")):
        with pytest.warns(UserWarning, match=f"{name} was not found in {path} of shelf"):
            assert sources.literal("shelf", path, name, "nothing") == "nothing"


def test_version():
    assert sources.version("stdlib") == ".".join(map(str, sys.version_info[:3]))
    assert sources.version("absent_one") == ""
    assert sources.version("tensorflow").startswith("2.")  # also when it was installed as tensorflow-cpu


def test_nothing_is_said_about_other_peoples_escapes(package):
    (package / "escapes.py").write_text('"""A \\d docstring."""\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [file.file for file in sources.sources(["shelf"])][0] == "shelf/__init__.py"


def test_the_cache_is_plain_text(package):
    sources.sources(["shelf"])
    path = Path(sources.cache_folder()) / "sources-shelf.jsonl"
    header, *rows = map(json.loads, path.read_text("ascii").splitlines())
    assert set(header) == {"key", "sha256"} and len(rows) == 2
