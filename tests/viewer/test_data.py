"""What the page says is what the model and the circuit do: each number against its plain computation."""

import dataclasses
import hashlib
import json
import re
import time

import pytest
import torch

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.bridges import BridgedPair
from sparse_circuits.circuits import Edges, Verification, ablated, edges_in, load_task, make_task, mean_activations, score
from sparse_circuits.circuits.ablation import holding
from sparse_circuits.circuits.attribution import attribution
from sparse_circuits.circuits.edges import within
from sparse_circuits.circuits.masks import as_nodes, ranked
from sparse_circuits.viewer import Subject, circuit_data, page_data, write_page
from sparse_circuits.viewer.contexts import find_contexts
from sparse_circuits.viewer.contract import check, inline_json, records
from sparse_circuits.viewer.data import EFFECT_PAIRS
from sparse_circuits.viewer.labels import set_labels
from tiny import ROOT, tiny_ids, tiny_model
from toy import NODES, TOKENS, ToyTokenizer, quotes, toy_circuit, toy_model, toy_task


@pytest.fixture(scope="module")
def data(toy):
    return circuit_data(toy[3])


def test_effects_are_what_the_circuit_loses(toy, data):
    model, _, _, subject = toy
    pairs = toy_task().pairs(EFFECT_PAIRS, "validation", seed=0)
    circuit = subject.circuit
    with circuit.applied_to(model):
        base = score(model, pairs).loss
    for node in data["nodes"]:
        site, index = node["site"], node["index"]
        open_ = torch.ones(circuit.widths[site], dtype=torch.bool)
        open_[index] = False
        with circuit.applied_to(model), ablated(model, {site: holding(open_, circuit.fills[site])}):
            assert node["effect"] == pytest.approx(score(model, pairs).loss - base, abs=1e-6), node["id"]


def test_effects_with_frozen_norms_are_those_of_the_circuit_without_the_node(toy):
    model, _, means, _ = toy
    circuit = toy_circuit(model, means)
    circuit.settings["freeze_norms"] = True
    pairs = toy_task().pairs(EFFECT_PAIRS, "validation", seed=0)
    with circuit.applied_to(model):
        base = score(model, pairs).loss
    for node in circuit_data(Subject(circuit, model, ToyTokenizer(), toy_task()))["nodes"]:
        nodes = {s: i[i != node["index"]] if s == node["site"] else i for s, i in circuit.nodes.items()}
        left = dataclasses.replace(circuit, nodes=nodes, edges=within(circuit.edges, nodes))
        with left.applied_to(model):
            assert node["effect"] == pytest.approx(score(model, pairs).loss - base, abs=1e-6), node["id"]


def test_effects_do_not_depend_on_how_candidates_run(monkeypatch):
    """By what a candidate needs, or whole: this circuit has values whose edges are cut, which is where the two could mean something else."""
    model, tokenizer = CSPForCausalLM.from_pretrained(ROOT).eval(), CSPTokenizer.from_pretrained(ROOT)
    circuit = Circuit.from_pretrained(ROOT, "single_double_quote")
    subject, found = Subject(circuit, model, tokenizer, circuit.find_task(tokenizer)), []
    for can in (True, False):
        monkeypatch.setattr("sparse_circuits.viewer.data.can_narrow", lambda model, fills, can=can: can)
        found.append([node["effect"] for node in circuit_data(subject)["nodes"]])
    assert max(map(abs, found[0])) > 0.1
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_a_report_on_another_circuit_is_none(toy, tmp_path):
    subject = toy[3]
    subject.report.save(subject.circuit.save_pretrained(tmp_path))
    assert Verification.of(tmp_path, subject.circuit) is not None
    relabelled = dataclasses.replace(subject.circuit, labels={"final_resid:4": "x"}, metrics={})
    assert Verification.of(tmp_path, relabelled) is not None
    nodes = {site: indices for site, indices in subject.circuit.nodes.items() if site != "1.attn.k"}
    assert Verification.of(tmp_path, dataclasses.replace(subject.circuit, nodes=nodes)) is None
    edges = {name: Edges(e.source, e.target, e.weight * 2) for name, e in subject.circuit.edges.items()}
    assert Verification.of(tmp_path, dataclasses.replace(subject.circuit, edges=edges)) is None
    assert Verification.of(tmp_path / "nowhere", subject.circuit) is None


def test_a_file_named_like_a_built_in_task_is_not_taken_for_it(tmp_path):
    tokenizer = CSPTokenizer.from_pretrained(ROOT)
    path = tmp_path / "if_equals.csv"
    rows = [f"x{i} = ,1,y{i} = ,2" for i in range(40)]
    path.write_text("prompt_a,answer_a,prompt_b,answer_b\n" + "\n".join(rows))
    task = load_task(path, tokenizer)
    circuit = Circuit.from_pretrained(ROOT, "single_double_quote")
    assert circuit.find_task(tokenizer).name == "single_double_quote"
    circuit.task, circuit.settings["task_origin"] = "if_equals", task.origin
    assert circuit.find_task(tokenizer) is None
    assert circuit.find_task(tokenizer, path).origin == task.origin
    path.write_text("prompt_a,answer_a,prompt_b,answer_b\n" + "\n".join(rows[1:]))
    with pytest.raises(ValueError, match="found with another task"):
        circuit.find_task(tokenizer, path)
    circuit.settings["twin"] = "nonsense"
    circuit.task, circuit.settings["task_origin"] = "if_equals_nonsense", ""
    assert circuit.find_task(tokenizer).twin == "nonsense"


def test_labels_of_nodes_that_the_page_does_not_show_are_kept(toy):
    model, _, means, _ = toy
    circuit = toy_circuit(model, means)
    circuit.labels = {"1.mlp.post_act:0": "outside", "final_resid:4": "old"}
    set_labels(circuit, {"0.mlp.act_in:0": "new"}, {})
    assert circuit.labels == {"1.mlp.post_act:0": "outside", "0.mlp.act_in:0": "new"}


def plainly(model, ids):
    """Site -> activations [tokens, width], and the last logits."""
    seen = {}
    keep = lambda name: lambda module, args, out: seen.__setitem__(name, out.detach()[0])  # noqa: E731
    handles = [site.register_forward_hook(keep(name)) for name, site in model.node_sites().items()]
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    for handle in handles:
        handle.remove()
    return seen, logits


def test_activations_and_shares_on_prompts(toy, data):
    model, _, _, subject = toy
    for row, prompt in enumerate(data["prompts"]):
        ids = torch.tensor([prompt["tokens"]])
        full = plainly(model, ids)
        with subject.circuit.applied_to(model):
            own = plainly(model, ids)
        for run, (seen, logits) in (("model", full), ("circuit", own)):
            share = logits[[prompt["answer"], prompt["other"]]].softmax(0)[0]
            assert prompt[run] == pytest.approx(float(share), abs=1e-5)
            for node in data["nodes"]:
                wanted = seen[node["site"]][:, node["index"]].tolist()
                assert node[run][row] == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_attention_is_that_of_the_head(toy, data):
    model = toy[0]
    ids = torch.tensor([data["prompts"][1]["tokens"]])
    model.set_attn_implementation("eager")
    wanted = model(ids, output_attentions=True).attentions[1][0, 0]
    model.set_attn_implementation("sdpa")
    (found,) = [each for each in data["attention"] if each["prompt"] == 1]
    for i, row in enumerate(found["model"]):
        assert len(row) == i + 1
        assert row == [round(100 * float(share)) for share in wanted[i, : i + 1]]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_contexts_against_brute_force(batch):
    model, blocks = tiny_model(afrac={"mlp_neuron": 0.25}), tiny_ids(10, 12)
    nodes = {"0.mlp.post_act": torch.tensor([3, 17]), "final_resid": torch.tensor([0])}
    found = find_contexts(model, nodes, blocks, 4, batch)
    for site, indices in nodes.items():
        seen = {}
        handle = model.node_sites()[site].register_forward_hook(lambda m, a, out, s=seen: s.update(x=out.detach()))
        model(blocks)
        handle.remove()
        for i in indices.tolist():
            values = seen["x"][..., i]
            largest, smallest, active = found.of(site, i)
            assert active == pytest.approx(float((values != 0).double().mean()))
            assert [c["values"][c["at"]] for c in largest] == pytest.approx(
                values.amax(1).sort(descending=True).values[:4].tolist(), rel=5e-3
            )
            assert [c["values"][c["at"]] for c in smallest] == pytest.approx(
                values.amin(1).sort().values[:4].tolist(), rel=5e-3, abs=1e-6
            )
            row = int(values.amax(1).argmax())
            column = int(values[row].argmax())
            context = largest[0]
            start = column - context["at"]
            assert context["tokens"] == blocks[row, start : start + len(context["tokens"])].tolist()
            assert context["values"] == pytest.approx(
                values[row, start : start + len(context["values"])].tolist(), rel=5e-3, abs=1e-6
            )


def test_tokens_that_differ_come_first_in_the_graph(data):
    assert {link["source"] for link in data["links"] if link["kind"] == "embedding"} == {"token:0", "token:1"}
    assert {data["tokens"][str(t)] for t in (0, 1, 2, 3)} == set(TOKENS[:4])


def test_without_task_corpus_or_report_the_rest_is_there(toy):
    model, _, _, subject = toy
    data = circuit_data(Subject(subject.circuit, model, ToyTokenizer()))
    assert len(data["nodes"]) == sum(map(len, NODES.values()))
    assert all(node["effect"] is None and node["active"] is None and not node["largest"] for node in data["nodes"])
    assert (data["prompts"], data["attention"], data["report"]) == ([], [], None)


def test_an_empty_circuit_and_one_without_edges_have_pages(toy):
    model, _, means, subject = toy
    empty = toy_circuit(model, means, {"final_resid": []}, task="empty")
    empty.nodes, empty.edges = {}, {}
    check(page_data([Subject(empty, model, ToyTokenizer(), toy_task(), toy[1])]))
    bare = toy_circuit(model, means)
    bare.edges = None
    assert sum(link["kind"] == "weight" for link in circuit_data(Subject(bare, model, ToyTokenizer()))["links"]) == 9
    with pytest.raises(ValueError, match="at least one circuit"):
        page_data([])
    with pytest.raises(ValueError, match="whose weights are not this model's"):
        circuit_data(Subject(subject.circuit, toy_model("redundant"), ToyTokenizer()))


def test_the_model_is_left_as_it_was(toy):
    model = toy[0]
    model.train()
    before = model.config._attn_implementation
    circuit_data(toy[3])
    assert model.training
    assert model.config._attn_implementation == before
    hooks = [
        hook for module in model.modules() for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    assert all("output_capturing" in hook.__qualname__ for hook in hooks)  # transformers leaves its own
    model.eval()


def test_metrics_from_a_file_are_taken_only_as_far_as_they_are_numbers(toy):
    model, _, means, _ = toy
    circuit = toy_circuit(model, means)
    circuit.metrics = {
        "curve": [[1, 2], ["x", 1], [float("nan"), 1], [10**400, 1], 3, None],
        "history": "no",
        "circuit": {"loss": "x"},
        "model": 3,
    }
    data = circuit_data(Subject(circuit, model, ToyTokenizer()))
    check(data, "Circuit")
    assert data["curve"] == [[1, 2]]
    assert data["history"] == []


def test_every_type_of_the_contract_exists():
    known = {*records(), "string", "int", "number", "bool"}
    for fields in records().values():
        for kind in fields.values():
            assert kind.rstrip("?").strip("[]{}").rstrip("?") in known


def test_inlined_json_cannot_leave_its_element():
    text = inline_json({"a": "</script><!--\u2028\ud800&"})
    assert not set("<>&\u2028") & set(text)
    assert text.isascii()
    assert json.loads(text) == {"a": "</script><!--\u2028\ud800&"}


def test_files_of_pairs_and_own_tasks_work_too(toy):
    model, _, means, _ = toy
    own = make_task("mine", quotes, ToyTokenizer())
    data = circuit_data(Subject(toy_circuit(model, means, task="mine"), model, ToyTokenizer(), own))
    assert data["description"] == "Close the quote that was opened."


def test_a_page_of_150_nodes_is_small_and_made_quickly(tmp_path):
    """Under 3 MB and 30 s on 2 cores, contexts included: a minute of processor time, so that what else runs does not count; the shipped model, its 150
    first nodes by attribution."""
    model, tokenizer = CSPForCausalLM.from_pretrained(ROOT).eval(), CSPTokenizer.from_pretrained(ROOT)
    task = load_task("single_double_quote", tokenizer)
    blocks = torch.randint(0, len(tokenizer), (400, 128), generator=torch.Generator().manual_seed(0))
    means = mean_activations(model, blocks)
    scores = attribution(model, {name: means.values[name] for name in model.node_sites()}, task.pairs(8), False)
    nodes = as_nodes(ranked(scores)[:150], list(model.node_sites()))
    circuit = Circuit.from_pretrained(ROOT, "single_double_quote")
    circuit.nodes, circuit.edges = nodes, edges_in(model, nodes)
    started = time.process_time()
    path = write_page([Subject(circuit, model, tokenizer, task, blocks)], tmp_path / "page.html")
    assert time.process_time() - started < 60
    assert path.stat().st_size < 3_000_000
    assert circuit.num_nodes == 150


def test_the_shipped_circuit_is_of_the_shipped_model():
    model, tokenizer = CSPForCausalLM.from_pretrained(ROOT).eval(), CSPTokenizer.from_pretrained(ROOT)
    circuit = Circuit.from_pretrained(ROOT, "single_double_quote")
    pairs = load_task("single_double_quote", tokenizer).pairs(64, "validation")
    with circuit.applied_to(model):
        assert score(model, pairs).loss == pytest.approx(circuit.metrics["circuit"]["loss"], abs=1e-3)
    report = Verification.of(ROOT / "circuits" / "single_double_quote", circuit)
    assert report is not None
    assert report.levels["prefers"]
    assert report.found["size"]["edges"] == circuit.num_edges


def test_steering_the_dense_twin_is_patching_the_node(bridged):
    """Under identities between equal models a push sets the node to what it is on the counterfactual: probabilities, band and tokens by hand."""
    pair, pairs = bridged.pair, toy_task().pairs(EFFECT_PAIRS, "validation", seed=0)
    nodes = {node["id"]: node["steering"] for node in circuit_data(bridged)["nodes"]}
    reads = {name for name in nodes if name.split(":")[0].endswith("act_in") or name.startswith("final_resid")}
    assert {name for name, found in nodes.items() if found} <= reads
    norm, found = pair.dense.model.transformer.h[1].attn_norm, nodes["1.attn.act_in:3"]
    seen = []
    handle = norm.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        before = pair.dense.model(pairs.input_ids, attention_mask=pairs.attention_mask).logits[:, -1].log_softmax(-1)
        handle.remove()
        moved, partner = seen[0].clone(), torch.arange(len(before)) ^ 1
        moved[..., 3] = seen[0][partner][..., 3]
        handle = norm.register_forward_hook(lambda module, args, out: moved)
        after = pair.dense.model(pairs.input_ids, attention_mask=pairs.attention_mask).logits[:, -1].log_softmax(-1)
        handle.remove()
    for kind, column in (("answer", 0), ("other", 1)):
        answers = pairs.answers[:, column : column + 1]
        assert found[kind][0] == pytest.approx(float(before.exp().gather(1, answers).mean()), rel=1e-3)
        assert found[kind][2] == pytest.approx(float(after.exp().gather(1, answers).mean()), rel=1e-3)
    assert found["strengths"] == [0, 0.5, 1, 2, 4]
    assert found["random"][0] == pytest.approx(found["other"][0])
    assert found["other"][2] > found["random"][2] > found["random"][0]
    sign = (moved - seen[0])[..., 3].sum(1).sign()
    change = 100 * (sign[:, None] * (after.exp() - before.exp())).mean(0)
    assert {each["token"] for each in found["raised"][:2]} == set(change.abs().topk(2).indices.tolist())
    for each in found["raised"]:
        assert each["weight"] == pytest.approx(float(change[each["token"]]), rel=1e-2, abs=1e-3)


def test_a_pair_needs_its_own_sparse_model_and_says_what_it_cannot_show(bridged, toy):
    other = BridgedPair(bridged.pair.dense.model, bridged.pair.dense.model, ToyTokenizer())
    with pytest.raises(ValueError, match=r"pair\.sparse\.model"):
        circuit_data(dataclasses.replace(toy[3], pair=other))
    data = circuit_data(dataclasses.replace(bridged, blocks=None))
    assert all(node["steering"] is None for node in data["nodes"])
    assert any(name == "steering it" and "it takes the task's prompts, and text" in text for name, text in data["facts"])
    data = circuit_data(dataclasses.replace(bridged, blocks=bridged.blocks[:0]))
    assert any(name == "steering it" and "and text" in text for name, text in data["facts"])
    uneven = make_task("odd", lambda v, w: (("(' w1 w2", " ')"), ('(" w1', ' ")')), ToyTokenizer())
    data = circuit_data(dataclasses.replace(bridged, task=uneven))
    assert any(name == "steering it" and "as long as its counterfactual" in text for name, text in data["facts"])

    def sometimes(values, wording):
        one, two = quotes(values, wording)
        return one, ((two[0] + " w1", two[1]) if values.random.random() < 0.5 else two)

    data = circuit_data(dataclasses.replace(bridged, task=make_task("sometimes", sometimes, ToyTokenizer())))
    (said,) = (text for name, text in data["facts"] if name == "steering it")
    assert 0 < int(re.fullmatch(r"on (\d+) of 16 pairs; in the others the prompts have different lengths", said)[1]) < 16
    assert any(node["steering"] for node in data["nodes"])
    assert ["bridged to", "a dense model of width 8, 4 sublayers"] in [list(fact) for fact in circuit_data(bridged)["facts"]]


def test_the_page_has_a_certificate_only_of_its_own_circuit(toy, tmp_path):
    from sparse_circuits.circuits.identity import circuit_sha256

    model, _, means, subject = toy
    circuit = toy_circuit(model, means)
    circuit.save_pretrained(tmp_path)
    program = "def answer(tokens):\n    return {}\n"
    simple = {"sha256": hashlib.sha256(program.encode()).hexdigest(), "right": 140, "prompts": 200, "loss": 0.25, "bound": 0.1}
    document = {
        "format": "sparse_circuits.certificate", "version": 1, "prompts": 200, "right": 150, "one_answer": 100, "loss": 0.2, "simple": simple,
    }  # fmt: skip
    for kept, told in (
        ({"values": "all", "templates": 1, "of": 1}, "one answer always: 50%"),
        (
            {"values": "test", "texts": 8, "templates": 2, "of": 4},
            "test words, 8 a place, 2 of 4 templates, one answer always: 50%",
        ),
    ):
        for sha, proved in ((circuit_sha256(circuit), f"75.00% of 200 prompts ({told})"), ("0" * 64, "")):
            for text in (program, program + "# and more\n"):
                (tmp_path / "simple.py").write_text(text)
                (tmp_path / "certificate.json").write_text(json.dumps({**document, "circuit": sha, "restricted": kept}))
                found = circuit_data(Subject.of(tmp_path, model, subject.tokenizer))
                assert found["certified"] == proved
                assert found["program"] == (program if proved and text == program else "")
                counted = "right on 140 of 200 prompts, where the circuit is on 150; mean loss 0.250, of the circuit 0.200"
                assert found["simpler"] == (counted if found["program"] else "")
    row = {"prompt": "<b>", "right": "a", "wrong": "b", "margin": -1.5, "model_margin": 2}
    for rows, told in (([row], [row]), ([row] * 30, [row] * 20), (7, None), ([{**row, "margin": "far"}], None), ([{}], None)):
        damaged = {**document, "circuit": circuit_sha256(circuit), "restricted": kept, "worst": rows}
        (tmp_path / "certificate.json").write_text(json.dumps(damaged))
        if told is None:
            with pytest.raises(ValueError, match="A certificate is damaged"):
                Subject.of(tmp_path, model, subject.tokenizer)
        else:
            assert circuit_data(Subject.of(tmp_path, model, subject.tokenizer))["worst"] == told
