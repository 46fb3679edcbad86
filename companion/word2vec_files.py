"""The files of the word2vec and GloVe programs: a word and its numbers in each row, as text or binary."""

import re
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from companion.vector_streams import LONGEST_LINE, LONGEST_WORD, MOST_COLUMNS, Rows, Source, Words

HEADER = re.compile(rb"([+-]?\d{1,19}) ([+-]?\d{1,19})[ \r]*")
NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
DECIMAL, PRINTABLE = b"0123456789+-.eE ", bytes(range(32, 127)) + b"\r\n"
BLOCK_BYTES = 1 << 20
BLOCK = 1024  # words written at once


def detect(source: Source) -> str:
    """Says which of "glove", "word2vec" and "word2vec-binary" the next bytes look like; takes none."""
    line = source.peek(64).split(b"\n")[0]
    match = HEADER.fullmatch(line)
    if not match:
        return "glove"
    columns = min(max(int(match[2]), 1), MOST_COLUMNS)
    row = source.peek(min(LONGEST_WORD + 32 * columns, LONGEST_LINE))[len(line) + 1 :]
    found = row.partition(b"\n")[0].rstrip(b" \r").split(b" ")
    if len(found) > columns and all(map(NUMBER.fullmatch, found[-columns:])):
        return "word2vec"
    behind = row.partition(b" ")[2]
    behind = behind[: max(4 * columns, behind.find(b"\n"))]
    return "word2vec-binary" if behind.translate(None, PRINTABLE) else "word2vec"  # damaged text is text


def read_header(source: Source) -> tuple[int, int]:
    """Takes the first line, the numbers of words N and of columns D, and returns them.

    Raises:
        ValueError: There is no such line, or the file is shorter than it promises.
    """
    start = source.peek(64)
    line = start.split(b"\n")[0]
    match = HEADER.fullmatch(line)
    if not match:
        raise _wrong(source, 1, "two integers, how many words and numbers for each", repr(_shown(line)))
    rows, columns = map(int, match.groups())
    if rows < 1 or not 1 <= columns <= MOST_COLUMNS:
        raise _wrong(source, 1, f"at least 1 word of 1 to {MOST_COLUMNS} numbers", f"{rows} of {columns}")
    source.take(min(len(line) + 1, len(start)), "the first line")
    least = rows * (2 * columns + 2) - 1  # bytes, as text of one digit each; binary rows are longer
    if source.left is not None and source.left < least:
        promise = f"at least {least} bytes, for {rows} words of {columns} numbers"
        raise _wrong(source, 1, promise, f"only {source.left} to the end of the file")
    return rows, columns


def read_text(source: Source, kept: Words, header: tuple[int, int] | None) -> np.ndarray:
    """Reads rows of text.

    Args:
        source: Stands at the first row.
        kept: Says which words to keep; reading stops when it is complete.
        header: N and D as the file promises; None: until the end, as wide as the first row.
    Returns:
        (K, D) float32, the vectors of the words that were kept.
    Raises:
        ValueError: Names the line, and what is wrong with it.
    """
    text = _Text(source, kept, header)
    for lines in source.lines():
        text.add(lines)
        if kept.complete:
            break
    return text.finished()


def read_binary(source: Source, kept: Words, header: tuple[int, int]) -> np.ndarray:
    """Reads binary rows, with a newline behind each (word2vec writes them) or without (gensim does).

    Args, Returns and Raises are those of `read_text`; a message names the byte.
    """
    rows, columns = header
    matrix, data, offsets = Rows(source, columns, rows), bytearray(), []
    for row in range(1, rows + 1):
        if kept.complete:
            break
        what = f"word {row} of {rows}, a space and {columns} float32"
        offset = source.offset
        word, numbers = source.until(b" ", 4 * columns, what)
        if not word:
            raise source.wrong(what, "a space", offset)
        if source.peek(1) == b"\n":
            source.take(1, "a newline")
        if kept.add(word.decode("utf-8", "replace")):
            data += numbers
            offsets.append(offset + len(word) + 1)
        if len(data) >= BLOCK_BYTES:
            matrix.append(_floats(source, data, columns, offsets))
            data, offsets = bytearray(), []
    matrix.append(_floats(source, data, columns, offsets))
    if not kept.complete:
        source.end(f"{rows} words")
    return matrix.finished()


def _floats(source: Source, data: bytearray, columns: int, offsets: list[int]) -> np.ndarray:
    block = np.frombuffer(data, "<f4").reshape(-1, columns)
    if not np.isfinite(block).all():
        row, column = np.argwhere(~np.isfinite(block))[0]
        raise source.wrong("a finite number", str(block[row, column]), offsets[row] + 4 * int(column))
    return block


def rows_written(words: Sequence[str], vectors: np.ndarray, format: str) -> Iterator[bytes]:
    """Makes a file that the words and (N, D) float32 vectors can be read back from, bit by bit."""
    size, columns = vectors.shape
    if format != "glove":
        yield f"{size} {columns}\n".encode()
    pattern = " %.9g" * columns + "\n"  # nine digits tell any two float32 apart
    for first in range(0, size, BLOCK):
        names, block = words[first : first + BLOCK], vectors[first : first + BLOCK]
        if format == "word2vec-binary":
            rows = block.astype("<f4")
            yield b"".join(
                b"%b %b\n" % (w.encode(), row.tobytes()) for w, row in zip(names, rows, strict=True)
            )
        else:
            rows = block.tolist()
            yield "".join(w + pattern % tuple(row) for w, row in zip(names, rows, strict=True)).encode()


class _Text:
    """Rows of text: where reading stands, and what was kept."""

    def __init__(self, source: Source, kept: Words, header: tuple[int, int] | None):
        self.source, self.kept = source, kept
        self.promised, self.columns = header or (None, None)
        self.matrix = Rows(source, self.columns, self.promised) if header else None
        self.line, self.blank = (1 if header else 0), 0  # the last line seen, the first one of blank ones
        self.rows = 0

    def add(self, lines: list[bytes]) -> None:
        """Takes lines, until no word is missing any more."""
        numbers, places = [], []
        for line in lines:
            self.line += 1
            line = line.rstrip(b" \r")
            if not line:
                self.blank = self.blank or self.line
                continue
            word, rest = self.split(line)
            if self.kept.add(word.decode("utf-8", "replace")):
                numbers.append(rest)
                places.append(self.line)
            if self.kept.complete:
                break
        if numbers:
            self.matrix.append(self.parsed(numbers, places))

    def split(self, line: bytes) -> tuple[bytes, bytes]:
        """Parts a row into its word and the text of its numbers."""
        if self.blank:
            raise _wrong(self.source, self.blank, "a word and its numbers", "a blank line")
        if self.rows == self.promised:
            expected = f"nothing after the {self.promised} words that the first line promises"
            raise _wrong(self.source, self.line, expected, repr(_shown(line)))
        if self.columns is None:
            self.columns = self.width(line)
            self.matrix = Rows(self.source, self.columns)
        self.rows += 1
        if line.count(b" ") == self.columns:
            word, _, rest = line.partition(b" ")
        else:
            word, rest = self.split_spaced(line)
        if not word:
            raise _wrong(self.source, self.line, "a word before the first space", repr(_shown(line)))
        return word, rest

    def split_spaced(self, line: bytes) -> tuple[bytes, bytes]:
        """Parts a row whose word holds spaces: GloVe has ". . ."."""
        found = line.split(b" ")
        word, rest = found[: -self.columns], found[-self.columns :]
        if not word or any(not part or NUMBER.fullmatch(part) for part in word[1:]):
            expected = f"a word and {self.columns} numbers, a space before each"
            raise _wrong(self.source, self.line, expected, f"{len(found) - 1} after {_shown(found[0])!r}")
        return b" ".join(word), b" ".join(rest)

    def width(self, line: bytes) -> int:
        """How many numbers the first row has."""
        found = line.split(b" ")[1:]
        words = [i for i, column in enumerate(found, start=1) if not NUMBER.fullmatch(column)]
        width = len(found) - max(words, default=0)
        if width < 1:
            raise _wrong(self.source, self.line, "a word and its numbers", repr(_shown(line)))
        return width

    def parsed(self, numbers: list[bytes], places: list[int]) -> np.ndarray:
        """Turns the text of rows into (k, D) numbers: all at once, or one by one to say which is none."""
        text = b" ".join(numbers)
        if not text.translate(None, DECIMAL) and b"  " not in text and text[:1] != b" ":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # an older NumPy warns, and stops
                try:
                    block = np.fromstring(text, np.float32, sep=" ")
                except ValueError:
                    block = np.zeros(0, np.float32)
            if block.size == len(numbers) * self.columns and np.isfinite(block).all():
                return block.reshape(-1, self.columns)
        rows = [self.parsed_slowly(row, place) for row, place in zip(numbers, places, strict=True)]
        return np.array(rows, np.float32)

    def parsed_slowly(self, row: bytes, place: int) -> list[float]:
        """The numbers of one row; the error names the first that is none."""
        found = row.split(b" ")
        for column, text in enumerate(found, start=1):
            if not NUMBER.fullmatch(text):
                raise _wrong(self.source, place, f"a number in column {column}", repr(_shown(text)))
            with np.errstate(over="ignore"):
                finite = np.isfinite(np.float32(float(text)))
            if not finite:
                raise _wrong(self.source, place, f"a finite float32 in column {column}", _shown(text))
        return [float(text) for text in found]

    def finished(self) -> np.ndarray:
        """The (K, D) matrix; refuses a file that ends too early."""
        if self.columns is None:
            raise _wrong(self.source, 1, "a word and its numbers", "blank lines only")
        if self.promised is not None and self.rows < self.promised and not self.kept.complete:
            expected = f"{self.promised} words, as the first line promises"
            raise _wrong(self.source, self.line, expected, f"the end of the file after {self.rows}")
        return self.matrix.finished()


def _wrong(source: Source, line: int, expected: str, found: str) -> ValueError:
    return ValueError(f"{source.name}, line {line}: expected {expected}; found {found}.")


def _shown(text: bytes) -> str:
    return text[:40].decode("utf-8", "replace")
