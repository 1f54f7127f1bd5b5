"""The page's own model and tokenizer in a browser, against PyTorch in float64 and the library's tokenizer."""

import base64
import copy
import gzip
import math

import pytest
import torch

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import ablated, edges_in, mean_activations
from sparse_circuits.circuits.edges import Edges
from sparse_circuits.circuits.masks import opened
from sparse_circuits.circuits.means import watching
from sparse_circuits.corpora.idioms import programs
from sparse_circuits.viewer.contract import HERE
from sparse_circuits.viewer.weights import pack_model, pack_tokenizer
from tiny import ROOT, STREAM, sparse_pair, tiny_ids, tiny_model

RUN = """async ([packed, prompts, frozen, circuit]) => {
  window.model = new Model(packed.config, await unpacked(packed));
  const entries = (object, change) => new Map(Object.entries(object).map(([name, value]) => [name, change(value)]));
  const run = circuit ? {
    hold: entries(circuit.hold, each => each), cut: entries(circuit.cut, each => each), means: entries(circuit.means, each => each),
  } : {};
  const parts = prompts.flatMap(ids => runPrompt(model, ids, run, { frozen }).steps.flatMap(step => [step.logits, ...step.sites.values()]));
  const all = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0)), sites = runPrompt(model, prompts[0], run, { frozen }).steps[0].sites;
  let at = 0;
  for (const part of parts) { all.set(part, at); at += part.length; }
  Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([all])), download: "numbers" }).click();
  return [...sites].map(([name, x]) => [name, x.length]);
}"""


@pytest.fixture
def runtime(opened, tmp_path):
    """A page that has the runtime and nothing else."""
    code = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("tokenizer.js", "model.js"))
    (tmp_path / "page.html").write_text(
        f'<!doctype html><meta charset="utf-8"><script>"use strict";\n{code}</script>', encoding="utf-8"
    )
    return opened((tmp_path / "page.html").as_uri())


def compared(page, model, ids, circuit=None, frozen=False, limit=1e-6):
    """The largest difference of logits and of every activation, at every token; model: in float32, whose float64 twin is the measure."""
    double = copy.deepcopy(model).double()
    with torch.no_grad(), watching(double) as seen:
        if circuit is None:
            logits = double(ids, use_cache=False).logits
        else:
            nodes, fills, removed = circuit
            with ablated(
                double,
                opened(nodes, {name: fills[name] for name in double.node_sites()}),
                removed=removed,
                means=fills,
                freeze_norms=frozen,
            ):
                logits = double(ids, use_cache=False).logits
    given = None
    if circuit is not None:
        nodes, fills, removed = circuit
        open_ = {
            name: [int(i in nodes.get(name, torch.zeros(0)).tolist()) for i in range(site.width)]
            for name, site in double.node_sites().items()
        }
        given = {
            "hold": {name: {"open": each, "fill": fills[name].tolist()} for name, each in open_.items()},
            "cut": {name: [[int(s), int(t), float(w)] for s, t, w in zip(*edges)] for name, edges in removed.items()},
            "means": {name: mean.tolist() for name, mean in fills.items()},
        }  # fmt: skip
    with page.expect_download() as numbers:  # tens of megabytes: as what a call gives they would take longer than the runs
        sites = page.evaluate(RUN, [pack_model(model), ids.tolist(), frozen, given])
    widths = [logits.shape[-1]] + [width for _, width in sites]
    found = torch.frombuffer(bytearray(numbers.value.path().read_bytes()), dtype=torch.float64).view(*ids.shape, -1)
    own, *activations = found.split(widths, -1)
    worst = float((own - logits).abs().max())
    if circuit is None:
        assert [name for name, _ in sites] == list(double.node_sites())
        worst = max([worst, *(float((each - seen[name]).abs().max()) for (name, _), each in zip(sites, activations))])
    assert worst < limit
    return worst


def test_every_feature_is_computed_as_in_pytorch(runtime, features):
    """On a thousand prompts, every token of which is looked at: so on all their beginnings too."""
    compared(runtime, tiny_model(**features), tiny_ids(1000, 8))


def test_abstopk_on_the_stream_too(runtime):
    compared(runtime, tiny_model(**STREAM), tiny_ids(300, 8))


@pytest.mark.parametrize("frozen", [False, True])
def test_circuits_are_run_as_in_pytorch(runtime, features, frozen):
    model = tiny_model(**features)
    means = mean_activations(model, tiny_ids(8, 16, seed=3)).values
    nodes = {name: torch.arange(i % 2, site.width, 2) for i, (name, site) in enumerate(model.node_sites().items())}
    removed = {name: Edges(*(part[::3] for part in edges)) for name, edges in edges_in(model, nodes).items()}
    compared(runtime, model, tiny_ids(1000, 6, seed=5), (nodes, means, removed), frozen)


def test_a_model_in_sparse_form_is_packed_alike(runtime):
    plain, sparse = sparse_pair(sink=True, enable_bigram_table=True)
    assert pack_model(plain) == pack_model(sparse)
    compared(runtime, plain, tiny_ids(3, 8))


def test_a_table_in_eighths_is_packed_small_and_exact(runtime):
    model = tiny_model(enable_bigram_table=True)
    with torch.no_grad():
        table = model.bigram_table.logit_bias
        table.copy_((torch.randn(table.shape, generator=torch.Generator().manual_seed(0)) * 40).round() / 8)
        table[0, 0], table[1, 2] = 1000.0, -1000.0
    assert pack_model(model)["tensors"]["bigram_table.logit_bias"]["kind"] == "grid"
    compared(runtime, model, tiny_ids(3, 8))


def test_nodes_are_held_at_values(runtime):
    model = tiny_model()
    site, node = "0.mlp.post_act", 7

    def put(module, args, out):
        out = out.clone()
        out[..., node] = 1.5
        return out

    handle = model.node_sites()[site].register_forward_hook(put)
    ids = tiny_ids(2, 6)
    with torch.no_grad():
        expected = model(ids).logits[:, -1]
    handle.remove()
    found = runtime.evaluate(
        """async ([packed, prompts, site, node]) => {
          const model = new Model(packed.config, await unpacked(packed));
          return prompts.map(ids => Array.from(runPrompt(model, ids, { held: new Map([[site, [[node, 1.5]]]]) }).logits));
        }""",
        [pack_model(model), ids.tolist(), site, node],
    )
    assert (torch.tensor(found) - expected).abs().max() < 1e-4


def test_a_prompt_can_go_on(runtime):
    model = tiny_model(sink=True, position_embedding_type="concatenated", d_pos_emb=6)
    ids = tiny_ids(1, 9)[0].tolist()
    whole, on = runtime.evaluate(
        """async ([packed, ids]) => {
          const model = new Model(packed.config, await unpacked(packed));
          const first = runPrompt(model, ids.slice(0, 5));
          let last;
          for (const id of ids.slice(5)) last = model.step(first.cache, id);
          return [Array.from(runPrompt(model, ids).logits), Array.from(last)];
        }""",
        [pack_model(model), ids],
    )
    assert whole == on


def test_damaged_weights_are_refused(runtime):
    packed = pack_model(tiny_model())
    data = bytearray(gzip.decompress(base64.b64decode(packed["data"])))
    data[40] ^= 1
    packed["data"] = base64.b64encode(gzip.compress(bytes(data))).decode()
    said = runtime.evaluate(
        "async packed => { try { await unpacked(packed); return ''; } catch (error) { return error.message; } }", packed
    )
    assert "are not those that it was written with" in said


TEXTS = [
    "",
    " ",
    "a",
    "x = 1\n",
    "def f(a, b=2):\n    return a + b\n",
    "\tif\u00a0x:\r\n  \u2003y\u0085z",
    "12345 _x__y 'it''s' \"\u00e9\u4e2d\U0001f600\"",
    "a\n\n\n  \n b  ",
    "\u3000\ufeffx\u200b",
]


def test_the_tokenizer_is_the_librarys(runtime):
    tokenizer = CSPTokenizer.from_folder(ROOT)
    texts = [*TEXTS, *(text for _, text in programs(60)), (ROOT / "topk_csp.py").read_text()]
    found = runtime.evaluate(
        "([packed, texts]) => { const t = new Tokenizer(packed); return texts.map(text => [t.encode(text), t.decode(t.encode(text))]); }",
        [pack_tokenizer(tokenizer), texts],
    )
    for text, (ids, back) in zip(texts, found):
        assert ids == tokenizer.encode(text, add_special_tokens=False), text
        assert back == text


def test_other_tokenizers_are_told(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    assert pack_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words)) is None


def test_the_model_that_ships_is_small_and_fast(runtime):
    model, tokenizer = CSPForCausalLM.from_pretrained(ROOT).eval(), CSPTokenizer.from_folder(ROOT)
    packed = pack_model(model)
    assert len(packed["data"]) < 2.6e6
    ids = torch.tensor(
        [tokenizer.encode("class Stack:\n    def __init__(self):\n        self.items = []\n", add_special_tokens=False)[:16]]
    )
    compared(runtime, model, ids)
    took = runtime.evaluate(
        """() => Math.min(...Array.from({ length: 8 }, () => {
          const ids = Array.from({ length: 32 }, (_, i) => 100 + i), begun = performance.now();
          runPrompt(model, ids);
          return performance.now() - begun;
        }))"""
    )
    assert took < 150  # a tenth of it on an idle machine; see docs/results.md


def test_abs_top_k_is_what_sorting_says(runtime):
    """Of numbers of all sizes, ties, zeros and signs among them; ties go to the lower index."""
    found = runtime.evaluate(
        """() => {
          let seed = 5;
          const draw = () => (seed = (seed * 48271) % 2147483647) / 2147483647, wrong = [];
          const kinds = [() => draw() - 0.5, () => Math.floor(5 * draw()) - 2, () => (draw() - 0.5) * 10 ** Math.floor(60 * draw() - 30), () => (draw() < 0.9 ? 0 : -draw()), () => 1 + draw() * 1e-12];
          for (const kind of kinds) for (const n of [1, 2, 3, 17, 192, 768, 31]) for (let round = 0; round < 12; round++) {
            const x = Float64Array.from({ length: n }, kind), k = Math.floor((n + 1) * draw());
            const order = [...x.keys()].sort((a, b) => Math.abs(x[b]) - Math.abs(x[a]) || a - b), expected = new Float64Array(n);
            for (const i of order.slice(0, k)) expected[i] = x[i];
            const own = absTopK(x, k, new Float64Array(x.length));
            if (own.some((value, i) => value !== expected[i])) wrong.push([n, k, ...x]);
          }
          return wrong;
        }"""
    )
    assert found == []


def test_erf_is_pythons(runtime):
    xs = [i / 997 for i in range(-7000, 7001)] + [0.0, -0.0, 1e-300, 5.999999, 6.0, 40.0]
    found = runtime.evaluate("xs => xs.map(erf)", xs)
    assert max(abs(a - math.erf(x)) for a, x in zip(found, xs)) < 1e-15
