"""Below the formats of word vectors: files read forward in pieces, tables that grow, files written whole."""

import gzip
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

CHUNK = 1 << 20
LONG_FILE = 32 << 20  # bytes; shorter ones are read before a bar could be looked at
LONGEST_WORD, LONGEST_LINE = 1 << 16, 32 << 20  # bytes; a longer one means that this is another kind of file
MOST_COLUMNS = 1 << 20


class Source:
    """The bytes of a file, unpacked, read forward only; it knows where it stands.

    Attributes:
        name: What messages call it.
        bar: Shows how much of the file was read; None: nothing does.
    """

    def __init__(self, name: str, raw: BinaryIO, file: BinaryIO, packed: tuple[int, int], size: int | None):
        self.name, self._raw, self._file, self._size = name, raw, file, size
        self._first, self._packed = packed  # where its bytes begin on the disk, and how many they are
        self._data, self._at, self._base = b"", 0, 0  # read ahead; place in that; offset of its first byte
        self.bar = None

    @property
    def offset(self) -> int:
        """How many bytes were taken."""
        return self._base + self._at

    @property
    def left(self) -> int | None:
        """How many bytes follow at most; None: that is not known."""
        return None if self._size is None else self._size - self.offset

    def share(self) -> float:
        """The part of the file on the disk that was read, above 0."""
        return min(1.0, max(self._raw.tell() - self._first, 1) / max(self._packed, 1))

    def wrong(self, expected: str, found: str, offset: int | None = None) -> ValueError:
        """The error to raise about the byte at an offset; None: where the source stands."""
        offset = self.offset if offset is None else offset
        return ValueError(f"{self.name}, byte {offset}: expected {expected}; found {found}.")

    def more(self) -> bool:
        """Reads ahead by a chunk; False at the end."""
        try:
            chunk = self._file.read(CHUNK)
        except Exception as error:  # each kind of compression has its own
            if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
                raise
            end = self._base + len(self._data)
            raise ValueError(f"{self.name} is damaged after byte {end} of what it holds: {error}.") from error
        self._data, self._base, self._at = self._data[self._at :] + chunk, self.offset, 0
        if self.bar is not None:
            self.bar.update(int(self.share() * self._packed) - self.bar.n)
        return bool(chunk)

    def peek(self, count: int) -> bytes:
        """The next bytes, not taken; fewer at the end."""
        while len(self._data) - self._at < count and self.more():
            pass
        return self._data[self._at : self._at + count]

    def take(self, count: int, what: str) -> bytes:
        """Takes exactly so many bytes; the end of the file before is an error that says what is missing."""
        data = self.peek(count)
        if len(data) < count:
            raise self.wrong(f"{what} ({count} bytes)", f"the end of the file after {len(data)}")
        self._at += count
        return data

    def until(self, mark: bytes, count: int, what: str) -> tuple[bytes, bytes]:
        """Takes and returns the bytes before a mark, and so many bytes behind it."""
        while True:
            end = self._data.find(mark, self._at, self._at + LONGEST_WORD)
            if 0 <= end <= len(self._data) - count - 1:
                break
            if end < 0 and len(self._data) - self._at >= LONGEST_WORD:
                raise self.wrong(what, f"no {mark!r} within {LONGEST_WORD} bytes")
            if not self.more():
                raise self.wrong(what, f"the end of the file after {len(self._data) - self._at} bytes")
        start, self._at = self._at, end + 1 + count
        return self._data[start:end], self._data[end + 1 : self._at]

    def lines(self) -> Iterator[list[bytes]]:
        """Takes all lines, in lists of as many as were read at once."""
        while True:
            end = self._data.rfind(b"\n", self._at)
            if end >= 0:
                lines, self._at = self._data[self._at : end].split(b"\n"), end + 1
                yield lines
            elif len(self._data) - self._at > LONGEST_LINE:
                raise self.wrong("a line of text", f"none that ends within {LONGEST_LINE} bytes")
            elif not self.more():
                break
        if last := self.peek(LONGEST_LINE):
            self._at += len(last)
            yield [last]

    def skip(self, count: int, what: str) -> None:
        """Passes over so many bytes."""
        if self._file is self._raw and count <= self.left:
            self._data, self._base, self._at = b"", self.offset + count, 0
            self._raw.seek(self._base)
            return
        while count > (ahead := len(self._data) - self._at):
            count, self._at = count - ahead, len(self._data)
            if not self.more():
                raise self.wrong(f"{count} more bytes of {what}", "the end of the file")
        self._at += count

    def end(self, what: str) -> None:
        """Refuses anything that follows."""
        if rest := self.peek(20):
            raise self.wrong(f"the end of the file after {what}", repr(rest))


@contextmanager
def opened(path: str | os.PathLike, member: str | None = None, progress: bool = True) -> Iterator[Source]:
    """Opens a file, or the only or the named one in a zip; gzip and zip are known by their first bytes.

    Args:
        path: The file.
        member: The name of a file in the zip; None: it holds one.
        progress: Show a bar while more than LONG_FILE bytes are read.
    Yields:
        Source.
    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The archive is damaged, or it is not clear which file in it is meant.
    """
    with open(path, "rb") as raw:
        size, first = os.path.getsize(path), raw.read(4)
        raw.seek(0)
        zipped = first in (b"PK\3\4", b"PK\5\6")
        if member is not None and not zipped:
            raise ValueError(f"member must be None where the file is no zip; received {member=} for {path}.")
        if zipped:
            source = _unzipped(path, raw, member)
        elif first[:2] == b"\x1f\x8b":
            source = Source(str(path), raw, gzip.GzipFile(fileobj=raw), (0, size), None)
        else:
            source = Source(str(path), raw, raw, (0, size), size)
        hidden = not (progress and source._packed > LONG_FILE)
        with tqdm(
            total=source._packed, unit="B", unit_scale=True, desc=Path(path).name, disable=hidden
        ) as source.bar:
            yield source


def _unzipped(path: str | os.PathLike, raw: BinaryIO, member: str | None) -> Source:
    try:
        archive = zipfile.ZipFile(raw)
        files = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        if member is None and len(files) == 1:
            (member,) = files
        file = archive.open(files[member]) if member in files else None
    except Exception as error:  # damaged, encrypted, an unknown compression: there is one for each
        raise ValueError(f"{path} cannot be unpacked: {error}.") from error
    if file is None:
        raise ValueError(f"member= must be one of the files in {path}: {[*files]}; received {member=}.")
    info = files[member]
    packed = (info.header_offset, min(info.compress_size, os.path.getsize(path)))
    return Source(f"{path} ({member})", raw, file, packed, info.file_size)


class Rows:
    """A float32 matrix that grows with what was read, so that no promise of a file is believed."""

    def __init__(self, source: Source, columns: int, most: int | None = None):
        self._source, self._most = source, most
        self._array, self._used = np.empty((0, columns), np.float32), 0

    def append(self, block: np.ndarray) -> None:
        """Adds (k, D) rows."""
        needed = self._used + len(block)
        if needed > len(self._array):
            room = int(needed / self._source.share() * 1.05) + 64  # if the rest of the file is alike
            room = max(needed, min(room, 4 * needed, self._most or room))
            self._array.resize((room, self._array.shape[1]), refcheck=False)
        self._array[self._used : needed] = block
        self._used = needed

    def finished(self) -> np.ndarray:
        """The (N, D) matrix; no row can be added afterwards."""
        array, self._array = self._array, None
        array.resize((self._used, array.shape[1]), refcheck=False)
        return array


class Words:
    """The words that are kept, in order: each once, and where some are wanted, only those.

    Attributes:
        index: {word: its place}.
        missing: The wanted words that were not met yet; None: all words are wanted.
        repeated: How often a word was met that was there already.
    """

    def __init__(self, wanted: Iterable[str] | None):
        self.index: dict[str, int] = {}
        self.missing = None if wanted is None else set(wanted)
        self.repeated = 0

    @property
    def complete(self) -> bool:
        """No word is missing any more."""
        return self.missing is not None and not self.missing

    def add(self, word: str) -> bool:
        """Says whether this word's vector is to be kept."""
        if word in self.index:
            self.repeated += 1
            return False
        if self.missing is not None:
            if word not in self.missing:
                return False
            self.missing.remove(word)
        self.index[word] = len(self.index)
        return True


def write_whole(path: str | os.PathLike, blocks: Iterable[bytes]) -> None:
    """Writes a file, or leaves what was there; one named .gz is compressed, always to the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            if path.suffix.lower() == ".gz":
                with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                    packed.writelines(blocks)
            else:
                file.writelines(blocks)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
