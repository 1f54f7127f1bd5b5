"""The page with the model behind it, over HTTP on loopback and in the browser."""

import json
import socket
import threading
import time
from http.client import HTTPConnection

import pytest
import torch
import uvicorn

from sparse_circuits import Circuit
from sparse_circuits.circuits import ablated
from sparse_circuits.circuits.ablation import holding
from sparse_circuits.viewer import Subject
from sparse_circuits.viewer.serve import HOST, application, serve
from toy import TOKENS, ToyTokenizer, toy_circuit, toy_task

NEURON = "0.mlp.post_act:1"
PROMPT = "(' " + " ".join(["w1"] * 19)


@pytest.fixture
def server(toy, tmp_path):
    """(port, folder of the circuit)"""
    subject = toy[3]
    subject.circuit.labels, subject.circuit.groups = {}, {}
    folder = subject.circuit.save_pretrained(tmp_path / "c")
    running = uvicorn.Server(uvicorn.Config(application([subject], [folder]), host=HOST, port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield running.servers[0].sockets[0].getsockname()[1], folder
    running.should_exit = True
    thread.join(10)
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
    running = uvicorn.Server(uvicorn.Config(application([subject, other]), host=HOST, port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    page = opened(f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/#node={NEURON}")
    page.fill("#live-prompt", PROMPT)
    page.click("#live-switch")
    page.wait_for_selector("#live-result table")
    page.select_option("#circuit-select", value="1")
    assert page.locator("#live-result table").count() == 0
    assert page.inner_text("#live-off") == ""
    page.select_option("#circuit-select", value="0")
    assert page.locator("#live-result table").count() == 1
    assert NEURON in page.inner_text("#live-off")
    running.should_exit = True
    thread.join(10)


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
    page.wait_for_selector("#live-result table")
    assert "')" in page.inner_text("#live-result table tr >> nth=1")
    before = page.inner_text("#live-result table")
    values = page.locator("#live-result .token").evaluate_all("all => all.map(t => Number(t.dataset.value))")
    assert len(values) == 20
    page.click("#live-switch")
    page.wait_for_function("before => document.querySelector('#live-result table').innerText !== before", arg=before)
    assert page.inner_text("#live-off").strip() == f"off: {NEURON}"
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
