"""What whoever uses a model must know about it: a page made of measured numbers (article section 8.4)."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Mitchell et al. 2019, section 4, in this order.
SECTIONS = (
    "Model Details",
    "Intended Use",
    "Factors",
    "Metrics",
    "Evaluation Data",
    "Training Data",
    "Quantitative Analyses",
    "Ethical Considerations",
    "Caveats and Recommendations",
)
MEASURED = "Quantitative Analyses"


class Measurement(NamedTuple):
    """A number of the card: of what, its value, that of a baseline in the same unit, and how it was found."""

    name: str
    value: float
    baseline: float
    how: str


def model_card(title: str, sections: Mapping[str, str], measurements: Sequence[Measurement]) -> str:
    """Writes the card as Markdown, or refuses to: nothing that is required may be missing.

    Args:
        title: Name of the model, one line.
        sections: Some text for each of SECTIONS, in any order; that for "Quantitative Analyses" stands above
            the table and may be left out.
        measurements: One row of the table each, at least one: numbers that were computed, with their baseline
            and how (data, seeds).
    Returns:
        Markdown: a heading, the sections in the paper's order, the table in its place.
    Raises:
        ValueError: A section is missing, empty or unknown; there is no measurement, or one that is not finite
            or lacks name or how; the title is empty or of more than one line.
    Source: Mitchell et al. 2019, section 4 and figure 1.
    """
    written = {MEASURED: "", **sections}
    if unknown := [name for name in written if name not in SECTIONS]:
        raise ValueError(f"sections must be among {', '.join(SECTIONS)}; received {', '.join(unknown)}.")
    if not title.strip() or "\n" in title:
        raise ValueError(f"title must be one line; received {title!r}.")
    written[MEASURED] = f"{written[MEASURED].strip()}\n\n{_table(measurements)}".strip()
    card = "\n\n".join(
        [f"# {title.strip()}"] + [f"## {name}\n\n{written.get(name, '').strip()}" for name in SECTIONS]
    )
    if missing := missing_sections(card):
        raise ValueError(f"sections must say something on each; received nothing on {', '.join(missing)}.")
    return card + "\n"


def missing_sections(card: str) -> list[str]:
    """The required sections that a card in Markdown lacks or leaves empty.

    Args:
        card: Markdown with a heading of the second level for each section.
    Returns:
        Some of SECTIONS, in their order.
    """
    parts = re.split(r"^## +(.*?) *$", card, flags=re.MULTILINE)[1:]
    said = {name for name, text in zip(parts[::2], parts[1::2], strict=True) if text.strip()}
    return [name for name in SECTIONS if name not in said]


def _table(measurements):
    if not measurements:
        raise ValueError("measurements must hold at least one; received none.")
    lines = ["| measure | value | baseline | how |", "|---|---|---|---|"]
    for one in measurements:
        if not (math.isfinite(one.value) and math.isfinite(one.baseline)):
            raise ValueError(f"measurements must be finite; received {one}.")
        if not one.name.strip() or not one.how.strip():
            raise ValueError(f"measurements must say of what and how; received {one}.")
        name, how = (" ".join(text.replace("|", "/").split()) for text in (one.name, one.how))
        value, baseline = (f"{x:.3f}" if x == 0 or abs(x) >= 0.001 else f"{x:.1e}" for x in one[1:3])
        lines.append(f"| {name} | {value} | {baseline} | {how} |")
    return "\n".join(lines)
