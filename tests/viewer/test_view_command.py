"""`csp view` as a user types it."""

import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from typer.testing import CliRunner

from sparse_circuits.circuits import Circuit, Verification
from sparse_circuits.cli.app import app
from tiny import ROOT

TASK = "single_double_quote"
SMALL = ("--corpus", "idioms:100", "--tokens", "1000")


def csp(*words):
    return CliRunner().invoke(app, ["view", *map(str, words)])


def test_the_shipped_circuit_beside_another(opened, tmp_path):
    done = csp(ROOT, TASK, "--beside", ROOT, ROOT / "circuits" / TASK, *SMALL, "--out", tmp_path / "p.html")
    assert done.exit_code == 0, done.output
    page = opened((tmp_path / "p.html").as_uri() + "#beside=1")
    assert page.locator(".pane").count() == 2
    circuit, report = Circuit.from_pretrained(ROOT, TASK), Verification.load(ROOT / "circuits" / TASK)
    assert f"shared: {circuit.num_nodes} nodes (ringed), {circuit.num_edges} edges" in page.inner_text("#shared-count")
    assert report.headline in page.inner_text("#report")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((ROOT, "nothing"), "has circuits for bracket_brace, "),
        (("/no/such", TASK), "is no folder"),
        ((ROOT, TASK, "--task", "for_while"), "found with another task"),
        ((ROOT, TASK, "--out", "{tmp}"), "is a folder; name a file"),
        ((ROOT, TASK, "--corpus", "/no/such"), "is no folder"),
    ],
)
def test_wrong_input_is_one_sentence(words, message, tmp_path):
    small = () if "--corpus" in words else SMALL
    done = csp(*[str(word).replace("{tmp}", str(tmp_path)) for word in words], *small)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_it_is_served_until_ctrl_c():
    command = [sys.executable, "-m", "sparse_circuits.cli", "view", str(ROOT), TASK, "--serve", "--port", "0", *SMALL]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert b'id="live"' in answer.read()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 1, 130, -2)
