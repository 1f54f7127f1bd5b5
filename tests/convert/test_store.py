"""Files of the public store by name, from a stand-in on this machine that breaks off, changes its mind, or states a hash."""

import base64
import hashlib
import http.server
import re
import threading

import pytest
import torch
from typer.testing import CliRunner

from sparse_circuits import CSPForCausalLM
from sparse_circuits.cli.app import app
from sparse_circuits.convert import convert_openai_checkpoint
from sparse_circuits.convert.download import download
from sparse_circuits.convert.openai import STORE, store_address
from tiny import REFERENCE

RELEASE = REFERENCE / "checkpoints" / "attention_sink"


class Store(http.server.ThreadingHTTPServer):
    """Files by path, with ETag, ranges and Content-MD5, as the store answers. `most`: bytes after which an answer breaks off, or None."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.most, self.md5, self.tagged, self.asked = {}, None, True, True, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        store, whole = self.server, self.server.files.get(self.path)
        store.asked.append((self.path, self.headers.get("Range")))
        if whole is None:
            return self.send_error(404)
        tag, first = f'"{hashlib.sha256(whole).hexdigest()[:16]}"', 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and self.headers.get("If-Range") == tag:
            first = int(wanted[1])
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(whole) - 1}/{len(whole)}")
        if store.tagged:
            self.send_header("ETag", tag)
        if store.md5:
            digest = store.md5 if isinstance(store.md5, bytes) else hashlib.md5(whole).digest()
            self.send_header("Content-MD5", base64.b64encode(digest).decode())
        self.send_header("Content-Length", str(len(whole) - first))
        self.end_headers()
        self.wfile.write(whole[first:] if store.most is None else whole[first : first + store.most])
        return None


@pytest.fixture
def store(monkeypatch):
    made = Store()
    monkeypatch.setenv("CSP_OPENAI_STORE", made.url)
    yield made
    made.shutdown()
    made.server_close()


BODY = bytes(range(256)) * 40


def test_what_broke_off_goes_on(store, tmp_path):
    store.files["/x"], store.most = BODY, 4000
    for done in (4000, 8000):
        with pytest.raises(ValueError, match=f"broke off after {done:,} of 10,240 bytes"):
            download(f"{store.url}/x", tmp_path / "x", 1 << 20)
        assert not (tmp_path / "x").exists()
    download(f"{store.url}/x", tmp_path / "x", 1 << 20)
    assert (tmp_path / "x").read_bytes() == BODY
    assert [asked for _, asked in store.asked] == [None, "bytes=4000-", "bytes=8000-"]
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_a_file_that_changed_meanwhile_begins_anew(store, tmp_path):
    store.files["/x"], store.most = BODY, 4000
    with pytest.raises(ValueError, match="broke off"):
        download(f"{store.url}/x", tmp_path / "x", 1 << 20)
    store.files["/x"], store.most = BODY[::-1], None
    download(f"{store.url}/x", tmp_path / "x", 1 << 20)
    assert (tmp_path / "x").read_bytes() == BODY[::-1]


def test_without_a_version_nothing_is_kept(store, tmp_path):
    store.files["/x"], store.most, store.tagged = BODY, 4000, False
    for _ in range(2):
        with pytest.raises(ValueError, match="broke off after 4,000"):
            download(f"{store.url}/x", tmp_path / "x", 1 << 20)
    assert [asked for _, asked in store.asked] == [None, None]


def test_another_hash_than_stated_is_refused(store, tmp_path):
    store.files["/x"], store.md5 = BODY, b"another"
    with pytest.raises(ValueError, match="does not have the MD5 that the server states"):
        download(f"{store.url}/x", tmp_path / "x", 1 << 20)
    assert not list(tmp_path.iterdir())


def test_a_part_of_something_else_does_not_pass(store, tmp_path):
    """Same version named, other bytes on disk: the hash says so, and the next call begins anew."""
    store.files["/x"], store.most = BODY, 4000
    with pytest.raises(ValueError, match="broke off"):
        download(f"{store.url}/x", tmp_path / "x", 1 << 20)
    (tmp_path / "x.part").write_bytes(bytes(4000))
    store.most = None
    with pytest.raises(ValueError, match="MD5"):
        download(f"{store.url}/x", tmp_path / "x", 1 << 20)
    download(f"{store.url}/x", tmp_path / "x", 1 << 20)
    assert (tmp_path / "x").read_bytes() == BODY


@pytest.fixture
def released(store):
    for name in ("beeg_config.json", "final_model.pt"):
        store.files[f"/models/csp_small/{name}"] = (RELEASE / name).read_bytes()
    return store


def test_a_model_by_its_name(released, tmp_path):
    released.most = len(released.files["/models/csp_small/final_model.pt"]) * 2 // 3
    with pytest.raises(ValueError, match="broke off"):
        convert_openai_checkpoint("openai:csp_small", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    released.most = None
    said = CliRunner().invoke(app, ["convert", "openai:csp_small", str(tmp_path / "ours")])
    assert said.exit_code == 0, said.output
    assert released.asked[-1][1] is not None  # the rest alone
    convert_openai_checkpoint(RELEASE, tmp_path / "by_hand")
    ours, expected = (CSPForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("ours", "by_hand"))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["by_hand", "ours"]


def test_a_name_that_the_store_does_not_have(released, tmp_path):
    said = CliRunner().invoke(app, ["convert", "openai:csp_other", str(tmp_path / "ours")])
    assert said.exit_code
    assert "answered 404" in " ".join(said.output.split())


@pytest.mark.parametrize("name", ["", "../x", "a/../b", "a b", "a//b", "https://x", "/etc"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="names nothing in OpenAI's store"):
        store_address(f"openai:{name}", "models")


def test_names_stand_for_the_public_store(monkeypatch):
    monkeypatch.delenv("CSP_OPENAI_STORE", raising=False)
    assert store_address("openai:csp_yolo2", "models") == f"{STORE}/models/csp_yolo2"
    assert store_address("openai:csp_yolo2/bracket_counting_beeg/prune_v4/k_optim", "viz").startswith(
        f"{STORE}/viz/csp_yolo2/bracket"
    )
    assert store_address("somewhere", "models") == "somewhere"
