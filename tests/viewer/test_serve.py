"""The page with the model behind it, over HTTP on loopback and in the browser."""

import contextlib
import importlib
import json
import socket
import threading
import time
import types
from http.client import HTTPConnection

import pytest
import torch
import uvicorn

from sparse_circuits import Circuit, CSPTokenizer
from sparse_circuits.circuits import ablated
from sparse_circuits.circuits.ablation import holding
from sparse_circuits.viewer import Subject
from sparse_circuits.viewer.serve import HOST, application, run_prompt, serve
from tiny import ROOT
from toy import TOKENS, ToyTokenizer, toy_circuit, toy_task

NEURON = "0.mlp.post_act:1"
PROMPT = "(' " + " ".join(["w1"] * 19)


@contextlib.contextmanager
def running(app):
    """The port of a server that has the application, on loopback."""
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def server(toy, tmp_path):
    """(port, folder of the circuit)"""
    subject = toy[3]
    subject.circuit.labels, subject.circuit.groups = {}, {}
    folder = subject.circuit.save_pretrained(tmp_path / "c")
    with running(application([subject], [folder])) as port:
        yield port, folder
    subject.circuit.labels, subject.circuit.groups = {}, {}


def ask(port, method, path, body=None, **headers):
    connection = HTTPConnection(HOST, port, timeout=20)
    connection.request(method, path, body if isinstance(body, (bytes, type(None))) else json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_prompt_is_run_as_model_and_as_circuit(server, toy):
    port, _ = server
    model, _, _, subject = toy
    status, text = ask(port, "POST", "/run", {"circuit": 0, "prompt": PROMPT, "off": []})
    assert status == 200, text
    found = json.loads(text)
    ids = torch.tensor([[TOKENS.index(word) for word in PROMPT.split()]])
    with torch.no_grad():
        full = model(ids).logits[0, -1].softmax(0)
        with subject.circuit.applied_to(model):
            own = model(ids).logits[0, -1].softmax(0)
    assert found["tokens"] == PROMPT.split()
    answers = {each["text"] for each in found["next"] if each["answer"]}
    assert answers == {"')", '")'}
    for each in found["next"]:
        assert each["model"] == pytest.approx(float(full[TOKENS.index(each["text"])]), abs=1e-6)
        assert each["circuit"] == pytest.approx(float(own[TOKENS.index(each["text"])]), abs=1e-6)
    assert set(found["activations"]) == {f"{site}:{int(i)}" for site, indices in subject.circuit.nodes.items() for i in indices}


def test_a_node_switched_off_is_at_its_mean(server, toy):
    port, _ = server
    model, _, _, subject = toy
    found = json.loads(ask(port, "POST", "/run", {"circuit": 0, "prompt": PROMPT, "off": [NEURON]})[1])
    ids = torch.tensor([[TOKENS.index(word) for word in PROMPT.split()]])
    change = {"0.mlp.post_act": holding(torch.tensor([True, False, True, True]), subject.circuit.fills["0.mlp.post_act"])}
    with torch.no_grad(), ablated(model, change):
        wanted = model(ids).logits[0, -1].softmax(0)
    assert found["next"][0]["model"] == pytest.approx(float(wanted[TOKENS.index(found["next"][0]["text"])]), abs=1e-6)
    assert found["activations"][NEURON] == pytest.approx([float(subject.circuit.means["0.mlp.post_act"][1])] * 20)


def test_requests_at_the_same_time_do_not_meet_in_the_model(server):
    port, _ = server
    alone = {
        off: ask(port, "POST", "/run", {"circuit": 0, "prompt": PROMPT, "off": [off] if off else []}) for off in ("", NEURON)
    }
    found = []
    threads = [
        threading.Thread(target=lambda off=off: found.append((off, ask(port, "POST", "/run", {"circuit": 0, "prompt": PROMPT, "off": [off] if off else []}))))
        for off in ["", NEURON] * 10
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(answer == alone[off] for off, answer in found)


WRONG = [
    ({"circuit": 3, "prompt": "w1"}, "the page has 1"), ({"circuit": True, "prompt": "w1"}, "the page has 1"),
    ({"circuit": 0, "prompt": ""}, "prompt is empty"), ({"circuit": 0, "prompt": 3}, "prompt is empty"),
    ({"circuit": 0, "prompt": "w1 " * 100}, "give 1 to 64"), ({"circuit": 0, "prompt": "w1", "off": "x"}, "list of nodes"),
    ({"circuit": 0, "prompt": "w1", "off": ["nowhere:1"]}, "names no node"), ({"circuit": 0, "prompt": "\ud800"}, "half a character"),
    ({"circuit": 0, "prompt": "w1", "off": ["final_resid:" + "1" * 5000]}, "names no node"), ([], "no JSON object"), (b"{", "Expecting"), (b"[" * 99999, ""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), WRONG)
def test_wrong_requests_are_answered_in_a_sentence(server, body, message):
    status, text = ask(server[0], "POST", "/run", body)
    assert status == 400
    assert message in json.loads(text)["error"]


def test_what_nobody_foresaw_is_still_an_answer(server):
    status, text = ask(server[0], "POST", "/run", {"circuit": 0, "prompt": "no such word"})  # the toy's tokenizer fails on it
    assert status in (400, 500)
    assert json.loads(text)["error"]
    assert ask(server[0], "POST", "/run", {"circuit": 0, "prompt": "w1"})[0] == 200


def test_two_circuits_have_their_own_results(opened, toy, tmp_path):
    model, blocks, means, subject = toy
    other = Subject(toy_circuit(model, means, {"final_resid": [4]}, task="half"), model, ToyTokenizer(), toy_task(), blocks)
    with running(application([subject, other])) as port:
        page = opened(f"http://127.0.0.1:{port}/#node={NEURON}")
        page.fill("#live-prompt", PROMPT)
        page.click("#live-switch")
        page.wait_for_selector("#next")
        page.select_option("#circuit-select", value="1")
        assert page.locator("#next").count() == 0
        assert page.inner_text("#live-off") == ""
        page.select_option("#circuit-select", value="0")
        assert page.locator("#next").count() == 1
        assert NEURON in page.inner_text("#live-off")


def test_only_this_machine_and_the_page_itself_may_ask(server):
    port, folder = server
    body = {"circuit": 0, "prompt": "w1"}
    assert ask(port, "GET", "/", Host="evil.example")[0] == 400
    assert ask(port, "POST", "/run", body, Host="evil.example")[0] == 400
    assert ask(port, "POST", "/run", body, Origin="http://evil.example")[0] == 403
    assert ask(port, "POST", "/labels", {"circuit": 0, "labels": {NEURON: "x"}, "groups": {}}, Origin="null")[0] == 403
    assert Circuit.from_pretrained(folder).labels == {}
    assert ask(port, "POST", "/run", body, Origin=f"http://127.0.0.1:{port}")[0] == 200
    assert ask(port, "POST", "/run", b" " * (2 << 20))[0] == 413
    assert ask(port, "GET", "/run")[0] == 405
    assert ask(port, "GET", "/../etc/passwd")[0] == 404


def test_in_the_browser(server, opened):
    port, folder = server
    page = opened(f"http://127.0.0.1:{port}/#node={NEURON}")
    page.fill("#live-prompt", PROMPT)
    page.click("#live-run")
    page.wait_for_selector("#next")
    assert "')" in page.inner_text("#next tr >> nth=1")
    before = page.inner_text("#next")
    values = page.locator("#live-result .token").evaluate_all("all => all.map(t => Number(t.dataset.value))")
    assert len(values) == 20
    page.click("#live-switch")
    page.wait_for_function("before => document.querySelector('#next').innerText !== before", arg=before)
    assert page.inner_text("#live-off").split() == ["off:", NEURON]
    assert page.locator(f"[data-id='{NEURON}'].off").count() == 1
    page.fill("#label-input", "<b>which")
    page.keyboard.press("Tab")
    page.click("#live-save")
    page.wait_for_function("() => document.querySelector('#live-said').textContent.includes('in the circuit file')")
    assert Circuit.from_pretrained(folder).labels == {NEURON: "<b>which"}
    again = opened(
        f"http://127.0.0.1:{port}/#node={NEURON}"
    )  # a page that is opened later knows them, and does not take them away
    assert again.input_value("#label-input") == "<b>which"
    again.evaluate("id => update({ node: id })", "final_resid:4")
    again.fill("#label-input", "last")
    again.keyboard.press("Tab")
    again.click("#live-save")
    again.wait_for_function("() => document.querySelector('#live-said').textContent.includes('in the circuit file')")
    assert Circuit.from_pretrained(folder).labels == {NEURON: "<b>which", "final_resid:4": "last"}
    page.click("#live-off button")
    page.wait_for_function("() => document.querySelector('#live-off').textContent === ''")
    assert page.locator(".node.off").count() == 0


def test_a_port_that_is_taken_is_named(toy):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(ValueError, match="choose another with --port"):
            serve([toy[3]], [], port=taken.getsockname()[1])


def raw(port, text, wait=20):
    """All that is answered to bytes that no client would send, until the server hangs up."""
    with socket.create_connection((HOST, port), timeout=wait) as connection:
        connection.sendall(text)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


ASKED = [
    ("GET", "/", None, {}, 200), ("HEAD", "/", None, {}, 200), ("OPTIONS", "/", None, {}, 405), ("POST", "/", b"x", {}, 405), ("TRACE", "/", None, {}, 405),
    ("GET", "/run", None, {}, 405), ("GET", "/labels", None, {}, 405), ("HEAD", "/nothing", None, {}, 404), ("GET", "/nothing", None, {}, 404), ("GET", "/run/", None, {}, 307), ("GET", "/", None, {"Host": "evil.example"}, 400),
    ("POST", "/run", {"circuit": 0, "prompt": "w1"}, {}, 200), ("POST", "/run", b"{", {}, 400), ("POST", "/run", {"circuit": 0, "prompt": "no such word"}, {}, 400), ("POST", "/run", {}, {"Origin": "http://evil.example"}, 403),
    ("POST", "/run", {}, {"Sec-Fetch-Site": "cross-site"}, 403), ("POST", "/run", {}, {"Content-Type": "text/plain"}, 415), ("POST", "/run", b" " * (2 << 20), {}, 413), ("OPTIONS", "/run", None, {"Origin": "http://evil.example"}, 405),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), ASKED)
def test_every_answer_forbids_frames_and_guesses(server, method, path, body, headers, status):
    connection = HTTPConnection(HOST, server[0], timeout=20)
    connection.request(method, path, body if isinstance(body, (bytes, type(None))) else json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.status == status
    given = {}
    for name, value in answer.getheaders():
        given.setdefault(name.lower(), []).append(value)
    assert "frame-ancestors 'none'" in given["content-security-policy"][0]
    assert "form-action 'none'" in given["content-security-policy"][0]
    for name, value in {"x-frame-options": "DENY", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin",
                        "cross-origin-opener-policy": "same-origin", "cache-control": "no-store"}.items():  # fmt: skip
        assert given[name] == [value]
    assert "access-control-allow-origin" not in given


def test_a_failure_of_the_page_itself_has_the_headers_too(toy, monkeypatch):
    """Starlette answers it outside of its own middleware."""
    module = importlib.import_module("sparse_circuits.viewer.serve")
    monkeypatch.setattr(module, "render", lambda data: 1 / 0)
    with running(application([toy[3]])) as port:
        connection = HTTPConnection(HOST, port, timeout=20)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 500
        assert answer.getheader("x-frame-options") == "DENY"
        assert b"ZeroDivisionError" not in answer.read()


def test_another_page_cannot_frame_it(server, browser, tmp_path):
    """In Chromium: the frame stays empty, whoever asks for it; opened by itself the page works (test_in_the_browser)."""
    (tmp_path / "evil.html").write_text(
        f'<iframe src="http://127.0.0.1:{server[0]}/"></iframe><iframe src="http://localhost:{server[0]}/"></iframe>'
    )
    page = browser.new_context().new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "evil.html").as_uri())
    page.wait_for_timeout(500)
    assert [frame.query_selector("#title") for frame in page.frames[1:]] == [None, None]
    assert any("frame" in text.lower() for text in said)
    page.context.close()


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; charset=application/json",
        "",
    ],
)
def test_what_a_form_of_any_page_could_send_is_refused(server, kind):
    port, folder = server
    body = {"circuit": 0, "labels": {NEURON: "x"}, "groups": {}}
    assert ask(port, "POST", "/labels", body, **{"Content-Type": kind})[0] == 415
    assert (
        ask(
            port,
            "POST",
            "/labels",
            body,
            **{"Content-Type": "Application/JSON; charset=utf-8", "Sec-Fetch-Site": "same-origin"},
        )[0]
        == 200
    )
    assert ask(port, "POST", "/labels", body, **{"Sec-Fetch-Site": "same-site"})[0] == 403
    assert Circuit.from_pretrained(folder).labels == {NEURON: "x"}


def nodes(count, width=8):
    return [f"final_resid:{i % width}" for i in range(count)]


def same_in_many_ways():
    return [f"final_resid:{'0' * zeros}{i}" for i in range(8) for zeros in range(8)]


LARGE = [
    ("a long prompt", "/run", {"prompt": "w1 " * 330_000}, 400, "give 1 to 64"), ("a prompt without blanks", "/run", {"prompt": "x" * 1_000_000}, 400, "give 1 to 64"), ("a prompt of blanks", "/run", {"prompt": " " * 1_000_000}, 400, "give 1 to 64"),
    ("a prompt of wide marks", "/run", {"prompt": "é" * 160_000}, 400, "give 1 to 64"), ("repeats", "/run", {"prompt": "w1", "off": nodes(60_000)}, 200, ""), ("one node in many ways", "/run", {"prompt": "w1", "off": same_in_many_ways()}, 200, ""),
    ("nodes that are none", "/run", {"prompt": "w1", "off": [f"final_resid:{i}" for i in range(45_000)]}, 400, "more than the"), ("many lists", "/run", {"prompt": "w1", "off": [[]] * 200_000}, 400, "list of nodes"),
    ("a long name of a node", "/run", {"prompt": "w1", "off": ["x" * 1_000_000]}, 400, "names no node"), ("a large number", "/run", b'{"circuit": 0, "prompt": ' + b"9" * 900_000 + b"}", 400, ""), ("depth", "/run", b'{"circuit": 0, "off": ' + b"[" * 900_000, 400, ""),
    ("objects in objects", "/labels", b'{"circuit": 0, "labels": ' + b'{"a":' * 150_000, 400, ""), ("many keys", "/run", {str(i): i for i in range(60_000)} | {"prompt": "w1"}, 200, ""),
    ("many labels", "/labels", {"labels": {f"final_resid:{i}": "" for i in range(40_000)}, "groups": {}}, 400, "more than the model has"), ("many groups", "/labels", {"labels": {}, "groups": {f"final_resid:{i}": "x" for i in range(40_000)}}, 400, "more than the model has"),
    ("a long label", "/labels", {"labels": {NEURON: "x" * 900_000}, "groups": {}}, 400, "at most"), ("a long label's node", "/labels", {"labels": {"x" * 900_000: "x"}, "groups": {}}, 400, "names no node"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "message"), [each[1:] for each in LARGE], ids=[each[0] for each in LARGE])
def test_large_requests_are_answered_soon_and_in_short(server, path, body, status, message):
    """Two seconds of processor time, the client's among them, are ten times what they take; what is refused is refused before the lock."""
    begun = time.process_time()
    found, text = ask(server[0], "POST", path, body if isinstance(body, bytes) else {"circuit": 0} | body)
    assert time.process_time() - begun < 2
    assert found == status, text[:300]
    if status != 200:
        assert message in json.loads(text)["error"]
        assert len(text) < 600


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "w1 " * 330_000},
        {"prompt": "w1", "off": nodes(45_000, 45_000)},
        {"prompt": "w1", "off": "x"},
        {"prompt": "w1", "off": ["nowhere:1"]},
    ],
)
def test_what_is_refused_does_not_wait_for_the_model(toy, body):
    class Never:
        def __enter__(self):
            raise AssertionError("the lock was taken")

        def __exit__(self, *error):
            pass

    with pytest.raises(ValueError, match=r"give 1 to 64|more than the|list of nodes|names no node"):
        run_prompt(toy[3], body["prompt"], body.get("off", []), Never())


def test_a_prompt_as_long_as_it_may_be_is_run(server):
    """The bound of characters refuses none that the bound of tokens allows."""
    longest = max(TOKENS, key=len)
    status, text = ask(server[0], "POST", "/run", {"circuit": 0, "prompt": " ".join([longest] * 64)})
    assert status == 200, text
    assert len(json.loads(text)["tokens"]) == 64
    assert "has 65 tokens; give 1 to 64" in ask(server[0], "POST", "/run", {"circuit": 0, "prompt": " ".join(["w1"] * 65)})[1]


def test_a_prompt_of_the_longest_tokens_of_the_shipped_vocabulary_fits():
    tokenizer = CSPTokenizer.from_pretrained(ROOT)
    longest = max(range(len(tokenizer)), key=lambda i: len(tokenizer.decode([i])))
    subject = types.SimpleNamespace(
        tokenizer=tokenizer, model=types.SimpleNamespace(config=types.SimpleNamespace(block_size=1024))
    )
    module = importlib.import_module("sparse_circuits.viewer.serve")
    module._require_prompt(subject, tokenizer.decode([longest]) * 1024)
    with pytest.raises(ValueError, match="give 1 to 1024 tokens"):
        module._require_prompt(subject, "x" * 1_000_000)


def test_off_is_the_same_however_often_it_is_named(server):
    once = ask(server[0], "POST", "/run", {"circuit": 0, "prompt": PROMPT, "off": [NEURON, "final_resid:4"]})
    often = ask(
        server[0],
        "POST",
        "/run",
        {"circuit": 0, "prompt": PROMPT, "off": ["final_resid:04", NEURON, NEURON, "final_resid:4"] * 9},
    )
    assert once == often
    assert once[0] == 200


def test_a_body_that_does_not_come_is_given_up(server, monkeypatch):
    """And the page answers others meanwhile, however many wait."""
    port, _ = server
    monkeypatch.setattr(importlib.import_module("sparse_circuits.viewer.serve"), "MAX_SECONDS", 1)
    head = f"POST /run HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 100\r\n\r\n{{".encode()
    found = []
    threads = [threading.Thread(target=lambda: found.append(raw(port, head))) for _ in range(60)]
    for thread in threads:
        thread.start()
    assert ask(port, "POST", "/run", {"circuit": 0, "prompt": "w1"})[0] == 200
    for thread in threads:
        thread.join()
    assert len(found) == 60
    assert all(answer.startswith(b"HTTP/1.1 408") and b"did not arrive within" in answer for answer in found)


def test_who_hangs_up_is_no_failure(server):
    port, _ = server
    for text in (b"POST /run HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{", b"GET / HTT", b"\0\0\0"):
        with socket.create_connection((HOST, port)) as connection:
            connection.sendall(text)
    assert raw(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 400")  # no Host
    assert ask(port, "GET", "/")[0] == 200
