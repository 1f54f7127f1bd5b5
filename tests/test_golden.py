"""What is claimed of the model that ships and of its circuit, measured again: figures of the report, and those that README and results.md quote."""

import ast
import hashlib
import json
import re

import pytest
import torch

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import Circuit, capabilities
from sparse_circuits.circuits.examination import Examination
from sparse_circuits.circuits.identity import circuit_sha256, weights_sha256
from sparse_circuits.circuits.sites import norms
from sparse_circuits.circuits.verify import Verification
from sparse_circuits.programs.prove import read_certificate
from sparse_circuits.programs.text import load_program
from tiny import ROOT

TASK = "single_double_quote"
FOLDER = ROOT / "circuits" / TASK


@pytest.fixture(scope="module")
def shipped():
    model, tokenizer = CSPForCausalLM.from_pretrained(ROOT).eval(), CSPTokenizer.from_pretrained(ROOT)
    circuit = Circuit.from_pretrained(ROOT, TASK)
    return model, tokenizer, circuit, json.loads((FOLDER / "report.json").read_text())


@pytest.fixture(scope="module")
def look(shipped):
    model, tokenizer, circuit, report = shipped
    return Examination(circuit, model, circuit.find_task(tokenizer), len_of(report), 1)


def len_of(report):
    """Pairs that the report was measured on: all of the family have as many."""
    return int(report["scores"]["test"]["model"]["count"]) // 2


def numbers(found, path=""):
    """Every number in nested data, by its path; bootstrap intervals among them, which a seed fixes."""
    if isinstance(found, dict):
        return {k: v for name, each in found.items() for k, v in numbers(each, f"{path}/{name}").items()}
    if isinstance(found, (list, tuple)):
        return {k: v for i, each in enumerate(found) for k, v in numbers(each, f"{path}/{i}").items()}
    return {path: float(found)} if isinstance(found, (int, float)) and not isinstance(found, bool) else {}


@pytest.mark.parametrize("what", ["size", "scores", "agreement", "necessity"])
def test_the_report_is_what_is_measured(shipped, look, what):
    measured, said = numbers(getattr(look, what)()), numbers(shipped[3][what])
    assert measured.keys() == said.keys()
    for name, value in measured.items():
        assert value == pytest.approx(said[name], rel=2e-3, abs=2e-3), name


def test_the_report_is_of_this_circuit_and_its_levels_follow_from_it(shipped):
    _, _, circuit, report = shipped
    assert report["circuit_sha256"] == circuit_sha256(circuit)
    read = Verification.load(FOLDER)
    judged = Verification.judged(read.found)
    assert judged.levels == read.levels
    assert judged.headline == read.headline


def test_documents_quote_the_reports(shipped, monkeypatch):
    model, tokenizer, _, report = shipped
    readme, results = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import every_circuit

    rows = every_circuit.table(ROOT).splitlines()
    assert len(rows) == len(EVERY) + 2
    for row in rows:
        assert row in results
    assert f"{report['size']['edges']} edges in five sentences" in readme
    assert f"the circuits of {len(EVERY)}\n" in readme
    certificate = read_certificate(FOLDER / "certificate.json")
    assert certificate["right"] == certificate["prompts"]
    assert f"prefers the right one on all {certificate['prompts']:,} prompts of that form" in readme
    counted = {name: p for name, p in model.named_parameters() if not any(part in name for part in ("bigram", "norm", "sink"))}
    nonzero = sum(int((p != 0).sum()) for p in counted.values())
    assert f"{nonzero:,} nonzero weights" in readme
    passing = sum(each.passes for each in capabilities(model, tokenizer))
    assert f"passes {passing} of the 20 tasks" in readme


def test_nothing_at_all_and_a_shuffled_model_score_what_the_report_puts_beside(shipped):
    """Everything ablated prefers by chance: were the report's controls broken, so would this be."""
    report = shipped[3]
    assert report["scores"]["test"]["nothing"]["preference"] == pytest.approx(0.5, abs=0.1)
    with torch.no_grad():
        assert report["necessity"]["everything_ablated"] > 0.5


EVERY = sorted(path.parent.name for path in (ROOT / "circuits").glob("*/circuit.json"))


@pytest.mark.parametrize("task", EVERY)
def test_every_circuit_comes_with_what_was_measured_of_it(shipped, task):
    """Its report is of it, and its levels follow from the figures; its certificate is of it, of this model and of the program beside it; and that program
    gives the circuit's logits."""
    model, tokenizer = shipped[:2]
    folder = ROOT / "circuits" / task
    circuit = Circuit.from_pretrained(folder)
    report = Verification.of(folder, circuit)
    assert report is not None
    assert Verification.judged(report.found).levels == report.levels
    certificate, text = read_certificate(folder / "certificate.json"), (folder / "program.py").read_text(encoding="utf-8")
    assert certificate["circuit"] == circuit_sha256(circuit)
    assert certificate["model"] == weights_sha256(model)
    assert certificate["program_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    double = CSPForCausalLM(model.config).double().eval()
    double.load_state_dict(model.state_dict())
    freeze = False
    if certificate["scales"] is not None:
        held = list(zip(norms(double), certificate["scales"]))[1:]
        freeze = {norm: torch.full((1, 1, 1), scale, dtype=torch.float64) for norm, scale in held}
    answer = load_program(text)
    for each in certificate["worst"][:3]:  # as they are when the circuit runs in its model
        ids, *answers = (
            tokenizer(each["prompt"] + more, add_special_tokens=False)["input_ids"]
            for more in ("", each["right"], each["wrong"])
        )
        with circuit.running(double, freeze_norms=freeze), torch.no_grad():
            logits = double(torch.tensor([ids]), use_cache=False).logits[0, -1]
        right, wrong = (logits[more[len(ids)]] for more in answers)
        assert float(right - wrong) == pytest.approx(each["margin"], abs=1e-5)
    pairs = circuit.find_task(tokenizer).pairs(4, "test")
    for ids, mask in zip(pairs.input_ids, pairs.attention_mask):
        ids = ids[mask.bool()]
        with circuit.running(double, freeze_norms=freeze), torch.no_grad():
            logits = double(ids[None], use_cache=False).logits[0, -1]
        for token, logit in answer(ids.tolist()).items():
            assert logit == pytest.approx(float(logits[token]), abs=1e-5)


def test_all_that_ships_is_small():
    files = [
        path for path in (ROOT / "circuits").glob("*/*") if path.suffix in (".json", ".safetensors", ".py", ".md", ".html")
    ]
    assert sum(path.stat().st_size for path in files if path.parent.name in EVERY) < 9e6  # half of it tables of programs
    assert (ROOT / "sparse_weights.safetensors").stat().st_size < 10e6


def test_the_readmes_completions_are_what_the_model_says(shipped):
    model, tokenizer = shipped[:2]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"""^(['\"].*['\"])  +(['\"].*['\"])$""", readme, re.M)
    assert len(lines) == 10
    assert any(ast.literal_eval(prompt).endswith(" ") for prompt, _ in lines)
    for prompt, expected in lines:
        inputs = tokenizer(ast.literal_eval(prompt), return_tensors="pt")
        made = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert tokenizer.decode(made).partition("\n")[0] == ast.literal_eval(expected), prompt
