"""Pages that run their model themselves, in a real browser, against PyTorch behind the served page."""

import contextlib
import dataclasses
import json
import re
from urllib.parse import quote

import pytest
import torch
from transformers.utils import logging

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import ablated
from sparse_circuits.circuits.ablation import recorded_scales
from sparse_circuits.circuits.edges import Edges
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
    assert file.stat().st_size < 4e6
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
        rows = page.eval_on_selector_all(
            "#next tr",
            "rows => rows.slice(1).map(row => [row.cells[0].innerText, ...[...row.cells].slice(1).map(cell => Number(cell.dataset.value) / 100)])",
        )
        assert len(rows) == len(expected["next"])
        for (_, whole, own), each in zip(rows, expected["next"], strict=True):
            assert abs(whole - each["model"]) < 1e-4
            assert abs(own - each["circuit"]) < 1e-4
    assert page.locator("#live-save").count() == 0


def test_a_prompt_that_cannot_be_run_is_said(opened, own_page):
    page = opened(own_page[0].as_uri())
    page.wait_for_selector("#live-run")
    page.fill("#live-prompt", "")
    page.click("#live-run")
    page.wait_for_selector("#live-result .minus")
    assert "The prompt has 0 tokens" in page.inner_text("#live-result")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LARGEST_MODEL", 100, "a page may have 0"),
        ("MOST_NONZEROS", 100, "million nonzeros, and a page may have 0"),
        ("pack_tokenizer", lambda tokenizer: None, "byte-level BPE"),
    ],
)
def test_a_model_that_a_page_cannot_have_is_left_out_with_a_word(own_page, tmp_path, monkeypatch, caplog, name, value, message):
    monkeypatch.setattr(f"sparse_circuits.viewer.data.{name}", value)
    logging.enable_propagation()
    try:
        file = write_page([own_page[1]], tmp_path / "page.html", runs=True)
    finally:
        logging.disable_propagation()
    assert message in caplog.text
    assert "csp view --serve" in caplog.text
    assert '"models":[]' in file.read_text(encoding="utf-8")


def test_pages_without_their_model_do_not_offer_to_run_it(opened, toy_page):
    page = opened(toy_page)
    assert page.locator("#live-run").count() == 0


NEXT = "rows => rows.slice(1).map(row => [...row.cells].slice(1).map(cell => Number(cell.dataset.value) / 100))"


def opened_with(opened, file, changes, prompt=PROMPT, more=""):
    """The page with changes in its link, when what they do is shown."""
    page = opened(f"{file.as_uri()}#prompt={quote(prompt)}&changes={quote(json.dumps({'0': changes}))}{more}")
    page.wait_for_function("() => results.get(0) && document.querySelectorAll('#next tr').length > 1")
    assert page.input_value("#live-prompt") == prompt
    return page


def next_in(page, subject, whole, own):
    """Shares of all shown tokens, against logits of the model and of the circuit."""
    ids = page.evaluate("() => results.get(0).now.next.map(each => each.id)")
    found = torch.tensor(page.eval_on_selector_all("#next tr", NEXT), dtype=torch.float64)
    expected = torch.stack([logits.double().softmax(0)[ids] for logits in (whole, own)], 1)
    assert (found - expected).abs().max() < 1e-4


@torch.no_grad()
def test_an_edge_is_cut_in_model_and_circuit(opened, own_page):
    file, subject = own_page
    circuit, model = subject.circuit, subject.model
    ids = torch.tensor([subject.tokenizer.encode(PROMPT, add_special_tokens=False)])
    kinds = {re.sub(r"\d+\.", "", name): name for name in circuit.edges}  # a map of each kind
    assert {"attn.act_in->attn.v", "attn.v->attn.resid_delta", "mlp.act_in->mlp.post_act"} <= set(kinds)
    for name in kinds.values():
        edges = circuit.edges[name]
        strongest = int(edges.weight.abs().argmax())
        one, rest = (
            Edges(*(part[which] for part in edges))
            for which in (torch.arange(len(edges.weight)) == strongest, torch.arange(len(edges.weight)) != strongest)
        )
        source, target = name.split("->")
        page = opened_with(opened, file, {f"{source}:{int(one.source)}>{target}:{int(one.target)}": "off"})
        with ablated(model, {}, removed={name: one}, means=circuit.means):
            whole = model(ids).logits[0, -1]
        with dataclasses.replace(circuit, edges={**circuit.edges, name: rest}).running(model):
            own = model(ids).logits[0, -1]
        next_in(page, subject, whole, own)
        assert page.locator(".edge.cut").count() == 1
        page.click("#live-off button")  # and back
        page.wait_for_function("() => !document.querySelector('.edge.cut') && results.get(0).now === results.get(0).before")


@torch.no_grad()
def test_a_node_is_held_at_a_value(opened, own_page):
    file, subject = own_page
    circuit, model = subject.circuit, subject.model
    site = next(name for name in circuit.nodes if name.endswith("mlp.post_act"))
    node = int(circuit.nodes[site][0])
    page = opened_with(opened, file, {}, more=f"&node={site}:{node}")
    page.fill("#hold-at", "3.5")
    page.click("#hold")
    page.wait_for_function("() => Object.keys(changesIn(0)).length && results.get(0).now !== results.get(0).before")
    ids = torch.tensor([subject.tokenizer.encode(PROMPT, add_special_tokens=False)])

    def hold(module, args, out):
        return out.index_fill(2, torch.tensor([node]), 3.5)

    logits = []
    with recorded_scales(model) as scales:  # of the whole model as it is: what is held does not change them
        model(ids)
    for where in (contextlib.nullcontext(), circuit.running(model, freeze_norms=dict(scales))):
        with where, model_hook(model, site, hold):
            logits.append(model(ids).logits[0, -1])
    next_in(page, subject, *logits)
    assert page.locator(".node.held").count() == 1
    assert f"{site}:{node} at 3.5" in page.inner_text("#live-off")


@contextlib.contextmanager
def model_hook(model, site, hook):
    handle = model.node_sites()[site].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def test_the_line_is_completed_as_the_model_would(opened, own_page):
    file, subject = own_page
    page = opened_with(opened, file, {}, "import os\n\nclass A:\n    def f(self")
    ids = subject.tokenizer("import os\n\nclass A:\n    def f(self", return_tensors="pt", add_special_tokens=False)["input_ids"]
    expected = subject.tokenizer.decode(subject.model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :])
    page.click("#live-complete button >> nth=0")
    page.click("#live-complete button >> nth=1")
    page.wait_for_function("() => document.querySelectorAll('#live-completed p').length === 2")
    page.click("#live-completed button >> nth=0")
    page.wait_for_function("() => document.getElementById('live-prompt').value.length > 35")
    added = page.input_value("#live-prompt")[len("import os\n\nclass A:\n    def f(self") :]
    assert expected.startswith(added) or added.startswith(expected)
    assert len(added) > 2


def test_the_answer_that_is_compared_stays_when_another_is_preferred(opened, own_page):
    """What an intervention turns round is said of the same answer as before."""
    page = opened_with(opened, own_page[0], {}, 'book = 19\nprint("north')
    before = page.inner_text(".preference h3")
    page.evaluate("() => update({ changes: { 0: { 'final_resid:165': 'off' } } })")
    page.wait_for_function("() => Object.keys(changesIn(0)).length && results.get(0).changes !== '{}'")
    page.wait_for_timeout(300)
    assert page.inner_text(".preference h3") == before
    assert float(page.locator(".preference .number >> nth=1").get_attribute("data-value")) < 50


def test_the_browsers_back_button_takes_steps_back(opened, own_page):
    page = opened_with(opened, own_page[0], {})
    page.click("[data-id='0.mlp.post_act:588'] .ring")
    page.click("#node-changes button >> nth=0")
    page.wait_for_function("() => document.getElementById('node-effect').textContent.includes('rather than')")
    assert page.evaluate("() => changesIn(0)['0.mlp.post_act:588']") == "off"
    page.go_back()
    page.wait_for_function("() => Object.keys(changesIn(0)).length === 0")
    assert page.evaluate("() => state.node") == "0.mlp.post_act:588"


def test_a_nodes_own_edges_come_first_all_of_them(opened, own_page):
    page = opened_with(opened, own_page[0], {}, more="&node=0.mlp.post_act:588")
    own = page.evaluate(
        "() => current().links.filter(link => link.kind === 'weight' && link.target === '0.mlp.post_act:588').length"
    )
    rows = page.locator("#node .reads tr")
    assert own > 0
    assert [rows.nth(i).locator(".cut").count() for i in range(own)] == [1] * own


def test_the_prompts_graph_is_lit_and_switched_by_key(opened, own_page):
    page = opened_with(opened, own_page[0], {}, more="&view=prompt")
    dot = page.locator("#flow .node[tabindex]").first
    dot.hover()
    assert page.locator("#flow svg.lighting").count() == 1
    assert 0 < page.locator("#flow .edge.lit").count() < page.locator("#flow .edge").count()
    node = dot.get_attribute("data-id")
    dot.focus()
    page.keyboard.press("x")
    page.wait_for_function("node => changesIn(0)[node] === 'off'", arg=node)


def test_the_prompts_own_graph(opened, own_page):
    file, subject = own_page
    page = opened_with(opened, file, {}, more="&view=prompt")
    page.wait_for_selector("#flow svg")
    assert not page.locator("#graphs").is_visible()
    tokens = subject.tokenizer.encode(PROMPT, add_special_tokens=False)
    flows = page.evaluate("() => flowsOf(current(), results.get(0))")
    nodes = page.evaluate("() => Object.fromEntries(current().nodes.map(node => [node.id, node.mean]))")
    acts = page.evaluate("() => results.get(0).now.activations")
    shares = page.evaluate("() => results.get(0).now.attention")
    weights = {
        (f"{n.split('->')[0]}:{s}", f"{n.split('->')[1]}:{t}"): w
        for n, e in subject.circuit.edges.items()
        for s, t, w in zip(*(p.tolist() for p in e))
    }
    checked = 0
    for each in flows:
        weight = weights.get((each["source"], each["target"]))
        if weight is None:
            continue
        share = 1.0
        if each["source"].split(":")[0].endswith("attn.v"):
            layer, node = each["source"].split(".")[0], int(each["source"].split(":")[1])
            share = shares[f"{layer}.{node // subject.model.config.d_head}"][each["to"]][each["from"]]
        else:
            assert each["from"] == each["to"]
        expected = weight * share * (acts[each["source"]][each["from"]] - nodes[each["source"]])
        assert each["flow"] == pytest.approx(expected, rel=1e-3, abs=1e-9)  # weights in the page have four digits
        checked += 1
    assert checked > len(tokens)
    parts = page.evaluate(
        "() => influences(flowsOf(current(), results.get(0)), current(), results.get(0).now).map(each => [each.target, each.part])"
    )
    answers = [part for target, part in parts if target.startswith("answer:")]
    assert sum(answers) == pytest.approx(len({target for target, _ in parts if target.startswith("answer:")}))
    page.select_option("#view-select", "circuit")
    page.wait_for_selector("#graphs svg")
    assert not page.locator("#flow").is_visible()


def test_the_story_has_the_prompts_numbers(opened, own_page):
    file, subject = own_page
    page = opened_with(opened, file, {})
    line = page.locator(".step").first
    node = line.locator("button.link").first.get_attribute("title")
    value = page.evaluate("node => shown(results.get(0).now.activations[node].at(-1))", node)
    assert line.locator(".value").inner_text().strip() == f"({value})"
    line.locator("button.link").first.click()
    assert page.inner_text("#node h2") == node
    total = subject.circuit.num_nodes
    if total > 40:
        page.click("#story-all")
    assert page.locator(".step").count() > 40 or total <= 40


def test_it_runs_in_a_worker_and_quickly(opened, own_page):
    page = opened_with(opened, own_page[0], {})
    assert page.evaluate("() => worker instanceof Worker")
    took = page.evaluate(
        """async () => {
          const prompt = "x = 1\\nprint('a b c d e f g h i j k l m n o p q r s t";
          const times = [];
          for (let i = 0; i < 9; i++) times.push((await runHere(0, prompt + i)).milliseconds);
          return [Math.min(...times), results.get(0).now.tokens.length];
        }"""
    )
    assert took[0] < 150  # a tenth of it on an idle machine; docs/results.md


def test_a_telephone_shows_it_without_sideways_scrolling(opened, own_page):
    for view in ("", "&view=prompt"):
        page = opened_with(opened, own_page[0], {}, more=view)
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_where_it_is_weakest_is_one_click_away(opened, own_page):
    page = opened_with(opened, own_page[0], {})
    assert not page.locator("#worst table").is_visible()
    page.click("#to-worst button")
    assert page.locator("#worst table").is_visible()
    assert page.evaluate("document.getElementById('worst').getBoundingClientRect().top < innerHeight")


def test_paper_is_as_wide_as_the_page(opened, own_page):
    for view in ("", "&view=prompt"):
        page = opened_with(opened, own_page[0], {}, more=view)
        page.set_viewport_size({"width": 794, "height": 1100})
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth") <= 794
        assert not page.locator("#live-prompt").is_visible()


def test_what_waits_is_overtaken_by_what_is_newer(opened, own_page):
    page = opened_with(opened, own_page[0], {})
    found = page.evaluate(
        """async () => {
          const said = await Promise.allSettled(["a = 1", "b = 22", "c = (3"].map((prompt) => runHere(0, prompt)));
          return said.map((each) => each.value ? each.value.tokens.join("") : each.reason.message);
        }"""
    )
    assert found == ["a = 1", "A newer prompt took its place.", "c = (3"]


def test_what_a_link_cannot_mean_is_ignored(opened, own_page):
    file, subject = own_page
    node = next(f"{site}:{int(i[0])}" for site, i in subject.circuit.nodes.items() if site.endswith("mlp.post_act"))
    name, edges = next((name, each) for name, each in subject.circuit.edges.items() if len(each.weight))
    edge = f"{name.split('->')[0]}:{int(edges.source[0])}>{name.split('->')[1]}:{int(edges.target[0])}"
    fine = {node: "1.5", edge: "off"}
    for changes in (
        '{"0": {"__proto__": "off"}}',
        "null",
        "[]",
        "7",
        '{"0": null, "constructor": {"x": "off"}}',
        "{",
        '{"9": {"a": "off"}}',
    ):
        page = opened(f"{file.as_uri()}#labels={quote(changes)}&changes={quote(changes)}")
        page.wait_for_function("() => results.get(0)?.now")
        assert page.evaluate("() => JSON.stringify([state.changes, state.labels])") == "[{},{}]"
    wrong = {"9.mlp.post_act:1": "off", "no": "off", f"{node}>{node}": "off", f"{edge}x": "off", **fine}
    page = opened(f"{file.as_uri()}#changes={quote(json.dumps({'0': wrong}))}")
    page.wait_for_function("() => results.get(0)?.now")
    assert page.evaluate("() => state.changes") == {"0": fine}
    values = ("", "far", "NaN", "Infinity", "1e999", 3, None)
    nodes = [f"{site}:{int(i)}" for site, indices in subject.circuit.nodes.items() for i in indices]
    assert len(nodes) >= len(values)
    page = opened(f"{file.as_uri()}#changes={quote(json.dumps({'0': dict(zip(nodes, values))}))}")
    page.wait_for_function("() => results.get(0)?.now")
    assert page.evaluate("() => state.changes") == {}


def test_a_changed_circuit_has_its_before_on_every_prompt(opened, own_page):
    file, subject = own_page
    node = next(f"{site}:{int(i[0])}" for site, i in subject.circuit.nodes.items() if site.endswith("mlp.post_act"))
    page = opened_with(opened, file, {node: "off"})
    before = page.evaluate("() => results.get(0).before.next.map((each) => [each.id, each.circuit])")
    expected = run_prompt(subject, PROMPT, [])
    likely = {each["text"]: each["circuit"] for each in expected["next"]}
    texts = page.evaluate("() => results.get(0).before.next.map((each) => each.text)")
    for text, (_, own) in zip(texts, before, strict=True):
        if text in likely:
            assert abs(own - likely[text]) < 1e-4
    assert page.evaluate("() => results.get(0).now !== results.get(0).before")
    page.fill("#live-prompt", PROMPT + "!")  # typed while something is off
    page.wait_for_function("prompt => results.get(0).prompt === prompt", arg=PROMPT + "!")
    assert page.evaluate(
        "() => results.get(0).before !== null && results.get(0).before.tokens.join('') === results.get(0).now.tokens.join('')"
    )


def test_embeddings_flow_to_every_read_and_to_the_answers_that_are_compared(opened, own_page):
    file, subject = own_page
    prompt = "zebra = [7]\nfor q in zebra"  # none of it in the task's prompts
    page = opened_with(opened, file, {}, prompt, more="&view=prompt")
    flows = page.evaluate("() => flowsOf(current(), results.get(0))")
    wte = subject.model.transformer.wte.weight.detach()
    ids = subject.tokenizer.encode(prompt, add_special_tokens=False)
    reads = [
        (site, int(i))
        for site, nodes in subject.circuit.nodes.items()
        if site.endswith("act_in") or site == "final_resid"
        for i in nodes
    ]
    expected = {
        (f"token:{t}", at, f"{site}:{i}"): float(wte[t, i]) for at, t in enumerate(ids) for site, i in reads if float(wte[t, i])
    }
    found = {
        (each["source"], each["from"], each["target"]): each["flow"] for each in flows if each["source"].startswith("token:")
    }
    assert found.keys() == expected.keys()
    assert all(abs(found[key] - value) < 1e-6 for key, value in expected.items())
    assert len({each["target"] for each in flows if each["target"].startswith("answer:")}) == 2
    assert not page.locator(".flow path[d*=NaN]").count()
    page.fill("#live-prompt", "x = [1, 2, 3]\n" * 12 + "print(x)")  # wider than the pane: the answers are in sight
    page.wait_for_function(
        "() => results.get(0).now.tokens.length > 60 && document.querySelector('#flow .pane').scrollLeft > 0"
    )
    answer, pane = (page.locator(place).last.bounding_box() for place in ("#flow g.node[data-id^='answer']", "#flow .pane"))
    assert pane["x"] <= answer["x"] <= pane["x"] + pane["width"]


def test_a_graph_that_was_hidden_has_its_pane(opened, own_page):
    file, _ = own_page
    widths = []
    for view in ("", "&view=prompt"):
        page = opened_with(opened, file, {}, more=view)
        if view:
            page.select_option("#view-select", "circuit")
        widths.append(page.evaluate("() => drawnGraphs[0].plan.width"))
    assert widths[0] == widths[1]


def test_a_prompt_of_any_length_is_answered_at_once(opened, own_page):
    page = opened_with(opened, own_page[0], {})
    page.evaluate("() => { byId('live-prompt').value = 'x = 1; '.repeat(1e5); runLive(); }")
    page.wait_for_function("() => document.getElementById('live-result').textContent.includes('700,000 characters')")
    page.fill("#live-prompt", PROMPT)
    page.wait_for_selector("#next")


def test_hover_lights_paths_alone(opened, own_page):
    """Every lit edge is on a path through the node: what leads to it, or what it leads to."""
    page = opened_with(opened, own_page[0], {})
    for place in (0, 7, 30):
        assert page.evaluate(
            """(place) => {
              const drawn = drawnGraphs[0], id = drawn.circuit.nodes[place % drawn.circuit.nodes.length].id;
              light(drawn, id);
              const reach = (map, from) => {
                const seen = new Set([from]), left = [from];
                while (left.length) for (const [next] of map.get(left.pop()) ?? []) if (!seen.has(next)) { seen.add(next); left.push(next); }
                return seen;
              };
              const lit = drawn.edges.filter(({ element }) => element.classList.contains("lit")).map(({ link }) => link);
              const on = (link) => link.target === id || link.source === id || reach(drawn.onward.found, link.target).has(id) || reach(drawn.onward.found, id).has(link.source);
              return lit.length > 0 && lit.every(on);
            }""",
            place,
        )


def test_the_worst_prompts_are_a_click_away(opened, own_page):
    file, subject = own_page
    worst = json.loads((ROOT / "circuits" / "single_double_quote" / "certificate.json").read_text())["worst"]
    page = opened_with(opened, file, {})
    page.click("#worst summary")
    assert page.locator("#worst tr").count() == len(worst) + 1
    assert "least sure" in page.inner_text("#worst summary")
    page.locator("#worst button").first.click()
    page.wait_for_function("prompt => results.get(0).prompt === prompt", arg=worst[0]["prompt"])
    ids = torch.tensor([subject.tokenizer.encode(worst[0]["prompt"], add_special_tokens=False)])
    with torch.no_grad():
        logits = subject.model(ids).logits[0, -1].double()
    right, wrong = (
        subject.tokenizer.encode(worst[0]["prompt"] + worst[0][name], add_special_tokens=False)[ids.shape[1]]
        for name in ("right", "wrong")
    )
    assert float(logits[right] - logits[wrong]) == pytest.approx(worst[0]["model_margin"], abs=1e-3)
