"""The model card: what it holds, its order, and what it refuses."""

import pytest

from companion.model_card import MEASURED, SECTIONS, Measurement, missing_sections, model_card

TEXTS = {name: f"About {name.lower()}." for name in SECTIONS if name != MEASURED}
NUMBERS = [
    Measurement("accuracy", 0.75, 0.5, "100 texts, 3 seeds"),
    Measurement("gap", -0.125, 0, "40 pairs"),
]


def test_the_nine_sections_of_the_paper_come_in_its_order():
    card = model_card("A classifier", dict(reversed(TEXTS.items())), NUMBERS)
    headings = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert headings == list(SECTIONS) and len(SECTIONS) == 9 and headings[0] == "Model Details"
    assert card.startswith("# A classifier\n\n## Model Details\n\nAbout model details.\n")
    assert card.endswith("About caveats and recommendations.\n") and not missing_sections(card)


def test_the_numbers_stand_in_a_table_in_their_section():
    card = model_card("A classifier", TEXTS | {MEASURED: "Means."}, NUMBERS)
    section = card.partition(f"## {MEASURED}\n\n")[2].partition("\n\n## ")[0]
    assert section == (
        "Means.\n\n| measure | value | baseline | how |\n|---|---|---|---|\n"
        "| accuracy | 0.750 | 0.500 | 100 texts, 3 seeds |\n| gap | -0.125 | 0.000 | 40 pairs |"
    )


def test_a_row_stays_a_row():
    card = model_card("A classifier", TEXTS, [Measurement("P(a|b)\n", 1, 0, "one\ntwo")])
    assert "| P(a/b) | 1.000 | 0.000 | one two |\n" in card
    card = model_card("A classifier", TEXTS, [Measurement("alarms", 0.0004, -0.001, "of texts")])
    assert "| alarms | 4.0e-04 | -0.001 | of texts |\n" in card


@pytest.mark.parametrize("name", [name for name in SECTIONS if name != MEASURED])
def test_no_section_may_be_missing_or_empty(name):
    for texts in ({key: text for key, text in TEXTS.items() if key != name}, TEXTS | {name: " \n"}):
        with pytest.raises(ValueError, match=f"on each; received nothing on {name}\\."):
            model_card("A classifier", texts, NUMBERS)


def test_missing_sections_of_a_card_written_by_hand():
    assert missing_sections("") == list(SECTIONS)
    assert missing_sections("## Factors\n\n## Metrics\n\nF1\n### Training Data\nx") == [
        name for name in SECTIONS if name != "Metrics"
    ]


@pytest.mark.parametrize(
    ("title", "texts", "numbers", "message"),
    [
        ("A", TEXTS | {"Price": "0"}, NUMBERS, "sections must be among Model Details, .*; received Price"),
        ("A", TEXTS, [], "at least one; received none"),
        ("A", TEXTS, [Measurement("x", float("nan"), 0, "y")], "measurements must be finite; received"),
        ("A", TEXTS, [Measurement("x", 0, float("inf"), "y")], "measurements must be finite; received"),
        ("A", TEXTS, [Measurement("", 0, 0, "y")], "must say of what and how"),
        ("A", TEXTS, [Measurement("x", 0, 0, " ")], "must say of what and how"),
        ("A\nB", TEXTS, NUMBERS, "title must be one line; received"),
        (" ", TEXTS, NUMBERS, "title must be one line; received"),
    ],
)
def test_refuses_what_is_no_card(title, texts, numbers, message):
    with pytest.raises(ValueError, match=message):
        model_card(title, texts, numbers)
