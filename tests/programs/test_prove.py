"""Certificates against running the circuit on every prompt, one by one; what is forged is found."""

import ast
import json

import pytest
import torch
from random_circuits import model_with, random_circuit

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits import load_task, make_task, score
from sparse_circuits.circuits.identity import identify, tokenizer_sha256
from sparse_circuits.programs.certificate import headline, held_scales, summary
from sparse_circuits.programs.certify import answer_tokens, certify
from sparse_circuits.programs.compile import compile_circuit
from sparse_circuits.programs.language import _renumbered, _SlotValues, count, language, narrowed
from sparse_circuits.programs.prove import CERTIFICATE, PROGRAM, SIMPLE, STORY, check, prove, read_certificate
from sparse_circuits.programs.simplify import sample_prompts, simplified
from sparse_circuits.programs.story import story_text
from sparse_circuits.programs.text import load_program, program_text
from sparse_circuits.programs.tokens import tokenised
from sparse_circuits.wiring_csp import NODE_LOCATIONS
from tiny import ROOT, tiny_ids

SHAPE = {"vocab_size": 2048, "d_model": 16, "d_mlp": 24, "n_head": 2, "enable_bigram_table": False, "sink": True}


@pytest.fixture(scope="module")
def tokenizer():
    return CSPTokenizer.from_folder(ROOT)


@pytest.fixture(scope="module")
def case(tokenizer):
    """A model of random weights, and a random circuit of it, which is right now and then."""
    model = model_with(**SHAPE, afrac=dict.fromkeys(NODE_LOCATIONS, 0.5))
    return model, random_circuit(model, task="with_open", tokenizer=tokenizer_sha256(tokenizer))


def margins_one_by_one(model, circuit, tokenizer, task, split):
    """Prompt -> margin, by the circuit run through the model in float64, on every prompt of the language."""
    found = {}
    double = model.double()
    try:
        for template in language(task, split):
            made = tokenised(template, tokenizer)
            by_length = {}
            for texts in template.assignments():
                chosen = [slot.texts.index(text) for slot, text in zip(template.slots, texts)]
                row = (made.ids(chosen), made.right.at(chosen), made.wrong.at(chosen), template.filled(template.prompt, texts))
                by_length.setdefault(len(row[0]), []).append(row)
            for rows in by_length.values():
                with torch.no_grad(), circuit.running(double):
                    logits = double(torch.tensor([row[0] for row in rows]), use_cache=False, logits_to_keep=1).logits[:, -1]
                for (_, right, wrong, prompt), each in zip(rows, logits):
                    found[prompt] = float(each[right] - each[wrong])
    finally:
        model.float()
    return found


@pytest.mark.parametrize("name", ["with_open", "with_as"])
def test_a_certificate_is_what_brute_force_finds(name, case, tokenizer):
    model, circuit = case
    task = load_task(name, tokenizer)
    truth = margins_one_by_one(model, circuit, tokenizer, task, "test")
    templates = [tokenised(each, tokenizer) for each in language(task, "test")]
    tallies = certify(compile_circuit(model, circuit, answer_tokens(templates)), templates)
    assert sum(each.count for each in tallies) == len(truth)
    assert sum(each.right for each in tallies) == sum(margin > 0 for margin in truth.values())
    assert 0 < sum(each.right for each in tallies) < len(truth)
    assert min(each.smallest for each in tallies) == pytest.approx(min(truth.values()), abs=1e-9)
    for tally in tallies:
        template = tally.template.template
        for margin, texts in tally.worst:
            prompt = template.filled(template.prompt, [slot.texts[i] for slot, i in zip(template.slots, texts)])
            assert truth[prompt] == pytest.approx(margin, abs=1e-9)
        mine = {
            prompt: truth[prompt]
            for texts in template.assignments() for prompt in [template.filled(template.prompt, texts)]
        }  # fmt: skip
        assert [margin for margin, _ in tally.worst] == pytest.approx(sorted(mine.values())[:20], abs=1e-9)
        for slot, by_text in tally.by_text.items():
            for text, (right, there) in by_text.items():
                with_it = [
                    truth[template.filled(template.prompt, t)]
                    for t in template.assignments()
                    if t[slot] == template.slots[slot].texts[text]
                ]
                assert (sum(margin > 0 for margin in with_it), len(with_it)) == (right, there)


def test_prompts_drawn_are_of_their_kind(case, tokenizer):
    model, circuit = case
    task = load_task("with_open", tokenizer)
    truth = margins_one_by_one(model, circuit, tokenizer, task, "test")
    templates = [tokenised(each, tokenizer) for each in language(task, "test")]
    for tally in certify(compile_circuit(model, circuit, answer_tokens(templates)), templates):
        template = tally.template.template
        for kind, prompts in tally.drawn.items():
            for texts in prompts:
                prompt = template.filled(template.prompt, [slot.texts[i] for slot, i in zip(template.slots, texts)])
                assert (truth[prompt] > 0) == kind


@torch.no_grad()
def by_last_token(tokenizer, wrong: str):
    """A model and a circuit without nodes, whose answers follow from the last token alone, right on all but one word's."""
    model = model_with(**{**SHAPE, "enable_bigram_table": True})
    right, other = (tokenizer.encode(text, add_special_tokens=False)[0] for text in (" is", " was"))
    model.bigram_table.logit_bias.zero_()
    model.bigram_table.logit_bias[:, right] = 20.0
    piece = tokenizer.encode(f" {wrong}", add_special_tokens=False)
    model.bigram_table.logit_bias[piece[-1], other] = 40.0
    circuit = random_circuit(model, share=0.0, task="said", tokenizer=tokenizer_sha256(tokenizer))
    circuit.model = identify(model)

    def said(v, wording):
        return (f"{v.name()} {v.word()}", " is"), (f"{v.name()}: {v.word()}", " was")

    return model, circuit, make_task("said", said, tokenizer)


def test_the_one_word_that_is_wrong_is_found(tokenizer):
    model, circuit, task = by_last_token(tokenizer, "error")
    proof = prove(model, tokenizer, circuit, task)
    first = next(each for each in proof.certificate["templates"] if each["right"] == " is")
    assert first["prompts"] - first["right_on"] == 51  # names before the one word
    assert first["run"] < first["prompts"]  # names are all the same to it
    value, right, there = first["least_by_value"]["1"][0]
    assert (value, right, there) == ("error", 0, 51)
    assert proof.certificate["model_on"]["circuit_wrong"]["drawn"] > 0


def test_what_is_forged_is_found(case, tokenizer, tmp_path):
    model, _ = case
    circuit = random_circuit(model, task="with_as", share=0.2, tokenizer=tokenizer_sha256(tokenizer))
    task = load_task("with_as", tokenizer)
    proof = prove(model, tokenizer, circuit, task)
    proof.save(tmp_path)
    assert check(model, tokenizer, circuit, task, tmp_path) == []
    document = json.loads((tmp_path / CERTIFICATE).read_text())
    for name, value in (
        ("right", document["prompts"]),
        ("prompts", 1),
        ("smallest_margin", 3.0),
        ("loss", 0.0),
        ("circuit", "0" * 64),
    ):
        (tmp_path / CERTIFICATE).write_text(json.dumps({**document, name: value}))
        assert any(fault.startswith(f"{name} is") for fault in check(model, tokenizer, circuit, task, tmp_path)), name
    (tmp_path / CERTIFICATE).write_text(json.dumps(document))
    (tmp_path / PROGRAM).write_text(proof.program.replace("return {", "return { # "))
    assert check(model, tokenizer, circuit, task, tmp_path) == [f"{PROGRAM} is not the circuit's program"]
    (tmp_path / CERTIFICATE).write_text("{}")
    with pytest.raises(ValueError, match="is no certificate of this version"):
        check(model, tokenizer, circuit, task, tmp_path)
    with pytest.raises(FileNotFoundError, match="write it with csp prove"):
        read_certificate(tmp_path / "none.json")


def test_a_forged_simplified_program_is_found(case, tokenizer, tmp_path):
    model, _ = case
    circuit = random_circuit(model, task="with_as", share=0.08, tokenizer=tokenizer_sha256(tokenizer))
    task = load_task("with_as", tokenizer)
    proof = prove(model, tokenizer, circuit, task, simplify=1.0)
    proof.save(tmp_path)
    assert (tmp_path / STORY).read_text().count("```") == 2
    assert check(model, tokenizer, circuit, task, tmp_path) == []
    (tmp_path / SIMPLE).write_text("")
    assert check(model, tokenizer, circuit, task, tmp_path) == [f"{SIMPLE} is not the circuit's simplified program"]


def test_a_large_language_is_restricted_and_says_so(case, tokenizer):
    model, circuit = case
    task = load_task("with_open", tokenizer)
    whole = prove(model, tokenizer, circuit, task).certificate
    assert whole["restricted"] == {"values": "all", "templates": 8, "of": 8, "most": 20_000_000}
    assert whole["prompts"] == whole["language"] == 18_360
    some = prove(model, tokenizer, circuit, task, most=3_000).certificate
    assert some["restricted"]["values"] == "test"
    assert some["prompts"] <= 3_000
    assert "test pools" in summary(some)[0]
    few = prove(
        model, tokenizer, circuit, task, most=60
    ).certificate  # no template of each answer fits: a few values, and every template
    texts = few["restricted"]["texts"]
    assert few["restricted"] == {"values": "test", "texts": texts, "templates": 8, "of": 8, "most": 60}
    templates = [narrowed(each, texts) for each in language(task, "test")]
    prompts = [(each, chosen) for each in templates for chosen in each.assignments()]
    assert few["prompts"] == len(prompts) == count(templates)
    rights = [tokenizer.encode(each.filled(each.right, chosen), add_special_tokens=False)[0] for each, chosen in prompts]
    assert few["one_answer"] == max(rights.count(token) for token in set(rights))
    assert f"{texts} a place" in headline(few)
    with pytest.raises(ValueError, match="ask for more"):
        prove(model, tokenizer, circuit, task, most=3)


def test_texts_of_a_length_can_all_be_taken(case, tokenizer):
    """Slots of one draw, of which one has all the texts that are so many tokens."""
    model, circuit = case

    def words(v, wording):
        one, two, three = v._take("odd", 3)
        return (f"{one} {two} {three} =", " 1"), (f"{one}: {two} {three} =", " 2")

    class Pools:
        odd = ["error", "river", "q", "z"]

    task = make_task("words", words, tokenizer)
    found = []
    for template in language_with(task, Pools.odd):
        made = tokenised(template, tokenizer)
        assert len({len(made.pieces[1][i][0]) for i in range(4)}) > 1
        found.append(made)
    tallies = certify(compile_circuit(model, circuit, answer_tokens(found)), found)
    assert [tally.count for tally in tallies] == [24, 24]


def language_with(task, odd):
    """The language of a task whose values have one pool more."""
    values = _SlotValues([], None)
    values._pools["odd"] = odd
    one, two = task.generator(values, 0)
    return [_renumbered(a[0], a[1], b[1], values.slots) for a, b in ((one, two), (two, one))]


def test_frozen_norms_need_text_and_become_what_loses_less(case, tokenizer, tmp_path):
    model, _ = case
    circuit = random_circuit(model, task="with_open", tokenizer=tokenizer_sha256(tokenizer), frozen=True)
    task = load_task("with_open", tokenizer)
    with pytest.raises(ValueError, match="pruned with frozen norms; give text"):
        prove(model, tokenizer, circuit, task)
    text, loss = tiny_ids(4, 32), {}
    for own in (True, False):
        proof = prove(model, tokenizer, circuit, task, text, own_norms=own, most=2_000)
        assert proof.certificate["norms"] == ("own" if own else "mean")
        assert (proof.certificate["scales"] is None) == own
        with circuit.running(model, freeze_norms=False if own else held_scales(model, proof.certificate["scales"])):
            loss[own] = score(model, task.pairs(64, "validation", fewer=True)).loss
        proof.save(tmp_path / str(own))
        assert check(model, tokenizer, circuit, task, tmp_path / str(own)) == []
    chosen = prove(model, tokenizer, circuit, task, text, most=2_000).certificate
    assert chosen["norms"] == ("own" if loss[True] < loss[False] else "mean")
    assert chosen["scales"] is None or len(chosen["scales"]) == 5


ALLOWED = (
    ast.Module, ast.ImportFrom, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AugAssign, ast.For, ast.If, ast.Continue, ast.Return, ast.Expr,
    ast.Name, ast.Constant, ast.Dict, ast.List, ast.Tuple, ast.Call, ast.Attribute, ast.Subscript, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp,
    ast.IfExp, ast.ListComp, ast.Set, ast.GeneratorExp, ast.comprehension, ast.alias, ast.Slice, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context,
)  # fmt: skip
IMPORTED = {("base64", "b85decode"), ("struct", "iter_unpack"), ("zlib", "decompress")}
CALLED = {
    "unpacked",
    "column",
    "iter_unpack",
    "decompress",
    "b85decode",
    "list",
    "keep",
    "range",
    "of",
    "shares",
    "strongest",
    "sums",
    "gelu",
    "abs",
    "enumerate",
    "len",
    "max",
    "sum",
    "zip",
    "exp",
    "erf",
    "sqrt",
}


def test_a_program_can_do_nothing_but_compute(case, tokenizer):
    model, circuit = case
    hostile = 'x"""\nimport os\nos.system("echo")\n# \u2028 \x00 \r\n\'\'\''
    circuit.labels = {f"{site}:{int(i)}": hostile for site, nodes in circuit.nodes.items() for i in nodes}
    parts = compile_circuit(model, circuit, [3, 5])
    text = program_text(parts, circuit, lambda token: hostile, [hostile])
    require_arithmetic(text)
    assert set(load_program(text)([1, 2, 3])) == {3, 5}
    templates = [tokenised(each, tokenizer) for each in language(load_task("with_open", tokenizer), "test")]
    parts = compile_circuit(model, circuit, answer_tokens(templates))
    circuit = random_circuit(model, task="with_open", share=0.1, tokenizer=tokenizer_sha256(tokenizer))
    circuit.labels = {f"{site}:{int(i)}": hostile for site, nodes in circuit.nodes.items() for i in nodes}
    parts = compile_circuit(model, circuit, answer_tokens(templates))
    short, _ = simplified(parts, sample_prompts(templates, parts, 64), 10.0)
    require_arithmetic(story_text(short, circuit, lambda token: hostile, [hostile]))
    with pytest.raises(ImportError, match="may use base64, math, struct, zlib, not os"):
        load_program("import os\n")


def require_arithmetic(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        assert isinstance(node, ALLOWED), ast.dump(node)[:80]
        if isinstance(node, ast.ImportFrom):
            assert (node.module, *(each.name for each in node.names)) in IMPORTED or node.module == "math"
        if isinstance(node, ast.Attribute):
            assert node.attr in ("get", "setdefault", "append")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id in CALLED
        if isinstance(node, ast.Constant):
            assert node.value is None or isinstance(node.value, (int, float)) or "os.system" not in node.value
    assert text.isascii()


def test_a_damaged_number_is_no_program(case):
    model, circuit = case
    name = next(iter(circuit.means))
    damaged = dict(circuit.means)
    damaged[name] = damaged[name].clone().fill_(float("nan"))
    circuit = type(circuit)(circuit.task, circuit.nodes, circuit.edges, damaged, circuit.widths, circuit.model, "")
    with pytest.raises(ValueError, match="not finite"):
        program_text(compile_circuit(model, circuit, [3, 5]), circuit, str)
