"""Downloads against a server of our own that lies in every way that servers can."""

import contextlib
import socket
import threading
import time
import zipfile

import pytest
import torch

import sparse_circuits.convert.download as downloads
from sparse_circuits.checkpoints.archive import read_archive
from sparse_circuits.convert import convert_openai_checkpoint
from sparse_circuits.convert.download import download, file_url, folder_name, shown


class Server:
    """Answers every request with the same bytes, the way `send` sends them; `hits` counts requests, `seen` keeps their first lines."""

    def __init__(self, send):
        self.send, self.seen = send, []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.socket.accept()
                threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer):
        with peer, contextlib.suppress(OSError):
            peer.settimeout(5)
            self.seen.append(peer.recv(65536).split(b"\r\n")[0])
            if callable(self.send):
                self.send(peer)
            else:
                peer.sendall(self.send)


@pytest.fixture
def served():
    servers = []

    def serve(send):
        servers.append(Server(send))
        return servers[-1]

    yield serve
    for server in servers:
        server.socket.close()


def answer(body=b"hello", *headers, status="200 OK"):
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode() + body


def drips(peer):
    peer.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        peer.sendall(b"X: y\r\n")
        time.sleep(0.05)


def drips_body(peer):
    peer.sendall(answer(b"", "Content-Length: 1000"))
    for _ in range(100):
        peer.sendall(b"x")
        time.sleep(0.05)


WRONG = {
    "not found": (answer(b"", "Content-Length: 0", status="404 Not Found"), "answered 404 Not Found"),
    "fewer than announced": (answer(b"hello", "Content-Length: 500"), "broke off after 5 of 500 bytes"),
    "negative": (answer(b"hello", "Content-Length: -5"), "answers with '-5' for its length"),
    "no number": (answer(b"hello", "Content-Length: abc"), "answers with 'abc' for its length"),
    "announces too much": (answer(b"hello", "Content-Length: 999999999999"), "999,999,999,999 bytes, more than the 1,000 that it can need"),
    "sends too much": (answer(b"x" * 5000), "sends more than the 1,000 bytes"),
    "broken chunks": (answer(b"zz\r\nhello\r\n", "Transfer-Encoding: chunked"), "broke off"),
    "chunks that end early": (answer(b"50\r\nhello", "Transfer-Encoding: chunked"), "broke off"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", "cannot be reached, or broke off"),
    "nothing": (b"", "cannot be reached, or broke off"),
    "a line too long": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "cannot be reached, or broke off"),
    "too many headers": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "cannot be reached, or broke off"),
    "to a file": (answer(b"", "Location: file:///etc/passwd", status="302 Found"), "leads to a file address, which is not followed"),
    "to ftp": (answer(b"", "Location: ftp://x/y", status="301 Moved"), "leads to a ftp address"),
    "to data": (answer(b"", "Location: data:text/plain,x", status="307 Moved"), "leads to a data address"),
    "in a circle": (answer(b"", "Location: /again", status="302 Found"), "answered 302"),
    "to nowhere": (answer(b"", "Location: http://127.0.0.1:1/", status="302 Found"), "cannot be reached"),
    "to no address": (answer(b"", "Location: http://[/", status="302 Found"), "127.0.0.1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_lying_servers_are_named(kind, served, tmp_path):
    send, message = WRONG[kind]
    with pytest.raises((ValueError, OSError), match=message) as caught:
        download(f"{served(send).url}/x?token=SECRET#SECRET", tmp_path / "x", 1000)
    assert len(str(caught.value).splitlines()) == 1
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("send", [drips, drips_body, lambda peer: time.sleep(4)], ids=["headers", "body", "silence"])
def test_slow_servers_come_to_an_end(send, served, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PATIENCE", 0.5)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"no answer within 0.5 seconds|timed out|sent only .* bytes in"):
        download(f"{served(send).url}/x", tmp_path / "x", 10_000)
    assert time.monotonic() - began < 4


def test_what_is_well_comes_whole(served, tmp_path):
    for send in (
        answer(b"hello", "Content-Length: 5"),
        answer(b"hello"),
        answer(b"5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    ):
        download(f"{served(send).url}/x", tmp_path / "x", 1000)
        assert (tmp_path / "x").read_bytes() == b"hello"
    there = served(answer(b"hello", "Content-Length: 5"))
    away = served(answer(b"", f"Location: {there.url}/there", status="302 Found"))
    download(f"{away.url}/x", tmp_path / "x", 1000)
    assert there.seen == [b"GET /there HTTP/1.1"]


def test_https_never_becomes_http():
    request = downloads.urllib.request.Request("https://host/x?token=SECRET")
    with pytest.raises(ValueError, match="https://host/x leads to a http address") as caught:
        downloads._Redirects().redirect_request(request, None, 302, "", {}, "http://host/x")
    assert "SECRET" not in str(caught.value)


def test_addresses(tmp_path):
    assert file_url("http://host:81/a/b/?x=1#y", "f.pt") == "http://host:81/a/b/f.pt?x=1"
    assert folder_name("https://host/a/model/?token=SECRET#x") == "model"
    assert shown("http://user:SECRET@host/a?SECRET#SECRET") == "http://host/a"
    for url in (
        "http://user:SECRET@host/x",
        "http://SECRET@host/x",
        "http://host:SECRET/x",
        "http:///x?SECRET",
        "http://host/x y?SECRET",
        "http://[::1/SECRET?",
    ):
        with pytest.raises(ValueError, match=r"is no address|has a user or password") as caught:
            convert_openai_checkpoint(url, tmp_path / "out")
        assert "?" not in str(caught.value).replace("SECRET?", "")
        assert "user:SECRET" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_config_is_read_before_the_weights_are_asked_for(served, reference, tmp_path):
    server = served(answer(b"{}", "Content-Length: 2"))
    with pytest.raises(ValueError, match="lacks block_size"):
        convert_openai_checkpoint(f"{server.url}/m", tmp_path / "out")
    assert server.seen == [b"GET /m/beeg_config.json HTTP/1.1"]
    config = (reference / "checkpoints" / "attention_sink" / "beeg_config.json").read_bytes()

    def send(peer):
        wanted = server.seen[-1]
        peer.sendall(answer(config) if b"config" in wanted else answer(b"", f"Content-Length: {10**12}"))

    server = served(send)
    with pytest.raises(ValueError, match=r"final_model\.pt has 1,000,000,000,000 bytes, more than the"):
        convert_openai_checkpoint(f"{server.url}/m", tmp_path / "out")


# -------------------------------------------------------------------------------------------------------- torch's files


def test_one_bit_anywhere_is_told(tmp_path):
    state = {"a": torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), "b": torch.ones(3)}
    torch.save(state, tmp_path / "good.pt")
    data = (tmp_path / "good.pt").read_bytes()
    refused = 0
    for place in range(0, len(data), 37):
        (tmp_path / "bad.pt").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            found = read_archive(tmp_path / "bad.pt")
        except ValueError:
            refused += 1
        else:  # padding, dates
            assert all(torch.equal(found[name], state[name]) for name in state)
    assert refused > len(data) / 37 * 0.8


def test_zips_that_torch_would_not_write(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(3)}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(each.filename, archive.read(each)) for each in archive.infolist()]

    def written(more=(), method=zipfile.ZIP_STORED):
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in [*members, *more]:
                archive.writestr(name, content)

    written()
    assert read_archive(path)["a"].tolist() == [1, 1, 1]
    stem = members[0][0].partition("/")[0]
    for more, method, message in (
        ([members[-1]], zipfile.ZIP_STORED, "is in it twice"), ([("../evil", b"x")], zipfile.ZIP_STORED, "leads elsewhere"),
        ([(f"{stem}/../../evil", b"x")], zipfile.ZIP_STORED, "leads elsewhere"), ([(f"{stem}/bomb", b"\0" * 50_000_000)], zipfile.ZIP_DEFLATED, "it is compressed"),
    ):  # fmt: skip
        written(more, method)
        with pytest.raises(ValueError, match=message):
            read_archive(path)
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"no PyTorch checkpoint with checksums, which torch writes since 1\.6"):
        read_archive(path)
    for content in (b"", b"PK\x03\x04", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.pt"):
            read_archive(path)
