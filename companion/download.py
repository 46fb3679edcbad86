"""Optional public data sets: fetched once over https, checked by hash, kept in the reader's cache folder."""

import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from filelock import FileLock
from tqdm import tqdm

from companion.cache import cache_folder

CHUNK = 1 << 18
TRIES = 3


class Dataset(NamedTuple):
    """A public file: where it is, and the hash it was published with (md5 where no sha256 is known)."""

    url: str
    sha256: str | None = None
    md5: str | None = None


DATASETS = {  # IMDB and Reuters come through keras.datasets, which checks its own hashes
    "aclimdb": Dataset(
        "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
        md5="7c2ac02c03563afcf9b574c7e56c153a",
    ),
    "glove.6b": Dataset("https://nlp.stanford.edu/data/glove.6B.zip", md5="056ea991adb4740ac6bf1b6d9b50408b"),
    "text8": Dataset(
        "https://mattmahoney.net/dc/text8.zip",
        sha256="a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    ),
    "sst2": Dataset(
        "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip", md5="9f81648d4199384278b86e315dac217c"
    ),
    "squad-train": Dataset(
        "https://rajpurkar.github.io/SQuAD-explorer/dataset/train-v1.1.json",
        md5="981b29407e0affa3b1b156f72073b945",
    ),
    "squad-dev": Dataset(
        "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v1.1.json",
        md5="3e85deb501d4e538b6bc56f786231552",
    ),
    "cmn-eng": Dataset("https://www.manythings.org/anki/cmn-eng.zip"),  # no hash is published; it changes
    "movielens-small": Dataset(
        "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
        sha256="696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    ),
}


class DownloadError(OSError):
    """A file could not be fetched; the message says what to do instead."""


def download(
    name_or_url: str, sha256: str | None = None, folder: str | Path | None = None, md5: str | None = None
) -> Path:
    """Fetch a file unless it is there already; an interrupted download resumes.

    Args:
        name_or_url: A name in DATASETS, or an https address (http only for this machine or a mirror).
        sha256: Expected SHA-256, 64 hexadecimal digits; for a name, the registry's.
        folder: Where to keep it; None: "downloads" in the cache folder, and there an address without a hash
            has a folder of its own, for another of the same name is another file.
        md5: Expected MD5, for sets published with nothing better: against accidents, not against malice.
    Returns:
        The path of the complete, verified file.
    Raises:
        ValueError: unknown name, not https, or the file does not have the expected hash.
        DownloadError: offline, unreachable, refused by the server, or cut off too often.
        OSError: the file cannot be written, for instance because the disk is full.
    Environment: COMPANION_MIRROR, a folder's address that holds the same file names, is asked instead of the
    original host; COMPANION_OFFLINE=1 forbids fetching.
    """
    known = DATASETS.get(name_or_url) or Dataset(name_or_url)
    data = Dataset(known.url, sha256 or known.sha256, md5 or known.md5)
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(data.url).path)).name
    if "://" not in data.url or not name:
        raise ValueError(
            f"name_or_url must be one of {sorted(DATASETS)} or the https address of a file; "
            f"received name_or_url={name_or_url!r}."
        )
    apart = "" if name_or_url in DATASETS or data.sha256 or data.md5 else _short_hash(data.url)
    target = Path(folder or cache_folder() / "downloads" / apart) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):  # a second process waits here, then finds the file
        if not target.exists():
            _fetch(data, target)
        elif problem := _mismatch(target, data):
            raise ValueError(f"{target} has {problem}. Delete it to fetch it again.")
    return target


def extract(archive: str | Path, folder: str | Path | None = None) -> Path:
    """Unpack a .zip, .tar or .tar.gz; nothing is written outside the folder, nothing is left half done.

    Args:
        archive: The file.
        folder: The folder to make; None: beside the archive, named like it without suffixes.
    Returns:
        The folder. One that exists is returned as it is.
    Raises:
        ValueError: not such an archive, or a member's name leads out of the folder.
    """
    archive = Path(archive)
    folder = Path(folder or archive.with_name(archive.name.split(".zip")[0].split(".tar")[0]))
    with FileLock(f"{folder}.lock"):
        if folder.exists():
            return folder
        if folder == archive or not (zipfile.is_zipfile(archive) or tarfile.is_tarfile(archive)):
            raise ValueError(f"archive must be a .zip, .tar or .tar.gz file; received archive={archive}.")
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as temporary:
            part = Path(temporary, "part")
            part.mkdir()  # with the usual mode; the temporary folder is closed to others
            _unpack(archive, part)
            os.replace(part, folder)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                if "\\" in name or not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise ValueError(f"{archive} holds {name!r}, which leads out of the folder.")
            file.extractall(folder)
    else:
        with tarfile.open(archive) as file:
            try:
                file.extractall(folder, filter="data")
            except tarfile.FilterError as error:
                raise ValueError(f"{archive} is not safe to unpack: {error}.") from error


def _fetch(data: Dataset, target: Path) -> None:
    url, part = _address(data, target), target.with_name(f"{target.name}.part")
    if not (data.sha256 or data.md5):
        part.unlink(missing_ok=True)  # nothing could tell a mixture of two editions
    for left in reversed(range(TRIES)):
        resumed = part.exists() and part.stat().st_size > 0
        try:
            if not (resumed and (data.sha256 or data.md5) and not _mismatch(part, data)):
                _transfer(url, part)
        except DownloadError as error:
            if not left:
                raise DownloadError(f"{error} {_advice(target)}") from error
            continue
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise DownloadError(f"{url} cannot be had: {error}. {_advice(target)}") from error
        if not (problem := _mismatch(part, data)):
            return os.replace(part, target)
        part.unlink()
        if not (resumed and left):  # a resumed part may be of an older edition: start over
            raise ValueError(f"{url} has {problem}. It was discarded.")


def _address(data: Dataset, target: Path) -> str:
    mirror = os.environ.get("COMPANION_MIRROR", "").rstrip("/")
    url = f"{mirror}/{urllib.parse.quote(target.name)}" if mirror else data.url
    if os.environ.get("COMPANION_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(f"COMPANION_OFFLINE is set, so {url} is not fetched. {_advice(target)}")
    _check_scheme(url)
    if mirror and not url.startswith("https:") and not (data.sha256 or data.md5):
        raise ValueError(f"sha256 must be given to fetch over plain http; received sha256=None for {url}.")
    if not (data.sha256 or data.md5):
        warnings.warn(f"no hash is known for {url}: what arrives is not checked.", stacklevel=4)
    return url


def _check_scheme(url: str) -> None:
    parts, mirror = urllib.parse.urlsplit(url), urllib.parse.urlsplit(os.environ.get("COMPANION_MIRROR", ""))
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and (local or parts.netloc == mirror.netloc)):
        raise ValueError(f"the address must begin with https://; received {url}.")


class _Redirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, url):
        _check_scheme(url)
        return super().redirect_request(request, file, code, message, headers, url)


def _transfer(url: str, part: Path) -> None:
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "Mozilla/5.0 (companion)"}  # some hosts refuse Python's own name
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.build_opener(_Redirect).open(
            urllib.request.Request(url, headers=headers), timeout=60
        )
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        part.unlink()  # the part is as long as the file, or longer: begin again
        raise DownloadError(f"{url} could not be resumed at byte {start}.") from error
    with response:
        if response.headers.get("Content-Range", "").split("-")[0] != f"bytes {start}":
            start = 0  # the server sends the file from its beginning
        _write(response, part, start)


def _write(response, part: Path, start: int) -> None:
    total = response.headers.get("Content-Length")
    total = start + int(total) if total else None
    done = start
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem) as bar:
        try:
            with open(part, "ab" if start else "wb") as file:  # closing writes too
                while chunk := _next_chunk(response, done):
                    file.write(chunk)
                    done += len(chunk)
                    bar.update(len(chunk))  # which counts nothing where bars are disabled
        except DownloadError:
            raise
        except OSError as error:  # not the network's: trying again would not help
            place = f"{part.stem} after {done:,} of {total or '?'} bytes"
            problem = f"{error.strerror}: cannot write {place}; mend this and call again, it resumes"
            raise OSError(error.errno, problem, str(part)) from error
    if total is not None and done != total:
        raise DownloadError(f"{response.url} was cut off at byte {done} of {total}.")


def _next_chunk(response, done: int) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{response.url} was cut off at byte {done}: {error}.") from error


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _mismatch(path: Path, data: Dataset) -> str | None:
    for name in ("sha256", "md5"):
        if expected := getattr(data, name):
            with open(path, "rb") as file:
                received = hashlib.file_digest(file, name).hexdigest()
            if received != expected.lower():
                return f"the {name} {received}, expected {expected}"
    return None


def _advice(target: Path) -> str:
    return (
        f"Put the file by hand at {target}, or set COMPANION_MIRROR to the address of a folder that holds "
        f"{target.name}, and call again."
    )
