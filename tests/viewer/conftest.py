"""A browser, and pages of the hand-built circuit."""

from __future__ import annotations

import copy
import dataclasses
import shutil

import pytest

from sparse_circuits.bridges import BridgedPair
from sparse_circuits.bridges.evaluate import constant_bridges
from sparse_circuits.bridges.sides import side_of
from sparse_circuits.circuits import mean_activations, verify
from sparse_circuits.viewer import Subject, write_page
from tiny import ROOT
from toy import NODES, ToyTokenizer, toy_blocks, toy_circuit, toy_model, toy_task

SCREENS = ROOT / "build" / "screens"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run")


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, which `make browser` installs."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium, which `make test` installs on Debian")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, request):
    """Opens a page of a file or address; at the end there must have been no error, no message and no request but for the page itself."""
    contexts = []

    def open_page(address: str, **settings):
        context = browser.new_context(viewport={"width": 1500, "height": 1000}, accept_downloads=True, **settings)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.problems, page.requests = [], []
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("dialog", lambda dialog: (page.problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda each: page.requests.append(each.url))
        page.goto(address)
        contexts.append((context, page))
        return page

    yield open_page
    SCREENS.mkdir(parents=True, exist_ok=True)
    for i, (context, page) in enumerate(contexts):
        page.screenshot(path=SCREENS / f"{request.node.name[:60].replace('/', '_')}-{i}.png")
        assert page.problems == []
        assert all(url.startswith(("file:", "blob:", "http://127.0.0.1:")) for url in page.requests), page.requests
        context.close()


@pytest.fixture(scope="session")
def toy():
    """model, blocks, means and a subject with a report."""
    model, blocks = toy_model(), toy_blocks()
    means = mean_activations(model, blocks)
    circuit = toy_circuit(model, means)
    report = verify(circuit, model, ToyTokenizer(), toy_task(), blocks=blocks, pairs=8, controls=False, seeds=1)
    return model, blocks, means, Subject(circuit, model, ToyTokenizer(), toy_task(), blocks, report)


@pytest.fixture(scope="session")
def toy_page(toy, tmp_path_factory):
    """A page with the circuit, and one that has half of it."""
    model, blocks, means, subject = toy
    half = {site: NODES[site] for site in ("0.mlp.act_in", "0.mlp.post_act", "final_resid")}
    other = Subject(toy_circuit(model, means, half, task="half"), model, ToyTokenizer(), toy_task(), blocks)
    path = write_page([subject, other], tmp_path_factory.mktemp("page") / "page.html")
    return path.as_uri()


@pytest.fixture(scope="session")
def bridged(toy):
    """A subject whose model is bridged to its own twin by identities: steering the dense model is patching the sparse one."""
    model, _blocks, _means, subject = toy
    twin = copy.deepcopy(model)
    pair = BridgedPair(twin, model, ToyTokenizer(), constant_bridges(side_of(twin), side_of(model), "identity"))
    return dataclasses.replace(subject, pair=pair)
