"""Pages that run their model themselves, in a real browser, against PyTorch behind the served page."""

import re

import pytest

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.viewer import Subject, write_page
from sparse_circuits.viewer.serve import run_prompt
from tiny import ROOT


@pytest.fixture(scope="module")
def own_page(tmp_path_factory):
    """The circuit that ships, with its model in the page; and what PyTorch says of a prompt of one's own."""
    model, tokenizer = CSPForCausalLM.from_pretrained(ROOT).eval(), CSPTokenizer.from_folder(ROOT)
    subject = Subject.of(ROOT / "circuits" / "single_double_quote", model, tokenizer, contexts=0)
    file = write_page([subject], tmp_path_factory.mktemp("own") / "page.html", runs=True)
    return file, subject


PROMPT = 'value = 7\nprint("green tea'


def test_the_page_runs_the_model(opened, own_page):
    file, subject = own_page
    assert file.stat().st_size < 6e6
    page = opened(file.as_uri())
    page.wait_for_function("() => document.getElementById('live-said').textContent.includes('largest difference to PyTorch')")
    worst = float(
        re.search(r"largest difference to PyTorch (\S+?)\.$", page.inner_text("#live-said"))[1].replace("\u2212", "-")
    )
    assert worst < 1e-3  # shares in the page have four digits
    page.fill("#live-prompt", PROMPT)
    page.click("#live-run")
    page.wait_for_selector("#live-result table")
    expected = run_prompt(subject, PROMPT, [])
    for off in ([], ["final_resid:3"]):
        if off:
            node = next(f"{site}:{int(i[0])}" for site, i in subject.circuit.nodes.items() if site.endswith("mlp.post_act"))
            expected = run_prompt(subject, PROMPT, [node])
            page.click(f"[data-id='{node}'] .ring")
            page.click("#live-switch")
            page.wait_for_function("node => document.getElementById('live-off').textContent.includes(node)", arg=node)
            page.wait_for_timeout(500)
        rows = [text.split("\t") for text in page.locator("#live-result tr").all_inner_texts()][1:]
        assert len(rows) == len(expected["next"])
        wanted = {each["text"]: each for each in expected["next"]}
        for _, whole, own in rows:
            assert any(
                abs(float(whole.replace("\u2212", "-")) - 100 * each["model"]) < 0.02 + each["model"]
                and abs(float(own.replace("\u2212", "-")) - 100 * each["circuit"]) < 0.02 + each["circuit"]
                for each in wanted.values()
            )
    assert page.locator("#live-save").count() == 0


def test_a_prompt_that_cannot_be_run_is_said(opened, own_page):
    page = opened(own_page[0].as_uri())
    page.wait_for_selector("#live-run")
    page.fill("#live-prompt", "")
    page.click("#live-run")
    page.wait_for_selector("#live-result .minus")
    assert "The prompt has 0 tokens" in page.inner_text("#live-result")


def test_pages_without_their_model_do_not_offer_to_run_it(opened, toy_page):
    page = opened(toy_page)
    assert page.locator("#live-run").count() == 0
