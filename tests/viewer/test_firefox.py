"""A page that runs its model, in Debian's Firefox, spoken to by WebDriver BiDi: the same numbers as PyTorch has, no message, no request but for the page."""

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import threading

import pytest

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.viewer import Subject, write_page
from sparse_circuits.viewer.serve import run_prompt
from tiny import ROOT

websocket = pytest.importorskip("websocket", reason="the extra `dev` has it")


class Firefox:
    """One tab of a headless Firefox with a profile of its own."""

    def __init__(self, port):
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}/session", timeout=120, suppress_origin=True)
        self.numbers, self.events = itertools.count(1), []
        self.send("session.new", capabilities={})
        self.send("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
        self.tab = self.send("browsingContext.getTree")["contexts"][0]["context"]

    def send(self, method, **params):
        own = next(self.numbers)
        self.socket.send(json.dumps({"id": own, "method": method, "params": params}))
        while (said := json.loads(self.socket.recv())).get("id") != own:
            self.events.append(said)
        assert said["type"] == "success", said
        return said["result"]

    def open(self, address):
        self.send("browsingContext.navigate", context=self.tab, url=address, wait="complete")

    def value(self, expression):
        """What an expression comes to, through JSON."""
        found = self.send(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression})))()",
            target={"context": self.tab},
            awaitPromise=True,
        )
        assert found["type"] == "success", found
        return json.loads(found["result"]["value"])


@pytest.fixture(scope="module")
def firefox(tmp_path_factory):
    path = shutil.which("firefox-esr")
    if path is None:
        pytest.skip("needs Firefox, which `make test` installs on Debian")
    profile = tmp_path_factory.mktemp("profile")
    (profile / "user.js").write_text("".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in {
        "app.normandy.enabled": False, "app.update.enabled": False, "browser.shell.checkDefaultBrowser": False, "datareporting.policy.dataSubmissionEnabled": False,
        "network.captive-portal-service.enabled": False, "network.connectivity-service.enabled": False, "toolkit.telemetry.enabled": False,
    }.items()))  # fmt: skip
    words = [path, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0", "about:blank"]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True))
        stack.callback(process.kill)
        patience = threading.Timer(90, process.kill)
        patience.start()
        stack.callback(patience.cancel)
        for line in process.stderr:
            if found := re.search(r"WebDriver BiDi listening on ws://127\.0\.0\.1:(\d+)", line):
                break
        else:
            pytest.skip("this Firefox does not begin on this machine")
        patience.cancel()
        yield Firefox(found[1])


def test_the_page_runs_the_model_as_pytorch_does(firefox, tmp_path):
    model, tokenizer = CSPForCausalLM.from_pretrained(ROOT, sparse=True).eval(), CSPTokenizer.from_folder(ROOT)
    subject = Subject.of(ROOT / "circuits" / "single_double_quote", model, tokenizer, contexts=0)
    file = write_page([subject], tmp_path / "page.html", runs=True)
    firefox.open(file.as_uri())
    said = firefox.value(
        "(async () => { while (!byId('live-said').textContent.includes('largest difference')) await new Promise((r) => setTimeout(r, 50)); return byId('live-said').textContent; })()"
    )
    assert float(re.search(r"PyTorch (\S+)\.$", said)[1].replace("\u2212", "-")) < 1e-3  # shares in the page have four digits
    assert firefox.value("worker instanceof Worker")
    node = next(f"{site}:{int(i[0])}" for site, i in subject.circuit.nodes.items() if site.endswith("mlp.post_act"))
    for text in ('value = 7\nprint("green tea', "for key in ['a', 'b"):
        for off in ([], [node]):
            change = json.dumps({"0": dict.fromkeys(off, "off")} if off else {})
            found = firefox.value(f"(async () => {{ state.changes = {change}; return runHere(0, {json.dumps(text)}); }})()")[
                "next"
            ]
            expected = run_prompt(subject, text, off)["next"]
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                assert one["text"] == other["text"]
                assert abs(one["model"] - other["model"]) < 1e-4
                assert abs(one["circuit"] - other["circuit"]) < 1e-4
    assert firefox.value("drawnGraphs[0].nodes.size") == subject.circuit.num_nodes
    kinds = [
        (event["method"], event["params"].get("text") or event["params"].get("request", {}).get("url", ""))
        for event in firefox.events
        if "method" in event
    ]
    assert not [text for method, text in kinds if method == "log.entryAdded"]
    assert all(
        text.startswith(("file:", "blob:", "data:", "about:"))
        for method, text in kinds
        if method == "network.beforeRequestSent"
    ), kinds
