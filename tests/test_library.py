import ast
import importlib
import inspect
import re
from collections import Counter

import pytest

from companion import library, sources, splits


@pytest.fixture(scope="module")
def docs():
    return library.docstrings()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write modules of a package that cannot be imported."""
    folder = tmp_path / "site" / "shelf"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "cache"))
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")

    def write(**modules):
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text)
        return ["shelf"]

    return write


def test_there_are_a_million_words_of_every_library(docs):
    words = Counter()
    for doc in docs:
        words[doc.package] += len(doc.text.split())
    assert set(words) == set(library.PACKAGES) and min(words.values()) > 5_000
    assert 1_000_000 < sum(words.values()) < 3_000_000
    assert 20_000 < len(docs) < 60_000


def test_docstrings_are_plain_prose(docs):
    code = re.compile(r"://|\w@\w+\.\w|^>>>|```|^\.\. \w+::|:\w+:`|[{]|  ", re.MULTILINE)
    for doc in docs:
        assert doc.text == "\n\n".join(filter(None, [doc.summary, doc.body])) and "\n" not in doc.summary
        assert not code.search(doc.text), doc
    letters = Counter(character.isalpha() or character.isspace() for doc in docs for character in doc.text)
    assert letters[True] / letters.total() > 0.93


def test_no_paragraph_is_a_copy(docs):
    paragraphs = [text for doc in docs for text in doc.text.split("\n\n")]
    assert len(set(map(splits.normalize, paragraphs))) == len(paragraphs)
    some = paragraphs[::5]
    assert len(set(splits.near_duplicates(some))) >= 0.999 * len(some)


def test_a_known_docstring(docs):
    [doc] = [doc for doc in docs if (doc.module, doc.name) == ("textwrap", "shorten")]
    assert doc.summary.startswith("Collapse and truncate the given text")
    assert (doc.package, doc.file) == ("stdlib", "stdlib/textwrap.py") and "whitespace" in doc.body


def test_split_by_file_shares_neither_files_nor_copies(docs):
    docs = docs[::3]
    parts = splits.split(docs, key="file", text="text")
    files = [{doc.file for doc in part} for part in parts]
    assert not (files[0] & files[1] | files[0] & files[2] | files[1] & files[2])
    assert sum(map(len, parts)) == len(docs)
    assert 0.6 < len(parts.train) / len(docs) < 0.95 and min(map(len, parts)) > 200


def test_planted_copies_are_dropped(package):
    first = '"""Loads the shelf, book by book.\n\n%s"""\n'
    body = "It opens every file once and keeps what it read, however many readers ask for it later on."
    shelf = package(
        a=first % body,
        b=first % body,
        c='"""LOADS the shelf (book by book)!\n\nSomething else entirely here."""\n',
        d=f'"""Another sentence that opens.\n\n{body.upper()}\n\nAnd one more of its own here."""\n',
    )
    [one, two] = library.docstrings(shelf)
    assert (one.module, one.body) == ("shelf.a", body)
    assert (two.module, two.body) == ("shelf.d", "And one more of its own here.")


def test_docstrings_are_kept_until_another_version_is_installed(package, monkeypatch):
    shelf = package(a='"""A first sentence here."""')
    assert len(library.docstrings(shelf)) == 1
    package(b='"""Quite another text there."""')
    assert len(library.docstrings(shelf)) == 1
    for module in (library, sources):
        monkeypatch.setattr(module, "version", lambda name: "2.0")
    assert len(library.docstrings(shelf)) == 2


def test_missing_packages_are_named_every_time(package):
    shelf = package(a='"""A first sentence here."""')
    for _ in range(2):
        with pytest.warns(UserWarning, match="skipped: absent_one"):
            assert len(library.docstrings([*shelf, "absent_one"])) == 1


SEE_ALSO = '''
def sort():
    """Sort things.

    See Also
    --------
    order, np.rank : Others.
        unrelated words
    Bag.sort : A method.
    :func:`~shelf.other.far`
    absent : Nothing has this name.
    sort
    """

def order(): """Order."""
def rank(): """Rank."""

class Bag:
    """Bag."""
    def sort(self):
        """Sort a bag.

        See Also
        --------
        .fill
        """
    def fill(self): """Fill."""
    def bare(self): ...
'''


def test_see_also_finds_what_authors_point_at(package):
    shelf = package(near=SEE_ALSO, other='def far(): """Far."""\ndef order(): """Other."""\n')
    edges = [(edge.source, edge.target) for edge in library.see_also(shelf)]
    assert edges == [
        ("shelf.near.sort", "shelf.near.order"),  # the one in the same module
        ("shelf.near.sort", "shelf.near.rank"),
        ("shelf.near.sort", "shelf.near.Bag.sort"),
        ("shelf.near.sort", "shelf.other.far"),
        ("shelf.near.Bag.sort", "shelf.near.Bag.fill"),
    ]


def test_see_also_of_the_installed_packages():
    edges = library.see_also()
    assert 2_000 < len(edges) < 12_000 and len(set(edges)) == len(edges)
    names = {f"{f.module}.{d.name}".rstrip(".") for f in sources.sources() for d in f.definitions}
    assert all({edge.source, edge.target} <= names and edge.source != edge.target for edge in edges)
    assert {"numpy", "pandas", "matplotlib", "seaborn"} <= {edge.package for edge in edges}


def test_import_baskets(package):
    shelf = package(
        a="import os, json, shelf.b",
        b="import json\nfrom os import path\nfrom __future__ import annotations",
        c="import os, rare, json",
        d="import os",
    )
    assert library.import_baskets(shelf, least=2) == [
        library.Basket(("json", "os"), "shelf", f"shelf/{name}.py") for name in "abc"
    ]


def test_import_baskets_of_the_installed_packages():
    baskets = library.import_baskets()
    count = Counter(module for basket in baskets for module in basket.modules)
    assert 1_000 < len(baskets) < 6_000 and 100 < len(count) < 400
    assert all(len(basket.modules) > 1 and basket.package not in basket.modules for basket in baskets)


DEFAULTS = '''
def f(a=1, b="x", c=None, d=(1, 2), e=-0.5, g=True, h=3, i=4, *, j=1):
    """Does it.

    Args:
        a: Integer. Defaults to `1`.
        b (str): Default is 'x'.
        c: Long description that
            goes on. Default: None.
        e: The number, by
            default -0.5.
        g: Defaults to 1.
        h: Nothing said.
        i: Defaults to 5.
    Returns:
        j: Defaults to 10.
    """

class C:
    """A class.

    Parameters
    ----------
    units, size : int, default: 8
        How many.
    rate : float, default 0.25
        Defaults to the moon.
    """
    def __init__(self, units=8, size=8, rate=0.25): ...
'''


def test_default_values_agree_with_the_signature(package):
    found = [(d.function, d.parameter, d.value) for d in library.default_values(package(a=DEFAULTS))]
    assert found == [
        ("shelf.a.f", "a", "1"),
        ("shelf.a.f", "b", "'x'"),
        ("shelf.a.f", "c", "None"),
        ("shelf.a.f", "e", "-0.5"),
        ("shelf.a.C", "units", "8"),
        ("shelf.a.C", "size", "8"),
        ("shelf.a.C", "rate", "0.25"),
    ]


def test_default_values_of_the_installed_packages_are_true():
    found = library.default_values()
    assert 3_000 < len(found) < 12_000
    assert len({(item.function, item.parameter) for item in found}) == len(found)
    checked = 0
    for item in found:
        module, _, name = item.function.rpartition(".")
        if module in ("textwrap", "numpy.lib._npyio_impl", "numpy._core.numeric", "numpy._core.fromnumeric"):
            function = getattr(importlib.import_module(module), name)
            actual = inspect.signature(function).parameters[item.parameter].default
            assert actual == ast.literal_eval(item.value), item
            checked += 1
    assert checked >= 5


def test_topics_colors_and_eliza():
    topics = library.topics()
    assert 60 <= len(topics) <= 120 and sum(len(topic.text.split()) for topic in topics) > 40_000
    colors = library.colors()
    assert len(colors) > 900 and library.Color("cloudy blue", 172, 194, 217) in colors
    assert all(0 <= value <= 255 for color in colors for value in color[1:])
    rules = library.eliza()
    assert len(rules) >= 30 and all(re.compile(rule.pattern) and rule.answers for rule in rules)
