"""The works behind the book: a reader of BibTeX that checks what it reads (article section 7)."""

import os
import re
from pathlib import Path
from typing import NamedTuple

REQUIRED = {
    "article": ("journal", "volume"),
    "book": ("publisher", "isbn"),
    "incollection": ("booktitle", "publisher"),
    "inproceedings": ("booktitle",),
    "misc": ("eprint",),
    "techreport": ("institution",),
}
FIELDS = {"author", "title", "year", "pages", "edition", "editor", "chapter", "howpublished", "note"}
FIELDS |= {"doi", "eprint", "archiveprefix", *(name for names in REQUIRED.values() for name in names)}
EPRINTS = {
    "arXiv": r"\d\d(0[1-9]|1[0-2])\.\d{4,5}",
    "ACL": r"[A-Z]\d\d-\d{4}|\d{4}\.[a-z]+-[a-z]+\.\d+",  # the ACL Anthology
}


class Entry(NamedTuple):
    """A work: its kind ("article", "book" ...), its key, and its fields by their BibTeX names."""

    kind: str
    key: str
    fields: dict[str, str]

    @property
    def families(self) -> list[str]:
        """The family names of the authors, in their order; "others" where the list is cut."""
        return [name.partition(",")[0] for name in self.fields["author"].split(" and ")]

    @property
    def short(self) -> str:
        """How the book's prose names the work, such as "Vaswani et al. 2017"."""
        first, *rest = self.families
        others = (
            " et al." if len(rest) > 1 or rest == ["others"] else "".join(f" and {name}" for name in rest)
        )
        return f"{first}{others} {self.fields['year']}"

    @property
    def identifier(self) -> str:
        """Where to find the work: its DOI, else its eprint, else its ISBN; "" without any."""
        fields = self.fields
        eprint = f"{fields.get('archiveprefix')}:{fields.get('eprint')}"
        choices = {"doi": f"doi:{fields.get('doi')}", "eprint": eprint, "isbn": f"ISBN {fields.get('isbn')}"}
        return next((text for name, text in choices.items() if name in fields), "")


def read_bibliography(path: str | os.PathLike) -> dict[str, Entry]:
    """Reads and checks a BibTeX file: the book's own, data/bibliography.bib, or one as plainly written.

    Args:
        path: A UTF-8 file of entries `@kind{key,` ... `}`, in between a line `name = {value},` for each
            field; no @string, no quotes, no TeX in values. Lines that begin with % are remarks.
    Returns:
        The entries by key, in the order of the file.
    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line that is none of these; a key or field given twice; a field that is unknown,
            missing, or not of its form: a year has four digits, a DOI begins with 10., an arXiv number holds
            a month, the last of an ISBN's thirteen digits checks the others. Key and field are named.
    Source: the entries and fields of BibTeX (Patashnik 1988), with eprint and archiveprefix as arXiv gives
    them. Differs: a small part of it, and stricter.
    """
    entries: dict[str, Entry] = {}
    entry = None
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("%"):
            continue
        where = f"{path}, line {number}"
        if entry is None:
            entry = _opened(line, where, entries)
        elif line == "}":
            _check(entry, path)
            entries[entry.key] = entry
            entry = None
        else:
            _add(entry, line, where)
    if entry is not None:
        raise ValueError(f'{path}, {entry.key}: a line "}}" expected at its end; found none.')
    return entries


def is_isbn(text: str) -> bool:
    """Whether thirteen digits are an ISBN: weighted 1, 3, 1, 3 ... they sum to a multiple of 10.

    Source: ISO 2108:2017, annex A.
    """
    if not re.fullmatch(r"97[89][0-9]{10}", text):
        return False
    return sum(int(digit) * (3 if i % 2 else 1) for i, digit in enumerate(text)) % 10 == 0


def _opened(line, where, entries):
    opening = re.fullmatch(r"@(\w+)\{([a-z0-9]+),", line)
    if not opening or opening[1] not in REQUIRED:
        kinds = ", ".join(REQUIRED)
        raise ValueError(f"{where}: @kind{{key, expected, the kind one of {kinds}; found {line!r}.")
    if opening[2] in entries:
        raise ValueError(f"{where}: each key once expected; found {opening[2]!r} again.")
    return Entry(opening[1], opening[2], {})


def _add(entry, line, where):
    field = re.fullmatch(r"  (\w+) = \{([^{}\\]+)\},", line)
    if not field:
        raise ValueError(f"{where}, {entry.key}: name = {{value}}, expected; found {line!r}.")
    name, value = field[1], field[2]
    if name not in FIELDS or name in entry.fields:
        raise ValueError(f"{where}, {entry.key}: a known field, once, expected; found {name!r}.")
    entry.fields[name] = value


def _check(entry, path):
    fields = entry.fields
    for name in ("author", "title", "year", *REQUIRED[entry.kind]):
        if name not in fields:
            raise ValueError(f"{path}, {entry.key}: field {name!r} expected in @{entry.kind}; found none.")
    prefix = fields.get("archiveprefix", "")
    forms = {
        "year": ("four digits", re.fullmatch(r"(19|20)\d\d", fields["year"])),
        "doi": ("10., a slash and more", re.fullmatch(r"10\.\d{4,9}/\S+", fields.get("doi", ""))),
        "eprint": (
            "a number of the archiveprefix arXiv or ACL",
            re.fullmatch(EPRINTS.get(prefix, "(?!)"), fields.get("eprint", "")),
        ),
        "isbn": ("thirteen digits that check", is_isbn(fields.get("isbn", ""))),
    }
    for name, (form, right) in forms.items():
        if name in fields and not right:
            raise ValueError(f"{path}, {entry.key}: {name} as {form} expected; found {fields[name]!r}.")
