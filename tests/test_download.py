import errno
import functools
import hashlib
import http.server
import io
import os
import re
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest

from companion import download as module
from companion.download import DATASETS, Dataset, DownloadError, cache_folder, download, extract

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        name, asked = self.path.strip("/"), self.headers.get("Range")
        self.server.requests.append((name, asked))
        start = int(asked.split("=")[1].rstrip("-")) if asked else 0
        if name == "missing.bin":
            return self.send_error(404)
        if name == "redirect.bin":
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            return self.end_headers()
        if asked and name.startswith("norange"):
            start = 0
        elif start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            claimed = start + 1 if name == "wrongrange.bin" else start
            self.send_header("Content-Range", f"bytes {claimed}-{len(CONTENT) - 1}/{len(CONTENT)}")
        body = CONTENT[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if "cut" in name and self.server.cuts > 0:
            self.server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)


@pytest.fixture(scope="module")
def running():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running, monkeypatch, tmp_path):
    for name in ("COMPANION_MIRROR", "COMPANION_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "cache"))
    running.requests, running.cuts = [], 0
    running.url = f"http://127.0.0.1:{running.server_port}"
    return running


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_good_file_is_fetched_once(server, tmp_path, capsys):
    path = download(f"{server.url}/good.bin", SHA256)
    assert path == tmp_path / "cache" / "downloads" / "good.bin" and path.read_bytes() == CONTENT
    assert "good.bin" in capsys.readouterr().err  # progress
    assert download(f"{server.url}/good.bin", SHA256) == path and len(server.requests) == 1
    assert files(path.parent) == ["good.bin"]


def test_md5_and_upper_case_hashes_are_understood(server, tmp_path):
    assert download(f"{server.url}/a.bin", folder=tmp_path, md5=MD5).exists()
    assert download(f"{server.url}/b.bin", SHA256.upper(), tmp_path).exists()
    with pytest.raises(ValueError, match=f"the md5 {MD5}, expected {'0' * 32}"):
        download(f"{server.url}/c.bin", SHA256, tmp_path, md5="0" * 32)


def test_a_wrong_hash_leaves_nothing(server, tmp_path):
    with pytest.raises(ValueError, match=f"bad.bin has the sha256 {SHA256}, expected 1234. It was discarded"):
        download(f"{server.url}/bad.bin", "1234", tmp_path)
    assert files(tmp_path) == [] and len(server.requests) == 1


def test_a_file_put_there_by_hand_is_checked_and_not_replaced(server, tmp_path):
    (tmp_path / "mine.bin").write_bytes(b"mine")
    with pytest.raises(ValueError, match="mine.bin has the sha256 .* Delete it to fetch it again"):
        download(f"{server.url}/mine.bin", SHA256, tmp_path)
    assert (tmp_path / "mine.bin").read_bytes() == b"mine" and not server.requests
    (tmp_path / "mine.bin").write_bytes(CONTENT)
    assert download(f"{server.url}/mine.bin", SHA256, tmp_path).exists() and not server.requests


def test_a_cut_connection_resumes(server, tmp_path):
    server.cuts = 2
    assert download(f"{server.url}/cut.bin", SHA256, tmp_path).read_bytes() == CONTENT
    half, quarters = len(CONTENT) // 2, len(CONTENT) * 3 // 4
    assert [asked for _, asked in server.requests] == [None, f"bytes={half}-", f"bytes={quarters}-"]


def test_a_connection_cut_too_often_keeps_its_part_for_the_next_call(server, tmp_path):
    server.cuts = 3
    with pytest.raises(DownloadError, match=r"cut off at byte \d+ of .* by hand at .*COMPANION_MIRROR"):
        download(f"{server.url}/cut.bin", SHA256, tmp_path)
    assert files(tmp_path) == ["cut.bin.part"]
    download(f"{server.url}/cut.bin", SHA256, tmp_path)
    assert server.requests[-1][1] == f"bytes={len(CONTENT) * 7 // 8}-" and files(tmp_path) == ["cut.bin"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.cuts = 1
    assert download(f"{server.url}/norange-cut.bin", SHA256, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2 and server.requests[1][1]


def test_another_range_than_asked_for_is_not_appended(server, tmp_path):
    (tmp_path / "wrongrange.bin.part").write_bytes(CONTENT[:1000])
    assert download(f"{server.url}/wrongrange.bin", SHA256, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == ["bytes=1000-", None]


@pytest.mark.parametrize("stale", [b"another edition", CONTENT + b"longer", b"x" * len(CONTENT)])
def test_a_part_of_something_else_is_discarded(server, tmp_path, stale):
    (tmp_path / "file.bin.part").write_bytes(stale)
    assert download(f"{server.url}/file.bin", SHA256, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [f"bytes={len(stale)}-", None]


def test_a_complete_part_needs_no_request(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert download(f"{server.url}/file.bin", SHA256, tmp_path).read_bytes() == CONTENT
    assert not server.requests and files(tmp_path) == ["file.bin"]


def test_404_says_what_to_do(server, tmp_path):
    path = re.escape(str(tmp_path / "missing.bin"))
    message = f"missing.bin cannot be had: HTTP Error 404.* by hand at {path}, or set COMP"
    with pytest.raises(DownloadError, match=message):
        download(f"{server.url}/missing.bin", SHA256, tmp_path)
    assert files(tmp_path) == []


def test_an_unreachable_host_says_what_to_do(server, tmp_path):
    with pytest.raises(
        DownloadError, match="http://localhost:9/x.bin cannot be had: .*refused.*COMPANION_MIRROR"
    ):
        download("http://localhost:9/x.bin", SHA256, tmp_path)


@pytest.mark.parametrize("failing", ["write", "close"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_file_that_cannot_be_written_is_not_tried_again_and_resumes(
    server, tmp_path, monkeypatch, failing, code
):
    class Full(io.FileIO):
        def write(self, data):
            if failing == "write" and self.tell() >= 600_000:
                raise OSError(code, os.strerror(code))
            return super().write(data)

        def close(self):
            full = failing == "close" and not self.closed
            super().close()
            if full:  # what was buffered could not be written
                raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(module, "open", lambda path, mode: Full(path, mode), raising=False)
        message = f"{os.strerror(code)}: cannot write file.bin after .* bytes; mend this and call again"
        with pytest.raises(OSError, match=message) as caught:
            download(f"{server.url}/file.bin", None, tmp_path, md5=MD5)
    assert caught.value.errno == code and not isinstance(caught.value, DownloadError)
    assert len(server.requests) == 1
    assert files(tmp_path) == ["file.bin.part"]
    assert download(f"{server.url}/file.bin", SHA256, tmp_path).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_to_is_named(server, tmp_path):
    (tmp_path / "file.bin.part").mkdir()
    with pytest.raises(OSError, match="file.bin.part"):
        download(f"{server.url}/file.bin", SHA256, tmp_path)


def test_two_processes_at_once_fetch_once(server, tmp_path):
    url = f"{server.url}/both.bin"
    code = "import sys; from companion.download import download; input(); download(*sys.argv[1:])"
    command = [sys.executable, "-c", code, url, SHA256, str(tmp_path)]
    environment = os.environ | {"KERAS_BACKEND": "numpy"}  # the one that starts fastest
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment) for _ in range(2)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.close()
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert (tmp_path / "both.bin").read_bytes() == CONTENT
    assert len(server.requests) == 1 and files(tmp_path) == ["both.bin"]


def test_a_killed_process_leaves_no_lock(server, tmp_path):
    code = "import filelock, os, sys; filelock.FileLock(sys.argv[1]).acquire(); os._exit(1)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file.bin.lock")])
    assert download(f"{server.url}/file.bin", SHA256, tmp_path).exists()


def test_a_mirror_is_asked_instead(server, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_MIRROR", server.url + "/")
    monkeypatch.setitem(
        DATASETS, "planted", Dataset("https://host.invalid/far/away/plain%20file.bin", sha256=SHA256)
    )
    path = download("planted", folder=tmp_path)
    assert path.name == "plain file.bin" and server.requests == [("plain%20file.bin", None)]


def test_a_plain_mirror_needs_a_hash(server, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_MIRROR", server.url)
    with pytest.raises(
        ValueError, match="sha256 must be given to fetch over plain http; received sha256=None"
    ):
        download("cmn-eng", folder=tmp_path)


def test_offline_nothing_is_asked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_OFFLINE", "1")
    with pytest.raises(
        DownloadError, match="COMPANION_OFFLINE is set, so .*/x.bin is not fetched. Put the file by"
    ):
        download(f"{server.url}/x.bin", SHA256, tmp_path)
    (tmp_path / "x.bin").write_bytes(CONTENT)
    assert download(f"{server.url}/x.bin", SHA256, tmp_path).exists() and not server.requests


def test_without_a_hash_there_is_a_warning_and_no_mixture(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:10])
    with pytest.warns(UserWarning, match="no hash is known for .*file.bin: what arrives is not checked"):
        assert download(f"{server.url}/file.bin", folder=tmp_path).read_bytes() == CONTENT
    assert server.requests == [("file.bin", None)]


def test_bytes_are_counted_where_bars_are_disabled(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "tqdm", functools.partial(module.tqdm, disable=True))
    with pytest.warns(UserWarning, match="no hash is known"):
        assert download(f"{server.url}/file.bin", folder=tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_another_address_of_the_same_name_is_another_file(server):
    with pytest.warns(UserWarning, match="no hash is known"):
        first, second = (download(f"{server.url}/{name}/file.bin") for name in ("v1", "v2"))
    assert first != second and first.name == second.name == "file.bin" and len(server.requests) == 2


@pytest.mark.parametrize("url", ["http://example.org/a.bin", "ftp://example.org/a.bin", "file:///etc/hosts"])
def test_only_https(server, url, tmp_path):
    with pytest.raises(ValueError, match=f"must begin with https://; received {url}"):
        download(url, SHA256, tmp_path)


def test_a_redirect_may_not_leave_https(server, tmp_path):
    server.redirect = "http://example.org/a.bin"
    with pytest.raises(ValueError, match="must begin with https://; received http://example.org"):
        download(f"{server.url}/redirect.bin", SHA256, tmp_path)
    server.redirect = f"{server.url}/good.bin"
    assert download(f"{server.url}/redirect.bin", SHA256, tmp_path).name == "redirect.bin"


@pytest.mark.parametrize("name", ["no-such-set", "https://example.org/", "https://example.org"])
def test_unknown_names_are_refused(server, name):
    with pytest.raises(
        ValueError, match=f"name_or_url must be one of .*text8.*received name_or_url='{name}'"
    ):
        download(name)


def test_the_registry_is_complete():
    for name, data in DATASETS.items():
        assert data.url.startswith("https://"), name
        assert len(data.sha256 or "0" * 64) == 64 and len(data.md5 or "0" * 32) == 32
        assert data.sha256 or data.md5 or name == "cmn-eng"
    names = [data.url.rsplit("/", 1)[1] for data in DATASETS.values()]
    assert len(set(names)) == len(names)  # a mirror is one folder


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("COMPANION_CACHE")
    assert cache_folder().is_absolute() and "companion" in cache_folder().parts


def archive(path, *names):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, "text")
    else:
        with tarfile.open(path, "w:gz") as file:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 4
                file.addfile(member, io.BytesIO(b"text"))
    return path


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_extract(tmp_path, suffix):
    path = archive(tmp_path / f"set.v1{suffix}", "a.txt", "inner/b.txt")
    folder = extract(path)
    assert folder == tmp_path / "set.v1" and (folder / "inner" / "b.txt").read_text() == "text"
    (folder / "a.txt").write_text("mine")
    assert (extract(path) / "a.txt").read_text() == "mine"  # not done twice
    assert files(tmp_path) == ["set.v1", f"set.v1{suffix}"]
    (tmp_path / "usual").mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
@pytest.mark.parametrize("name", ["../evil.txt", "in/../../evil.txt"])
def test_extract_writes_nothing_outside_its_folder(tmp_path, suffix, name):
    path, folder = archive(tmp_path / f"set{suffix}", "good.txt", name), tmp_path / "out" / "set"
    folder.parent.mkdir()
    with pytest.raises(ValueError, match="leads out of the folder|not safe to unpack"):
        extract(path, folder)
    assert files(tmp_path) == ["out", f"set{suffix}"] and files(tmp_path / "out") == []


def test_extract_refuses_links_and_absolute_names(tmp_path):
    path = archive(tmp_path / "set.zip", "/etc/evil.txt")
    with pytest.raises(ValueError, match="leads out of the folder"):
        extract(path)
    with tarfile.open(tmp_path / "set.tar", "w") as file:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, os.fspath(tmp_path)
        file.addfile(member)
    with pytest.raises(ValueError, match="set.tar is not safe to unpack"):
        extract(tmp_path / "set.tar")


def test_extract_refuses_what_is_no_archive(tmp_path):
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(ValueError, match="archive must be a .zip, .tar or .tar.gz file; received archive="):
        extract(tmp_path / "text.zip")
