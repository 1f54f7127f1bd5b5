"""The circuit file: exact round trips, whatever is wrong refused by name, nothing half written."""

import contextlib
import copy
import dataclasses
import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as parse
from safetensors.torch import save as to_bytes

from sparse_circuits import CSPForCausalLM
from sparse_circuits.circuits import (
    Circuit,
    score,
)
from sparse_circuits.circuits.identity import identify, tokenizer_sha256, weights_sha256
from sparse_circuits.circuits.storage import JSON, TENSORS, _parse
from tiny import tiny_model
from toy import ToyTokenizer, toy_model, toy_task


@pytest.fixture
def folder(circuit, tmp_path):
    return circuit.save_pretrained(tmp_path / "quotes")


def same(one, two):
    plain = [f.name for f in dataclasses.fields(Circuit) if f.name not in ("nodes", "edges", "means", "scores")]
    assert [getattr(one, name) for name in plain] == [getattr(two, name) for name in plain]
    for kind in ("nodes", "means", "scores"):
        a, b = getattr(one, kind), getattr(two, kind)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert (one.edges is None) == (two.edges is None)
    for name in one.edges or {}:
        assert all(torch.equal(a, b) for a, b in zip(one.edges[name], two.edges[name]))


def test_a_round_trip_is_exact_and_does_the_same(circuit, folder):
    again = Circuit.from_pretrained(folder)
    same(circuit, again)
    same(
        Circuit.from_pretrained(dataclasses.replace(circuit, edges=None).save_pretrained(folder)),
        dataclasses.replace(circuit, edges=None),
    )
    model, pairs = toy_model(), toy_task().pairs(8, "test")
    with again.applied_to(model):
        after = score(model, pairs)
    with circuit.applied_to(model):
        assert score(model, pairs) == after
    assert after.preference == 1.0


def test_a_model_repository_has_several(circuit, tmp_path):
    circuit.save_pretrained(tmp_path / "circuits" / "quotes")
    same(Circuit.from_pretrained(tmp_path, "quotes"), circuit)
    same(Circuit.from_pretrained(tmp_path, subfolder="circuits/quotes"), circuit)
    with pytest.raises(FileNotFoundError, match="has circuits for quotes"):
        Circuit.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="has circuits for quotes"):
        Circuit.from_pretrained(tmp_path, "brackets")
    with pytest.raises(ValueError, match="no subfolder"):
        Circuit.from_pretrained(tmp_path, subfolder="../..")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        Circuit.from_pretrained("/no/such/place")


def test_another_models_circuit_is_refused(circuit):
    other = toy_model()
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match="whose weights are not this model's"), circuit.applied_to(other):
        pass
    with circuit.applied_to(other, force=True):
        assert score(other, toy_task().pairs(4, "test")).preference == 1.0
    with pytest.raises(ValueError, match="model of another shape"), circuit.applied_to(tiny_model(), force=True):
        pass
    with pytest.raises(ValueError, match="no CSP language model"), circuit.applied_to(torch.nn.Linear(2, 2)):
        pass


def test_the_same_model_is_known_however_it_was_loaded(circuit, tmp_path):
    toy_model().save_pretrained(tmp_path / "dense", sparse=False)
    toy_model().save_pretrained(tmp_path / "sparse", sparse=True)
    for model in (
        CSPForCausalLM.from_pretrained(tmp_path / "dense"), CSPForCausalLM.from_pretrained(tmp_path / "sparse", sparse=True),
        toy_model().to_sparse(max_density=1.0),
    ):  # fmt: skip
        assert weights_sha256(model) == circuit.model["weights"]
    found = identify(CSPForCausalLM.from_pretrained(tmp_path / "dense"))
    assert found["id"] == "dense"  # never the path
    assert str(tmp_path) not in json.dumps(found)


def test_tokenizers_are_told_apart():
    changed = type("Other", (ToyTokenizer,), {"get_vocab": lambda self: {"a": 0}})
    assert tokenizer_sha256(ToyTokenizer()) != tokenizer_sha256(changed())


def edited(change):
    def apply(folder):
        document = json.loads((folder / JSON).read_text())
        change(document)
        (folder / JSON).write_text(json.dumps(document))

    return apply


def retensored(change):
    def apply(folder):
        tensors = parse((folder / TENSORS).read_bytes())
        change(tensors)
        data = to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()})
        (folder / TENSORS).write_bytes(data)
        import hashlib

        edited(lambda d: d.update(tensors_sha256=hashlib.sha256(data).hexdigest()))(folder)

    return apply


EDGE = "1.attn.v->1.attn.resid_delta"
DAMAGE = {
    "truncated json": (lambda f: (f / JSON).write_text((f / JSON).read_text()[:-200]), "may be truncated"),
    "truncated tensors": (lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-9]), "sha256 differs"),
    "no tensors": (lambda f: (f / TENSORS).unlink(), r"has no circuit\.safetensors"),
    "binary json": (lambda f: (f / JSON).write_bytes(b"\xff\xfe\x00"), "is no circuit"),
    "deep json": (lambda f: (f / JSON).write_text("[" * 100_000), "is no circuit"),
    "nan": (edited(lambda d: d["calibration"].update(scale=float("nan"))), "NaN is no number"),
    "a list": (lambda f: (f / JSON).write_text("[]"), "its format is not"),
    "version": (edited(lambda d: d.update(version=2)), "this package reads 1"),
    "missing key": (edited(lambda d: d.pop("metrics")), "metrics in circuit.json is missing"),
    "task": (edited(lambda d: d.update(task="../x")), "its task is no name"),
    "node out of range": (edited(lambda d: d["sites"]["final_resid"].update(nodes=[8])), "names one outside"),
    "negative node": (edited(lambda d: d["sites"]["final_resid"].update(nodes=[-1])), "names one outside"),
    "unordered": (edited(lambda d: d["sites"]["final_resid"].update(nodes=[4, 2])), "not in rising order"),
    "float node": (edited(lambda d: d["sites"]["final_resid"].update(nodes=[1.5])), "no list of whole numbers"),
    "huge width": (edited(lambda d: d["sites"]["final_resid"].update(width=10**12)), "the width of final_resid"),
    "site": (edited(lambda d: d["sites"].update({"<script>": {"width": 1, "nodes": []}})), "is no node site"),
    "no sites": (edited(lambda d: d.update(sites={})), "no final_resid|connect no two sites"),
    "edge count": (edited(lambda d: d["edges"].update({EDGE: 5})), "have no 5 entries"),
    "edge map": (edited(lambda d: d["edges"].update({"a->b": 0})), "connect no two sites with nodes"),
    "edge leaves": (retensored(lambda t: t.update({f"source::{EDGE}": torch.tensor([3], dtype=torch.int32)})), "leaves the circuit's nodes"),
    "weight": (retensored(lambda t: t.update({f"weight::{EDGE}": torch.tensor([float("inf")])})), "is not finite"),
    "means gone": (retensored(lambda t: t.pop("mean::final_resid")), "no means of final_resid"),
    "mean width": (retensored(lambda t: t.update({"mean::final_resid": torch.zeros(7)})), "is not 8 finite numbers"),
    "mean nan": (retensored(lambda t: t.update({"mean::final_resid": torch.full((8,), torch.nan)})), "is not 8 finite numbers"),
    "no edges at all": (edited(lambda d: d.pop("edges")), "edges in circuit.json is missing"),
    "label far out": (edited(lambda d: d.update(labels={"final_resid:1" + "0" * 30: "x"})), "names no node"),
    "label just out": (edited(lambda d: d.update(labels={"final_resid:0000000008": "x"})), "names no node"),
    "group far out": (edited(lambda d: d.update(groups={"final_resid:99999999990": "x"})), "names no node"),
    "half a character": (edited(lambda d: d.update(labels={"final_resid:4": "\ud800"})), "lone surrogate"),
    "a key twice": (lambda f: (f / JSON).write_text((f / JSON).read_text().replace('"task"', '"version": 1, "task"', 1)), "is there twice"),
    "label": (edited(lambda d: d.update(labels={"final_resid:99": "x"})), "names no node"),
    "calibration": (edited(lambda d: d.update(calibration={"scale": "x", "shift": 0})), "must be numbers"),
    "model": (edited(lambda d: d.update(model={"id": 3})), "model must have text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind, folder):
    damage, message = DAMAGE[kind]
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        Circuit.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_json_is_refused_in_one_sentence(circuit, tmp_path_factory, data):
    """Any value of a valid file replaced by anything that JSON can say: it loads to a valid circuit, or is refused by ValueError."""
    folder = circuit.save_pretrained(tmp_path_factory.mktemp("fuzz"))
    document = json.loads((folder / JSON).read_text())
    tensors = (folder / TENSORS).read_bytes()
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5,
    )  # fmt: skip
    at = document
    keys = data.draw(st.sampled_from(sorted(document)))
    while True:
        value = at[keys]
        if isinstance(value, (dict, list)) and value and data.draw(st.booleans()):
            at, keys = value, data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
            continue
        at[keys] = data.draw(anything)
        break
    with contextlib.suppress(ValueError):  # and nothing else
        found = Circuit(**_parse(document, tensors))
        assert found.num_nodes <= sum(found.widths.values())


def test_a_failed_write_leaves_the_older_circuit(circuit, folder, monkeypatch):
    changed = copy.copy(circuit)
    changed.labels = {"final_resid:4": "the type"}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="free some disk space"):
        changed.save_pretrained(folder)
    same(Circuit.from_pretrained(folder), circuit)
    assert sorted(path.name for path in folder.iterdir()) == [JSON, TENSORS]


def test_what_would_be_refused_is_not_written(circuit, folder):
    for wrong in ({"task": "a/b"}, {"labels": {"nowhere:1": "x"}}):
        with pytest.raises(ValueError, match=r"cannot name|names no node"):
            dataclasses.replace(circuit, **wrong).save_pretrained(folder)
    same(Circuit.from_pretrained(folder), circuit)


def test_pushing_uploads_a_valid_folder(circuit, monkeypatch):
    import huggingface_hub

    seen = {}

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **options):
            seen["repo"] = repo_id
            return type("Made", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, path_in_repo, commit_message, **options):
            seen.update(path=path_in_repo, circuit=Circuit.from_pretrained(folder_path), message=commit_message)
            return type("Done", (), {"commit_url": "https://hub/commit"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert circuit.push_to_hub("user/model") == "https://hub/commit"
    assert (seen["repo"], seen["path"], seen["message"]) == ("user/model", "circuits/quotes", "Circuit for quotes")
    same(seen["circuit"], circuit)


def test_settings_that_decide_the_function_are_part_of_the_identity(circuit):
    model = toy_model()
    before = weights_sha256(model)
    model.config.activation_type = "gelu"
    assert weights_sha256(model) != before
    with pytest.raises(ValueError, match="not this model's"), circuit.applied_to(model):
        pass


def test_a_kill_between_the_two_moves_leaves_the_older_circuit(circuit, tmp_path, monkeypatch):
    import os

    circuit.save_pretrained(tmp_path)
    changed, moves = dataclasses.replace(circuit, scores={}, labels={"final_resid:4": "new"}), []
    original = os.replace

    def dies(source, target):
        if str(target).endswith("circuit.json"):
            raise KeyboardInterrupt
        moves.append(target)
        original(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        changed.save_pretrained(tmp_path)
    assert moves
    assert Circuit.from_pretrained(tmp_path).labels == {}
    monkeypatch.undo()
    changed.save_pretrained(tmp_path)
    assert Circuit.from_pretrained(tmp_path).labels == changed.labels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circuit.json", "circuit.safetensors"]
