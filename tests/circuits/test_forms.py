"""Forms of answers: whether the line ends after them; which one is natural, published, recorded, and used again."""

import dataclasses
import hashlib
import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import (
    CannotExpress,
    PruneConfig,
    capabilities,
    load_task,
    mean_activations,
    natural_form,
    prune,
    task_for,
    verify,
)
from sparse_circuits.circuits.python_tasks import FORMS, GENERATORS, PUBLISHED
from sparse_circuits.circuits.search import search
from sparse_circuits.cli.app import app
from sparse_circuits.convert import convert_openai_circuit
from tiny import ROOT, tiny_model

SHIPPED, RELEASED = CSPTokenizer.from_folder(ROOT), CSPTokenizer.from_folder(ROOT / "tests" / "reference" / "tokenizer")
QUICK = PruneConfig(steps=2, pairs=2, eval_pairs=4)
QUOTES = "single_double_quote"


def answers(name, form, tokenizer=RELEASED):
    return load_task(name, tokenizer, form).pairs(1).answers[0].tolist()


def decoded(name, form):
    return tuple(RELEASED.decode([i]) for i in answers(name, form))


def test_quotes_as_published_and_as_before():
    assert answers(QUOTES, "published") == answers(QUOTES, "bare") == [956, 1644]
    assert answers(QUOTES, None) == answers(QUOTES, "line_end") == [755, 566]


# Under the released tokenizer: what ends a line, bare. The others are the same in both forms, or have but one.
BARE = {
    QUOTES: ("')", '")'), "final_kwarg": ("=None", "):"), "for_while": (" in", ":"), "bracket_counting": ("]", "]]"), "var_if": (":", "\n"),
    "if_ternary": (":", " else"), "while_return_true": (":", "\n"), "else_elif": (":", None),
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATORS)
def test_every_task_that_asks_for_a_line_end_has_the_bare_form(name):
    if name == "with_as":  # what tells its answers apart is the line's end
        with pytest.raises(CannotExpress, match="both answers begin with the token"):
            decoded(name, "bare")
        return
    bare = decoded(name, "bare")
    assert not any(len(text) > 1 and text.endswith("\n") for text in bare)
    if name in BARE:
        assert all(wanted in (None, found) for wanted, found in zip(BARE[name], bare))
        assert decoded(name, "line_end") != bare
    else:
        assert decoded(name, "line_end") == bare
    task = load_task(name, RELEASED)
    assert task.pairs(4).texts == dataclasses.replace(task, form="bare").pairs(4).texts


def preferring(tokenizer, tokens):
    """A model that likes these tokens, wherever it is."""
    model = tiny_model(vocab_size=2048)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.final_logits_bias.zero_()
        for text in tokens:
            model.final_logits_bias[tokenizer.encode(text)] = 5.0
    return model


@pytest.mark.parametrize("name", [QUOTES, "bracket_counting", "var_if"])
@pytest.mark.parametrize("form", FORMS)
def test_the_natural_form_is_what_the_model_writes(name, form):
    model = preferring(RELEASED, decoded(name, form))
    assert natural_form(model, load_task(name, RELEASED)) == form
    assert task_for(model, name, RELEASED).form == form
    assert capabilities(model, RELEASED, [name], pairs=2)[0].form == form
    for given in FORMS:
        assert task_for(model, name, RELEASED, given).form == given
    assert task_for(model, name, RELEASED, "published").form == PUBLISHED.get(name, "line_end")


def test_where_nothing_tells_the_forms_apart_it_is_the_line_end():
    model = tiny_model(vocab_size=2048)
    for name in ("if_equals", "with_as"):
        assert natural_form(model, load_task(name, RELEASED)) == "line_end"


def test_the_shipped_circuit_is_of_the_line_end_and_its_prompts_are_those_of_its_report():
    circuit = Circuit.from_pretrained(ROOT, QUOTES)
    task = circuit.find_task(SHIPPED)
    assert circuit.settings["task_form"] == "line_end"
    older = dataclasses.replace(
        circuit, settings={name: value for name, value in circuit.settings.items() if name != "task_form"}
    )
    assert older.find_task(SHIPPED).form == "line_end"  # files of the versions before have no entry
    assert task.form == task_for(CSPForCausalLM.from_pretrained(ROOT), QUOTES, SHIPPED).form == "line_end"
    digest = hashlib.sha256()
    wanted = [("train", "main", 1024, 0), ("validation", "main", 64, 0), *(("test", family, 64, 1) for family in task.families)]
    for split, family, count, seed in wanted:
        pairs = task.pairs(count, split, family, seed, fewer=True)
        digest.update("\0".join(pairs.texts).encode())
        digest.update(str(pairs.answers.tolist()).encode())
    assert digest.hexdigest() == "9e5e5c01b7c357286885d29474847d37b6255eba34ca76455b94a3c807782da9"


@pytest.fixture(scope="module")
def model():
    return tiny_model(vocab_size=2048, n_layer=1)


@pytest.fixture(scope="module")
def means(model):
    return mean_activations(model, torch.arange(64).view(4, 16))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("twin", ["", "nonsense", "constant"])
def test_a_circuit_keeps_the_form_it_was_found_in(form, twin, model, means, tmp_path):
    task = dataclasses.replace(load_task(QUOTES, RELEASED, form), twin=twin)
    prune(model, RELEASED, task, means, QUICK, out=tmp_path, force=True)
    circuit = Circuit.from_pretrained(tmp_path)
    assert circuit.settings["task_form"] == form
    again = circuit.find_task(RELEASED)
    assert (again.form, again.twin) == (form, twin)
    assert torch.equal(again.pairs(4).answers, task.pairs(4).answers)
    other = dataclasses.replace(task, form=next(f for f in FORMS if f != form))
    with pytest.raises(
        ValueError, match=f"answers in the form {form}, the task asks for {other.form}; load the task with that form"
    ):
        verify(circuit, model, RELEASED, other, controls=False, seeds=1)
    if not twin:
        assert verify(circuit, model, RELEASED, again, pairs=2, controls=False, seeds=1).found["task"] == QUOTES


def test_a_search_is_of_one_form(model, means, tmp_path):
    pytest.importorskip("optuna")
    search(model, RELEASED, load_task(QUOTES, RELEASED), means, QUICK, trials=1, out=tmp_path, force=True)
    with pytest.raises(ValueError, match="search with another task"):
        search(model, RELEASED, load_task(QUOTES, RELEASED, "bare"), means, QUICK, trials=1, out=tmp_path, force=True)


def test_circuits_of_the_release_are_of_the_published_form(model, means, tmp_path):
    data = {"circuit_data": {"final_resid": torch.tensor([0, 3])}, "importances": {"loss": 0.3}}
    torch.save(data, tmp_path / "viz_data.pt")
    for name, given, form in ((QUOTES, {}, "bare"), (QUOTES, {"form": "line_end"}, "line_end"), ("var_if", {}, "line_end")):
        circuit = convert_openai_circuit(tmp_path / "viz_data.pt", model, RELEASED, means, task=name, **given)
        circuit = Circuit.from_pretrained(circuit.save_pretrained(tmp_path / name))
        assert circuit.find_task(RELEASED).form == form
    assert "task_form" not in convert_openai_circuit(tmp_path / "viz_data.pt", model, RELEASED, means, task="mine").settings
    with pytest.raises(ValueError, match="no form of a task; they are line_end, bare and published"):
        convert_openai_circuit(tmp_path / "viz_data.pt", model, RELEASED, means, task=QUOTES, form="odd")


def test_forms_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match="'odd' is no form of a task; they are line_end, bare and published"):
        load_task(QUOTES, RELEASED, "odd")
    (tmp_path / "own.jsonl").write_text(json.dumps(dict(zip(("prompt_a", "answer_a", "prompt_b", "answer_b"), "abcd"))))
    with pytest.raises(ValueError, match="says its answers itself; leave out the form 'bare'"):
        load_task(tmp_path / "own.jsonl", RELEASED, "bare")
    shutil.copytree(ROOT / "circuits" / QUOTES, tmp_path / "c")
    text = (tmp_path / "c" / "circuit.json").read_text().replace('"task_form": "line_end"', '"task_form": "odd"')
    (tmp_path / "c" / "circuit.json").write_text(text)
    with pytest.raises(ValueError, match="task_form 'odd', which is none of line_end, bare"):
        Circuit.from_pretrained(tmp_path / "c")


def test_from_the_command_line(tmp_path):
    words = ["tasks", str(ROOT), "--task", QUOTES, "--task", "if_equals", "--pairs", "4"]
    for form in FORMS:
        done = CliRunner().invoke(app, [*words, "--form", form])
        assert done.exit_code == 0, done.output
        assert (f"{QUOTES} (bare)" in done.stdout) is (form == "bare")
    done = CliRunner().invoke(app, [*words, "--json"])
    assert [each["form"] for each in json.loads(done.stdout)] == ["line_end", "line_end"]
    done = CliRunner().invoke(app, [*words, "--form", "odd"])
    assert (done.exit_code, "no form of a task" in done.stderr) == (2, True)
