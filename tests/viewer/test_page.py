"""The page in a real browser: every panel, no errors, no network."""

import json
import re
from pathlib import Path
from urllib.request import url2pathname

import pytest
from typer.testing import CliRunner

from sparse_circuits import Circuit
from sparse_circuits.cli.app import app
from sparse_circuits.viewer import Subject, circuit_data, render, write_page
from sparse_circuits.viewer.contract import check, records
from toy import EDGES, NODES, TOKENS, ToyTokenizer, toy_circuit, toy_task

NEURON = "0.mlp.post_act:1"


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def test_the_whole_circuit_is_drawn(opened, toy_page):
    page = opened(toy_page)
    drawn = page.eval_on_selector_all(".node", "nodes => nodes.map(node => node.dataset.id)")
    assert set(drawn) == {f"{site}:{i}" for site, indices in NODES.items() for i in indices}
    edges = page.eval_on_selector_all(".edge", "edges => edges.map(e => [e.dataset.source, e.dataset.target])")
    wanted = {(f"{m.split('->')[0]}:{s}", f"{m.split('->')[1]}:{t}") for m, pairs in EDGES.items() for s, t in pairs}
    ends = {
        ("token:0", "0.mlp.act_in:0"),
        ("token:1", "0.mlp.act_in:1"),
        ("final_resid:4", "answer:2"),
        ("final_resid:4", "answer:3"),
    }
    assert {tuple(edge) for edge in edges} == wanted | ends
    negative = page.eval_on_selector_all(".edge.negative", "edges => edges.map(e => [e.dataset.source, e.dataset.target])")
    assert {tuple(edge) for edge in negative} == {("0.mlp.act_in:1", NEURON), ("final_resid:4", "answer:3")}
    assert page.locator("svg text.row").all_text_contents()[:2] == ["tokens", "MLP reads"]
    assert page.locator("svg text.layer").all_text_contents() == ["layer 0", "layer 1"]
    heights = page.eval_on_selector_all("svg text.row", "rows => rows.map(row => Number(row.getAttribute('y')))")
    assert heights == sorted(heights, reverse=True)  # forward is up
    assert page.locator("rect.box").count() == 1  # one head, with k and v in it
    lanes = page.eval_on_selector_all("line.lane title", "lanes => lanes.map(lane => lane.textContent)")
    assert sorted(lanes) == [f"residual channel {i}" for i in (0, 1, 2, 3, 4)]
    assert page.title() == "Circuit: quotes, half"
    graph, footer = page.locator("#graphs").bounding_box(), page.locator("footer").bounding_box()
    assert graph["y"] + graph["height"] <= footer["y"]


def test_nodes_are_larger_the_more_they_matter(opened, toy_page, toy):
    page = opened(toy_page)
    effects = {node["id"]: node["effect"] for node in circuit_data(toy[3])["nodes"]}
    radii = page.eval_on_selector_all(
        ".node", "nodes => nodes.map(n => [n.dataset.id, Number(n.querySelector('.ring').getAttribute('r'))])"
    )
    most, least = max(effects, key=effects.get), min(effects, key=effects.get)
    assert effects[most] > 0.5
    assert dict(radii)[most] == max(dict(radii).values()) == 8
    assert dict(radii)[least] < 8


def test_a_click_selects_and_the_link_brings_it_back(opened, toy_page):
    page = opened(toy_page)
    assert "No node selected" in page.inner_text("#node")
    page.click(f"[data-id='{NEURON}'] .ring")
    assert page.inner_text("#node h2") == NEURON
    assert texts(page, ".reads tr") == [
        "1\t0.mlp.act_in:0 reads \u2018('\u2019",
        '\u22121\t0.mlp.act_in:1 reads \u2018("\u2019',
    ]
    assert texts(page, ".writes tr") == ["1\t0.mlp.resid_delta:3"]
    near = page.eval_on_selector_all(".node.near", "nodes => nodes.map(node => node.dataset.id)")
    assert set(near) == {NEURON, "0.mlp.act_in:0", "0.mlp.act_in:1", "0.mlp.resid_delta:3"}
    assert page.locator(".edge.on").count() == 3
    page.click(".writes button.link")
    assert page.inner_text("#node h2") == "0.mlp.resid_delta:3"
    assert "1.attn.act_in:3" in page.inner_text(".writes")
    again = opened(page.url)
    assert again.inner_text("#node h2") == "0.mlp.resid_delta:3"
    assert again.locator(".node.selected").count() == 1
    again.evaluate(f"location.hash = 'node={NEURON}'")
    again.wait_for_function(f"() => document.querySelector('#node h2').textContent === '{NEURON}'")


def test_contexts_are_heat_maps_with_values_on_hover(opened, toy_page, toy):
    page = opened(f"{toy_page}#node={NEURON}")
    data = next(node for node in circuit_data(toy[3])["nodes"] if node["id"] == NEURON)
    shown = page.eval_on_selector_all(
        ".context .token", "tokens => tokens.map(t => [t.textContent, Number(t.dataset.value), t.title])"
    )
    wanted = [(TOKENS[t], v) for c in data["largest"] + data["smallest"] for t, v in zip(c["tokens"], c["values"])]
    assert [(text, value) for text, value, _ in shown] == wanted
    assert shown[0][0] == "('"
    page.hover(".context .token.meant >> nth=0")
    assert shown[0][2] == f"('  {shown[0][1]:.3g}"
    colours = page.eval_on_selector_all(".context .token", "tokens => tokens.map(t => getComputedStyle(t).backgroundColor)")
    assert len(set(colours)) > 1
    assert texts(page, "#contexts h3") == ["Largest activations", "Smallest activations"]
    tokens = opened(f"{toy_page}#node=0.mlp.act_in:0")
    assert texts(tokens, ".embedding tr") == ["1\t('"]
    assert texts(opened(f"{toy_page}#node=final_resid:4"), ".unembedding tr") == ["1\t')", '\u22121\t")']


def test_prompts_and_their_difference(opened, toy_page, toy):
    page = opened(f"{toy_page}#node={NEURON}")
    data = circuit_data(toy[3])
    node = next(each for each in data["nodes"] if each["id"] == NEURON)
    lines = page.locator("#prompts .prompt")
    assert lines.count() == 2
    assert f"{100 * data['prompts'][0]['model']:.3g} % model" in lines.nth(0).inner_text()
    differs = page.eval_on_selector_all("#prompts .differs", "tokens => tokens.map(t => t.textContent)")
    assert differs == ["('", '("']
    values = "tokens => tokens.filter(t => t.dataset.value).map(t => Number(t.dataset.value))"
    first = lines.nth(0).locator(".token").evaluate_all(values)
    assert first == node["circuit"][0]
    difference = page.locator(".difference .token").evaluate_all(values)
    assert difference == pytest.approx([a - b for a, b in zip(node["circuit"][0], node["circuit"][1])])
    assert abs(difference[0]) > 1
    page.select_option("#pair-select", value="1")
    page.select_option("#run-select", "model")
    assert lines.nth(1).locator(".token").evaluate_all(values) == node["model"][3]
    assert "pair=1" in page.url
    assert "run=model" in page.url


def test_attention_of_the_head(opened, toy_page, toy):
    page = opened(f"{toy_page}#node=1.attn.k:0")
    assert page.inner_text("#attention h2") == "Attention of head 0 in layer 1"
    assert page.locator("svg.pattern").count() == 4
    data = circuit_data(toy[3])["attention"]
    cells = (
        page.locator("svg.pattern.circuit >> nth=0").locator("rect title").evaluate_all("all => all.map(t => t.textContent)")
    )
    wanted = [share for row in data[0]["circuit"] for share in row if share]
    assert [int(re.search(r": (\d+) %", text)[1]) for text in cells] == wanted
    assert max(int(s) for s in wanted) >= 90  # it looks at the quote
    page.select_option("#pair-select", value="2")
    assert [text.split(":")[0] for text in texts(page, "#attention h3")] == [
        "first prompt of pair 3",
        "second prompt of pair 3",
    ]
    assert not opened(f"{toy_page}#node={NEURON}").inner_text("#attention")


def test_search(opened, toy_page):
    page = opened(toy_page)
    page.keyboard.press("/")
    page.keyboard.type("post_act")
    assert page.inner_text("#found-count") == "2 found"
    assert page.locator(".node.found").count() == 2
    page.click("#found-list button >> nth=1")
    assert page.inner_text("#node h2") == NEURON
    page.fill("#search", "')")  # a token: of contexts, embeddings, unembeddings
    assert "final_resid:4" in page.inner_text("#found-list")
    assert "search=" in page.url
    page.fill("#search", "nothing like this")
    assert page.inner_text("#found-count") == "0 found"


def test_threshold(opened, toy_page):
    page = opened(toy_page)
    assert page.locator(".edge:not(.hidden)").count() == 13
    page.locator("#threshold").evaluate("slider => { slider.value = 900; slider.dispatchEvent(new Event('input')); }")
    left = page.eval_on_selector_all(".edge:not(.hidden)", "edges => edges.map(e => e.dataset.target)")
    assert left == ["1.attn.k:0"]  # the weight of 6
    assert "1 of 9 edges shown" in page.inner_text("#threshold-shown")
    again = opened(page.url)
    assert again.locator(".edge:not(.hidden)").count() == 1
    assert again.input_value("#threshold") == "900"


def test_labels_go_into_the_link_and_back_into_the_circuit_file(opened, toy_page, toy, tmp_path):
    page = opened(f"{toy_page}#node={NEURON}")
    page.fill("#label-input", "quote type")
    page.keyboard.press("Tab")
    page.fill("#group-input", "detector")
    page.keyboard.press("Tab")
    again = opened(page.url)
    assert again.locator(f"[data-id='{NEURON}'] .label").text_content() == "quote type"
    assert again.input_value("#group-input") == "detector"
    again.fill("#search", "quote ty")
    assert again.locator(".node.found").count() == 1
    with again.expect_download() as download:
        again.click("#export-labels")
    download.value.save_as(tmp_path / "labels.json")
    toy[3].circuit.save_pretrained(tmp_path / "c")
    done = CliRunner().invoke(app, ["label", str(tmp_path / "c"), str(tmp_path / "labels.json")])
    assert done.exit_code == 0, done.output
    circuit = Circuit.from_pretrained(tmp_path / "c")
    assert (circuit.labels, circuit.groups) == ({NEURON: "quote type"}, {NEURON: "detector"})
    for damage, message in [({"task": "other"}, "another circuit"), ({"labels": {"x:1": "a"}}, "names no node"), ({"format": "x"}, "no file of labels"),
                            ({"groups": {NEURON: "x" * 300}}, "at most 200")]:  # fmt: skip
        (tmp_path / "bad.json").write_text(json.dumps({**json.loads((tmp_path / "labels.json").read_text()), **damage}))
        done = CliRunner().invoke(app, ["label", str(tmp_path / "c"), str(tmp_path / "bad.json")])
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr


def test_report_curves_and_facts(opened, toy_page, toy):
    page = opened(toy_page)
    assert page.inner_text("#report h2") == f"Verification: {toy[3].report.headline}"
    assert toy[3].report.verdict[1] in page.inner_text("#report")
    page.click("#report summary")
    assert "right answer is the first guess" in page.inner_text("#report table >> nth=1")
    assert texts(page, "#curves h2") == ["Loss against size", "Pruning: loss", "Pruning: open nodes"]
    path = page.locator("#curves svg >> nth=0").locator("path >> nth=1").get_attribute("d")
    assert path.count("L") == 2
    assert "their means over 1,536 tokens" in page.locator("#facts").text_content()
    page.select_option("#circuit-select", value="1")
    assert "Not verified yet" in page.inner_text("#report")


def test_what_a_node_means_to_the_dense_model(opened, bridged, tmp_path):
    page = opened(write_page([bridged], tmp_path / "p.html").as_uri() + "#node=1.attn.act_in:3")
    found = next(node for node in circuit_data(bridged)["nodes"] if node["id"] == "1.attn.act_in:3")["steering"]
    text = page.inner_text("#steering")
    assert "In the dense model" in text
    rows = page.eval_on_selector_all("#steering > table tr", "rows => rows.map(r => [...r.cells].map(c => c.innerText))")
    assert rows[0] == ["strength", "own answer, %", "counterfactual's, %", "random, %"]
    shown = zip(found["strengths"], found["answer"], found["other"], found["random"], strict=True)
    for row, (strength, *shares) in zip(rows[1:], shown, strict=True):
        assert [float(cell) for cell in row] == pytest.approx(
            [strength, *[100 * share for share in shares]], rel=1e-2, abs=1e-3
        )
    plot, panel = page.locator("#steering .plot").bounding_box(), page.locator("#details").bounding_box()
    assert plot["x"] + plot["width"] <= panel["x"] + panel["width"]
    assert page.locator("#steering .raised .token").count() == len(found["raised"])
    page.locator(f".node[data-id='{NEURON}']").click()
    assert page.locator("#steering").inner_text() == ""


def test_two_circuits_side_by_side(opened, toy_page):
    page = opened(toy_page)
    page.select_option("#beside-select", value="1")
    assert page.locator(".pane").count() == 2
    assert "shared: 5 nodes (ringed), 4 edges" in page.inner_text("#shared-count")
    assert page.locator(".pane >> nth=0").locator(".node.shared").count() == 5
    page.click(f".pane >> nth=1 >> [data-id='{NEURON}'] .ring")
    assert page.inner_text("#title") == "Circuit for half"
    assert page.locator(".node.selected").count() == 2
    again = opened(page.url)
    assert again.locator(".pane").count() == 2


def test_a_circuit_of_another_model_is_not_compared_by_node(opened, toy, tmp_path):
    from sparse_circuits.circuits import mean_activations
    from toy import toy_blocks, toy_model

    twin = toy_model("redundant")
    means = mean_activations(twin, toy_blocks())
    other = Subject(toy_circuit(twin, means), twin, ToyTokenizer(), toy_task())
    page = opened(write_page([toy[3], other], tmp_path / "p.html").as_uri() + "#beside=1")
    assert "two models" in page.inner_text("#shared-count")
    assert page.locator(".node.shared").count() == 0
    assert page.locator(".pane").count() == 2


def test_dark_mode(opened, toy_page):
    ground = "getComputedStyle(document.body).backgroundColor"
    page = opened(toy_page, color_scheme="dark")
    assert page.evaluate(ground) == "rgb(22, 24, 27)"
    page.click("#theme")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert "theme=light" in page.url
    assert opened(toy_page, color_scheme="light").evaluate(ground) == "rgb(255, 255, 255)"


def test_keyboard(opened, toy_page):
    page = opened(toy_page)
    page.focus("#graphs svg")
    seen = []
    for key in ("ArrowUp", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
        seen.append(page.inner_text("#node h2"))
    assert seen[:2] == ["0.mlp.act_in:0", "0.mlp.act_in:1"]
    assert seen[2].startswith("0.mlp.post_act")
    assert seen[4].startswith("1.attn.act_in")
    assert page.inner_text("#announce") == seen[-1]
    page.keyboard.press("Escape")
    assert "No node selected" in page.inner_text("#node")


def test_keys_in_the_second_graph_keep_both(opened, toy_page):
    page = opened(f"{toy_page}#beside=1")
    page.focus(".pane >> nth=1 >> svg")
    page.keyboard.press("ArrowUp")
    assert page.locator(".pane").count() == 2
    assert page.inner_text("#title") == "Circuit for half"
    assert page.inner_text("#node h2") == "0.mlp.act_in:0"
    page.keyboard.press("ArrowUp")
    assert page.inner_text("#node h2").startswith("0.mlp.post_act")
    assert "circuit=1" in page.url
    assert "beside=0" in page.url


def test_fields_and_menus_keep_the_focus(opened, toy_page):
    page = opened(f"{toy_page}#node={NEURON}")
    page.fill("#label-input", "abc")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "group-input"
    page.keyboard.type("grp")
    page.keyboard.press("Enter")
    assert "grp" in page.url
    for menu in ("#pair-select", "#beside-select"):
        page.focus(menu)
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.id") == menu[1:]


def test_zoom(opened, toy_page):
    page = opened(toy_page)
    width = lambda: float(page.get_attribute("#graphs svg", "width"))  # noqa: E731
    before = width()
    page.click("#zoom-in")
    assert width() == pytest.approx(before * 1.25)
    page.click("#zoom-fit")
    assert width() == pytest.approx(before)


HOSTILE = [
    "<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>", "\ud800", "\u202eevil\u2066", "\"'&<!--", "]]>", "\u2028\u2029", "${alert(3)}",
]  # fmt: skip


class Hostile(ToyTokenizer):
    def decode(self, ids):
        return "".join(HOSTILE[int(i) % len(HOSTILE)] for i in ids)


def test_hostile_names_tokens_and_labels_are_text(opened, toy, bridged, tmp_path):
    model, blocks, means, _ = toy
    circuit = toy_circuit(model, means)
    circuit.labels = {NEURON: HOSTILE[1], "final_resid:4": HOSTILE[0]}
    circuit.groups = {NEURON: "<b>x"}
    circuit.settings = {"<img src=x onerror=alert(4)>": "</script><script>alert(5)</script>"}
    circuit.versions = {"<i>": "</style>"}
    circuit.model["id"] = "</title><script>alert(6)</script>"
    report = type(toy[3].report)(
        {**toy[3].report.found, "left_out": []}, {"prefers": True}, ["<script>alert(7)</script>", "</script>"]
    )
    text = render(
        {
            "version": 1,
            "live": False,
            "models": [],
            "circuits": [circuit_data(Subject(circuit, model, Hostile(), toy_task(), blocks, report, pair=bridged.pair))],
        }
    )
    assert text.count("<script") == 3
    assert "\u2028" not in text.partition('id="data"')[2]
    (tmp_path / "p.html").write_text(text, encoding="utf-8")
    page = opened((tmp_path / "p.html").as_uri() + f"#node={NEURON}")
    assert page.input_value("#label-input") == HOSTILE[1]
    assert page.input_value("#group-input") == "<b>x"
    assert "<script>alert(7)</script>" in page.inner_text("#report")
    assert "</script><script>alert(5)</script>" in page.locator("#facts").text_content()
    assert HOSTILE[0] in page.locator("#contexts").text_content()
    assert re.search(r"U.202E.evil.U.2066", page.locator("#prompts").text_content())
    assert not set("\u202e\u2066") & set(page.locator("body *:not(script)").first.inner_text())
    assert page.locator("img, b, i").count() == 0
    assert not page.locator("#problem").is_visible()


def test_a_fragment_cannot_do_harm(opened, toy_page):
    page = opened(
        f"{toy_page}#circuit=99&beside=-7&threshold=x&pair=1e9&labels=%7B%22__proto__%22:1%7D&groups=nonsense&node=<img src=x onerror=alert(1)>"
    )
    assert page.inner_text("#title") == "Circuit for quotes"
    assert not page.locator("#problem").is_visible()
    assert page.locator("#prompts .prompt").count() == 2


def damaged(data):
    """(what, data that does not fit the contract)"""
    import copy

    def with_(change):
        copied = copy.deepcopy(data)
        change(copied)
        return copied

    node = lambda d: d["circuits"][0]["nodes"][0]  # noqa: E731
    yield "a text for a number", with_(lambda d: node(d).update(index="1"))
    yield "a field too many", with_(lambda d: node(d).update(extra=1))
    yield "a field missing", with_(lambda d: node(d).pop("label"))
    yield "null", with_(lambda d: node(d).update(label=None))
    yield "a fraction for an int", with_(lambda d: node(d).update(index=0.5))
    yield "a bool for an int", with_(lambda d: node(d).update(index=True))
    yield "a list for a record", with_(lambda d: d["circuits"].append([]))
    yield "a record for a list", with_(lambda d: d["circuits"][0].update(links={}))
    yield "a list for names", with_(lambda d: d["circuits"][0].update(tokens=[]))
    yield "names of numbers", with_(lambda d: d["circuits"][0].update(tokens={"1": 2}))
    yield "no page", []


def test_python_and_the_page_check_the_same_contract(opened, toy_page, bridged):
    page = opened(toy_page)
    whole = {"version": 1, "live": False, "models": [], "circuits": [circuit_data(bridged)]}
    judge = "([records, data]) => { try { checkContract(records, data, 'Page', 'page'); return ''; } catch (error) { return error.message; } }"
    check(whole)
    assert page.evaluate(judge, [records(), whole]) == ""
    for what, data in damaged(whole):
        with pytest.raises(ValueError, match="does not fit the page's contract") as error:
            check(data)
        assert page.evaluate(judge, [records(), data]) == str(error.value), what
    with pytest.raises(ValueError, match="contract"):
        check({**whole, "version": float("nan")})


def test_a_page_of_other_data_says_so(opened, toy_page, tmp_path):
    text = Path(url2pathname(toy_page.removeprefix("file://"))).read_text(encoding="utf-8")
    (tmp_path / "p.html").write_text(text.replace('{"version":1,', '{"version":"1",'), encoding="utf-8")
    page = opened((tmp_path / "p.html").as_uri())
    assert "does not fit the page's contract" in page.inner_text("#problem")


def test_hovering_lights_every_path_through_a_node(opened, toy_page):
    page = opened(toy_page)
    page.hover(f"[data-id='{NEURON}'] .ring")
    lit = set(page.eval_on_selector_all(".node.lit", "nodes => nodes.map(node => node.dataset.id)"))
    # what it reads and writes, what reads that further on, and so on to the answers; not the other neuron
    assert {NEURON, "0.mlp.act_in:0", "0.mlp.act_in:1", "0.mlp.resid_delta:3", "1.attn.act_in:3", "final_resid:4"} <= lit
    assert "0.mlp.post_act:0" not in lit
    assert page.locator(".edge.lit").count() >= 5
    page.mouse.move(2, 2)
    assert page.locator(".node.lit").count() == 0
