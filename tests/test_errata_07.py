"""Section 7 of the article: each test holds one erratum of data/errata/07.json against the bibliography."""

from pathlib import Path

import pytest

from companion.bibliography import read_bibliography

ROOT = Path(__file__).resolve().parents[1]
# As sections 7.1 and 7.3 print their papers.
PRINTED = (
    ("Transformer", "Vaswani et al. 2017"),
    ("BERT", "Devlin et al. 2019"),
    ("Word2Vec", "Mikolov et al. 2013"),
    ("GloVe", "Pennington et al. 2014"),
    ("Transformer", "Vaswani et al. 2017"),
    ("BERT", "Devlin et al. 2019"),
)


@pytest.fixture(scope="module")
def works():
    return read_bibliography(ROOT / "data" / "bibliography.bib")


def meant(works, short):
    """The works that a citation such as "Vaswani et al. 2017" may mean."""
    return [entry for entry in works.values() if entry.short == short]


def test_e33_deep_learning_is_a_book(works):
    entry = works["goodfellow2016deep"]
    assert entry.fields["title"] == "Deep Learning"
    assert entry.families == ["Goodfellow", "Bengio", "Courville"]
    assert entry.kind == "book" and entry.identifier == "ISBN 9780262035613"
    assert "12.4" in entry.fields["note"]


def test_e34_norvig_wrote_a_chapter(works):
    (norvig,) = [entry for entry in works.values() if "Norvig" in entry.families]
    assert norvig.kind == "incollection" and norvig.fields["chapter"] == "14"
    assert norvig.fields["title"] == "Natural Language Corpus Data"
    printed, near = "自然语言处理实践", "自然语言处理实战"
    assert sum(one != other for one, other in zip(printed, near, strict=True)) == 1
    (lane,) = [entry for entry in works.values() if near in entry.fields.get("note", "")]
    assert lane.families == ["Lane", "Howard", "Hapke"]
    assert works["vajjala2020practical"].families == ["Vajjala", "Majumder", "Gupta", "Surana"]
    assert not any(printed in value for entry in works.values() for value in entry.fields.values())


def test_e35_none_of_the_printed_names_is_an_author(works):
    entry = works["zhang2023dive"]
    assert "动手学深度学习" in entry.fields["note"]
    assert entry.families == ["Zhang", "Lipton", "Li", "Smola"]
    assert not {"Dumoulin", "soule", "Louradour", "Bousquet"} & set(entry.families)


def test_e36_the_title_of_jurafsky_and_martin(works):
    (entry,) = [entry for entry in works.values() if entry.families == ["Jurafsky", "Martin"]]
    assert entry.fields["title"] == "Speech and Language Processing"
    assert "In Chinese 自然语言处理综论" in entry.fields["note"]


def test_e37_titles_doubles_and_gaps(works):
    doubles = {name for name, _ in PRINTED if sum(name == other for other, _ in PRINTED) == 2}
    assert doubles == {"Transformer", "BERT"}
    (transformer,) = meant(works, "Vaswani et al. 2017")
    assert transformer.fields["title"] == "Attention Is All You Need"
    (bert,) = meant(works, "Devlin et al. 2019")
    assert bert.fields["title"].startswith("BERT: ")
    assert len(meant(works, "Mikolov et al. 2013")) == 2
    cited = {entry.key for _, short in PRINTED for entry in meant(works, short)}
    named = {"FastText": "bojanowski2017enriching", "GPT": "radford2018improving"}
    named |= {"GPT-3": "brown2020language", "T5": "raffel2020exploring"}
    for name, key in named.items():
        assert key not in cited and f"{name}, named in section" in works[key].fields["note"]


def test_e38_who_governs_pytorch_and_what_conda_manages(works):
    pytorch = works["paszke2019pytorch"]
    assert pytorch.fields["title"].startswith("PyTorch: ")
    assert "since September 2022 the PyTorch Foundation" in pytorch.fields["note"]
    conda = works["gruning2018bioconda"]
    assert conda.fields["journal"] == "Nature Methods" and "whatever language" in conda.fields["note"]
