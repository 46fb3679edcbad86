"""The bibliography and its reader."""

import re
import unicodedata
from pathlib import Path

import pytest

from companion.bibliography import Entry, is_isbn, read_bibliography

ROOT = Path(__file__).resolve().parents[1]
GOOD = """% a remark

@article{shannon48,
  author = {Shannon, Claude E.},
  title = {A Mathematical Theory of Communication},
  year = {1948},
  journal = {Bell System Technical Journal},
  volume = {27},
  doi = {10.1002/j.1538-7305.1948.tb01338.x},
}
"""
# What the article prints in chapters 2 to 8, and the work that it means.
NAMED = {
    "Transformer": "vaswani2017attention",
    "BERT": "devlin2019bert",
    "Word2Vec": "mikolov2013efficient",
    "GloVe": "pennington2014glove",
    "FastText": "bojanowski2017enriching",
    "GPT": "radford2018improving",
    "GPT-3": "brown2020language",
    "T5": "raffel2020exploring",
    "TensorFlow": "abadi2016tensorflow",
    "PyTorch": "paszke2019pytorch",
    "NLTK": "bird2009natural",
    "Conda": "gruning2018bioconda",
}


@pytest.fixture(scope="module")
def works():
    return read_bibliography(ROOT / "data" / "bibliography.bib")


def write(path, text):
    file = path / "some.bib"
    file.write_text(text, encoding="utf-8")
    return file


def plain(name):
    """Small letters without marks, as in keys: "Popović" gives "popovic"."""
    name = unicodedata.normalize("NFKD", name.casefold().replace("ł", "l").replace("ø", "o"))
    return "".join(letter for letter in name if letter.isascii() and letter.isalpha())


def test_an_entry_is_read_as_it_is_written(tmp_path):
    works = read_bibliography(write(tmp_path, GOOD))
    assert list(works) == ["shannon48"]
    entry = works["shannon48"]
    assert entry.kind == "article" and entry.key == "shannon48"
    assert entry.fields == {
        "author": "Shannon, Claude E.",
        "title": "A Mathematical Theory of Communication",
        "year": "1948",
        "journal": "Bell System Technical Journal",
        "volume": "27",
        "doi": "10.1002/j.1538-7305.1948.tb01338.x",
    }


@pytest.mark.parametrize(
    ("author", "families", "short"),
    [
        ("Lin, Chin-Yew", ["Lin"], "Lin 2004"),
        ("Kneser, Reinhard and Ney, Hermann", ["Kneser", "Ney"], "Kneser and Ney 2004"),
        ("Xu, Kelvin and others", ["Xu", "others"], "Xu et al. 2004"),
        ("Bird, S. and Klein, E. and Loper, E.", ["Bird", "Klein", "Loper"], "Bird et al. 2004"),
    ],
)
def test_a_work_is_named_as_in_the_prose(author, families, short):
    entry = Entry("misc", "key", {"author": author, "year": "2004"})
    assert entry.families == families and entry.short == short


@pytest.mark.parametrize(
    ("fields", "identifier"),
    [
        ({"doi": "10.1/x", "eprint": "1706.03762", "archiveprefix": "arXiv", "isbn": "1"}, "doi:10.1/x"),
        ({"eprint": "1706.03762", "archiveprefix": "arXiv", "isbn": "1"}, "arXiv:1706.03762"),
        ({"eprint": "W04-1013", "archiveprefix": "ACL"}, "ACL:W04-1013"),
        ({"isbn": "9780262035613"}, "ISBN 9780262035613"),
        ({}, ""),
    ],
)
def test_the_identifier_is_the_first_there_is(fields, identifier):
    assert Entry("misc", "key", fields).identifier == identifier


def test_one_wrong_digit_is_no_isbn():
    right = "9780262035613"
    assert is_isbn(right)
    for place in range(3, 13):
        wrong = f"{right[:place]}{(int(right[place]) + 1) % 10}{right[place + 1 :]}"
        assert not is_isbn(wrong), wrong
    assert not is_isbn("9780262035631")  # two neighbors exchanged
    for form in ("", "978-0262035613", "0262035618", "9770262035614", "97802620356130", "９780262035613"):
        assert not is_isbn(form), form


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "@article{",
            "@comment{",
            r"line 3: @kind\{key, expected.*'@comment\{shannon",
        ),
        ("@article{shannon48,", "shannon", r"line 3: @kind\{key, expected.*found 'shannon'\."),
        (
            "  year = {1948},",
            "  year = 1948,",
            r"line 6, shannon.*: name = \{value\}, expected; found '  year = ",
        ),
        ("{27}", "{{27}}", r"line 8, shannon48: name = \{value\}, expected; found"),
        (
            "  volume",
            "  size",
            r"line 8, shannon48: a known field, once, expected; found 'size'",
        ),
        ("  volume = {27}", "  year = {1949}", r"line 8, .*: a known field, once, expected; found 'year'"),
        (
            "  author = {Shannon, Claude E.},\n",
            "",
            r"shannon48: field 'author' expected in @article; found none",
        ),
        (
            "  volume = {27},\n",
            "",
            r"shannon48: field 'volume' expected in @article; found none",
        ),
        ("{1948}", "{48}", r"shannon48: year as four digits expected; found '48'\."),
        (
            "{10.1002/j",
            "{doi.org/j",
            r"shannon48: doi as 10\., a slash and more expected; found 'doi\.org/",
        ),
        (
            "doi = {10.1002/j.1538-7305.1948.tb01338.x}",
            "isbn = {9780262035614}",
            "isbn as thirteen digits",
        ),
        (
            "  doi = {10.1002/j.1538-7305.1948.tb01338.x}",
            "  eprint = {1706.03762}",
            "eprint as a number",
        ),
        (".x},\n}", ".x},", r'shannon48: a line "\}" expected at its end; found none\.'),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    assert GOOD.count(old) == 1
    with pytest.raises(ValueError, match=rf"some\.bib,.*{message}"):
        read_bibliography(write(tmp_path, GOOD.replace(old, new)))


@pytest.mark.parametrize(
    ("prefix", "number", "right"),
    [
        ("arXiv", "1706.03762", True),
        ("arXiv", "1409.0473", True),
        ("arXiv", "1713.03762", False),  # no thirteenth month
        ("arXiv", "1700.03762", False),
        ("arXiv", "170603762", False),
        ("ACL", "W04-1013", True),
        ("ACL", "2020.acl-main.703", True),
        ("ACL", "1706.03762", False),
        ("PMC", "1706.03762", False),
    ],
)
def test_eprints_have_the_form_of_their_archive(tmp_path, prefix, number, right):
    lines = f"  eprint = {{{number}}},\n  archiveprefix = {{{prefix}}},\n}}\n"
    file = write(tmp_path, GOOD.removesuffix("}\n") + lines)
    if right:
        assert read_bibliography(file)["shannon48"].fields["eprint"] == number
    else:
        with pytest.raises(ValueError, match=f"eprint as a number .* found '{re.escape(number)}'"):
            read_bibliography(file)


def test_a_key_stands_once(tmp_path):
    with pytest.raises(ValueError, match=r"line 13: each key once expected; found 'shannon48' again"):
        read_bibliography(write(tmp_path, GOOD + GOOD))


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read_bibliography(tmp_path / "none.bib")


def test_the_works_are_a_few_dozen_each_with_a_place_to_find_it(works):
    assert 50 <= len(works) <= 100
    for entry in works.values():
        fields = entry.fields
        assert entry.identifier or "institution" in fields or {"journal", "volume", "pages"} <= set(fields)
    without = [key for key, entry in works.items() if not entry.identifier]
    assert len(without) <= 4, without


def test_no_work_stands_twice(works):
    for field in ("title", "doi", "eprint", "isbn"):
        values = [entry.fields[field].casefold() for entry in works.values() if field in entry.fields]
        assert len(values) == len(set(values)), field


def test_keys_tell_author_year_and_a_word_of_the_title(works):
    for key, entry in works.items():
        author, year, word = re.fullmatch(r"([a-z]+)(\d{4})([a-z]+)", key).groups()
        assert author == plain(entry.families[0]) and year == entry.fields["year"], key
        assert word in [plain(w) for w in re.split(r"[\s:-]+", entry.fields["title"])], key


def test_names_are_written_family_first(works):
    for key, entry in works.items():
        names = entry.fields["author"].split(" and ")
        assert all(re.fullmatch(r"[^,]+, [^,]+", name) or name == "others" for name in names), key
        assert "others" not in names[:-1] and not entry.fields["title"].endswith("."), key


def test_years_agree_with_the_numbers_of_the_archives(works):
    for key, entry in works.items():
        year, number = int(entry.fields["year"]), entry.fields.get("eprint", "")
        if entry.fields.get("archiveprefix") == "arXiv":
            assert -2 <= 2000 + int(number[:2]) - year <= 0, key
        elif number:
            assert int(number[1:3]) == year % 100, key
        if found := re.search(r"/(?:v1/)?[A-Z](\d\d)-\d{4}$", entry.fields.get("doi", "")):
            assert int(found[1]) == year % 100, key


def test_what_the_article_names_is_there(works):
    assert set(NAMED.values()) <= set(works)
    for name in ("BERT", "GloVe", "TensorFlow", "PyTorch"):
        assert works[NAMED[name]].fields["title"].startswith(f"{name}:")
