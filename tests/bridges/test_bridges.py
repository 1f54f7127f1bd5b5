"""Bridges: exact where they must be, each term against a twin that recomputes everything, gradients only where they belong."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from sparse_circuits import CSPTokenizer
from sparse_circuits.bridges import BridgeConfig, BridgedPair, Bridges, bridge_losses, evaluate_bridges, ridge_bridges, side_of
from sparse_circuits.bridges.evaluate import constant_bridges
from sparse_circuits.bridges.hybrids import kl, nmse, plain_passes, stream, switched, tails
from sparse_circuits.bridges.sides import CSPSide
from sparse_circuits.bridges.steering import read_point
from tiny import ROOT, tiny_ids, tiny_model

ATTENTION = ("eager", "sdpa")


def gpt2(seed=0):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=97, n_positions=64, n_embd=24, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return GPT2LMHeadModel(config).eval()


def identity_pair(model):
    twin = copy.deepcopy(model)
    dense, sparse = side_of(model), side_of(twin)
    return dense, sparse, constant_bridges(dense, sparse, "identity")


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_side_is_the_model(features, attention):
    model, ids = tiny_model(**features), tiny_ids()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        points, logits = stream(side_of(model), ids)
        out = model(ids, output_hidden_states=True)
    assert torch.allclose(logits, out.logits, atol=1e-5)
    assert len(points) == 5
    for i in range(2):
        assert torch.allclose(points[2 * i], out.hidden_states[i], atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
def test_gpt2s_side_is_gpt2(attention):
    model, ids = gpt2(), tiny_ids()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        points, logits = stream(side_of(model), ids)
        out = model(ids, output_hidden_states=True)
        assert torch.allclose(logits, out.logits, atol=1e-5)
        assert torch.allclose(points[2], out.hidden_states[1], atol=1e-5)
        found = tails(side_of(model), points, ids)
    assert torch.allclose(found, out.logits.expand(5, -1, -1, -1), atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
def test_with_equal_models_and_identities_every_hybrid_is_the_model(features, attention):
    model, ids = tiny_model(**features), tiny_ids()
    model.set_attn_implementation(attention)
    dense, sparse, bridges = identity_pair(model)
    with torch.no_grad():
        wanted = model(ids).logits
        points, _ = stream(dense, ids)
        assert torch.allclose(
            tails(sparse, [bridges.encode(i, x) for i, x in enumerate(points)], ids), wanted.expand(5, -1, -1, -1), atol=2e-5
        )
        for path in ([True] * 5, [False] * 5, [True, False, True, False, True], [False, True, True, False, False]):
            assert torch.allclose(switched(dense, sparse, bridges, ids, path), wanted, atol=2e-5)
        terms = bridge_losses(dense, sparse, bridges, ids, BridgeConfig(active=1.0))
    assert float(terms["nmse_encode"]) < 1e-10
    assert float(terms["nmse_decode"]) < 1e-10
    assert abs(float(terms["kl_encode"])) < 1e-5
    assert abs(float(terms["kl_decode"])) < 1e-5
    report = evaluate_bridges(dense, sparse, bridges, ids)
    assert report["excess"] == pytest.approx(0, abs=1e-5)
    assert all(each["fve"] == pytest.approx(1) for way in ("encode", "decode") for each in report[way])


def from_scratch(dense, sparse, bridges, ids, moves):
    """Every term by passes of their own: hybrids run from the first sublayer, one at a time, with the model's own modules hooked."""
    model, twin = dense.model, sparse.model
    with torch.no_grad():
        y = model(ids).logits.double().log_softmax(-1)

    def points_of(net):
        seen = {}
        handles = []
        for i, block in enumerate(net.transformer.h):
            handles.append(block.resid_in.register_forward_hook(lambda m, a, o, i=i: seen.__setitem__(2 * i, o)))
            handles.append(block.resid_mid.register_forward_hook(lambda m, a, o, i=i: seen.__setitem__(2 * i + 1, o)))
        handles.append(
            net.transformer.final_resid.register_forward_pre_hook(
                lambda m, a: seen.__setitem__(2 * len(net.transformer.h), a[0])
            )
        )
        logits = net(ids).logits
        for handle in handles:
            handle.remove()
        return [seen[i] for i in range(len(seen))], logits

    def tail(net, i, x):
        body = net.transformer
        module = body.final_resid if i == 2 * len(body.h) else (body.h[i // 2].resid_mid if i % 2 else body.h[i // 2].resid_in)
        handle = module.register_forward_hook(lambda m, a, o: x)
        logits = net(ids).logits
        handle.remove()
        return logits.double().log_softmax(-1)

    d, _ = points_of(model)
    s, logits = points_of(twin)
    terms = {"pretraining": F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())}
    for way in ("encode", "decode"):
        terms[f"nmse_{way}"] = terms[f"kl_{way}"] = 0.0
    for i in range(len(d)):
        f = bridges.encoders[i](d[i])
        if bridges.keep < f.shape[-1]:
            f = f * torch.zeros_like(f).scatter(-1, f.abs().topk(bridges.keep).indices, 1.0)
        g = s[i] @ bridges.decoders[i].weight.T + bridges.decoders[i].bias
        for way, net, found, target in (("encode", twin, f, s[i] if moves else s[i].detach()), ("decode", model, g, d[i])):
            flat = target.detach().flatten(0, 1)
            terms[f"nmse_{way}"] = terms[f"nmse_{way}"] + ((found - target) ** 2).mean() / flat.var(0, unbiased=False).mean()
            terms[f"kl_{way}"] = terms[f"kl_{way}"] + (y.exp() * (y - tail(net, i, found))).sum(-1).mean()
    return terms


@pytest.mark.parametrize(("active", "moves"), [(1.0, True), (0.3, False)])
def test_terms_and_gradients_against_hybrids_from_scratch(active, moves):
    dense = tiny_model(seed=1, d_model=32).double().requires_grad_(False)
    sparse = tiny_model(seed=2, d_model=48, n_head=6, sink=True, enable_bigram_table=True).double()
    ids = tiny_ids()
    sides = side_of(dense), side_of(sparse)
    torch.manual_seed(0)
    bridges = Bridges(32, 48, 5, active).double()
    terms = bridge_losses(*sides, bridges, ids, BridgeConfig(active=active, nmse=0.5, kl=2.0, nmse_moves_sparse=moves))
    wanted = from_scratch(*sides, bridges, ids, moves)
    for name, value in wanted.items():
        assert float(terms[name]) == pytest.approx(float(value), rel=1e-9), name
    total = (
        wanted["pretraining"]
        + 0.5 * (wanted["nmse_encode"] + wanted["nmse_decode"])
        + 2 * (wanted["kl_encode"] + wanted["kl_decode"])
    )
    assert float(terms["loss"]) == pytest.approx(float(total), rel=1e-9)
    trained = [p for p in (*sparse.parameters(), *bridges.parameters()) if p.requires_grad]
    ours = torch.autograd.grad(terms["loss"], trained, allow_unused=True)
    theirs = torch.autograd.grad(total, trained, allow_unused=True)
    for a, b in zip(ours, theirs):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-7, atol=1e-10)


def test_gradients_reach_what_they_should():
    dense, sparse = tiny_model(seed=1).requires_grad_(False), tiny_model(seed=2)
    bridges, ids = Bridges(32, 32, 5), tiny_ids()
    sides = side_of(dense), side_of(sparse)

    def reached(**changes):
        terms = bridge_losses(
            *sides, bridges, ids, BridgeConfig(active=1.0, **{"pretraining": 0, "nmse": 0, "kl": 0, **changes})
        )
        names = {**{f"sparse.{n}": p for n, p in sparse.named_parameters()}, **dict(bridges.named_parameters())}
        names = {n: p for n, p in names.items() if p.requires_grad}
        grads = torch.autograd.grad(terms["loss"], list(names.values()), allow_unused=True)
        return {n.partition(".")[0] for n, g in zip(names, grads) if g is not None and bool(g.any())}

    assert reached(pretraining=1) == {"sparse"}
    assert reached(nmse=1) == {"sparse", "encoders", "decoders"}
    assert reached(kl=1) == {"sparse", "encoders", "decoders"}
    loss = bridge_losses(*sides, bridges, ids, BridgeConfig(active=1.0, pretraining=0, kl=0, nmse_moves_sparse=False))[
        "nmse_encode"
    ]
    assert not any(
        g is not None and bool(g.any())
        for g in torch.autograd.grad(loss, [p for p in sparse.parameters() if p.requires_grad], allow_unused=True)
    )
    assert all(p.grad is None for p in dense.parameters())


def rotated(model, rotation):
    """The same function in another basis of the residual stream: RMS norms without gains commute with rotations."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.transformer.wte.weight.copy_(model.transformer.wte.weight @ rotation.T)
        twin.lm_head.weight.copy_(model.lm_head.weight @ rotation.T)
        for block in twin.transformer.h:
            for reads, writes in ((block.attn.c_attn, block.attn.c_proj), (block.mlp.c_fc, block.mlp.c_proj)):
                reads.weight.copy_(reads.weight @ rotation.T)
                writes.weight.copy_(rotation @ writes.weight)
                writes.bias.copy_(rotation @ writes.bias)
    return twin


def test_training_finds_a_rotation():
    """Acceptance: the dense model is the sparse one in a random orthogonal basis; hybrids reach a KL under 1e-3."""
    sparse = tiny_model(seed=3, d_model=16, n_head=2, d_head=8, d_mlp=32)
    with torch.no_grad():
        for name, parameter in sparse.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(16, 16)).Q
    dense = rotated(sparse, rotation).requires_grad_(False)
    ids = tiny_ids(16, 32)
    assert torch.allclose(dense(ids).logits, sparse(ids).logits, atol=1e-4)
    bridges, sides = Bridges(16, 16, 5), (side_of(dense), side_of(sparse.requires_grad_(False)))
    before = bridge_losses(*sides, bridges, ids, BridgeConfig(active=1.0))
    assert float(before["kl_encode"]) > 0.05
    optimizer = torch.optim.Adam(bridges.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for step in range(400):
        optimizer.zero_grad()
        bridge_losses(*sides, bridges, tiny_ids(8, 32, seed=step), BridgeConfig(active=1.0, pretraining=0))["loss"].backward()
        optimizer.step()
        schedule.step()
    report = evaluate_bridges(*sides, bridges, tiny_ids(16, 32, seed=10_000))
    assert max(each["kl"] for way in ("encode", "decode") for each in report[way]) < 1e-3


def test_a_batch_grows_as_counted():
    class Counting(CSPSide):
        runs = 0

        def sublayer(self, i, x, context):
            self.runs += len(x)
            return super().sublayer(i, x, context)

    model, ids = tiny_model(n_layer=3), tiny_ids()
    side = Counting(model)
    points, _ = stream(side, ids)
    assert side.runs == 6 * len(ids)
    side.runs = 0
    tails(side, points, ids)
    assert side.runs == 3 * 7 * len(ids)
    assert plain_passes(6) == (2 + 2 * 3 * 7 / 6, 2 + 2 * 7)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-5, 5))
def test_nmse_and_kl_have_their_zeros_and_units(seed, scale, shift):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(2, 5, 3, generator=generator).double()
    assert float(nmse(target, target)) == 0
    assert float(nmse(target.mean((0, 1)).expand_as(target), target)) == pytest.approx(1)
    found = target + torch.randn(2, 5, 3, generator=generator).double()
    assert float(nmse(scale * found + shift, scale * target + shift)) == pytest.approx(float(nmse(found, target)), rel=1e-6)
    assert float(kl(target, target + shift)) == pytest.approx(0, abs=1e-9)
    assert float(kl(target, found)) >= 0
    wanted = (target.softmax(-1) * (target.log_softmax(-1) - found.log_softmax(-1))).sum(-1).mean()
    assert float(kl(target, found)) == pytest.approx(float(wanted))


def test_ridge_recovers_a_linear_map():
    sparse = tiny_model(seed=3, d_model=16, n_head=2)
    with torch.no_grad():
        for name, parameter in sparse.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1))).Q
    dense = rotated(sparse, rotation)
    sides = side_of(dense), side_of(sparse)
    bridges = ridge_bridges(*sides, tiny_ids(32, 32), penalty=1e-9)
    report = evaluate_bridges(*sides, bridges, tiny_ids(8, 32, seed=5))
    assert all(each["fve"] > 0.999 for way in ("encode", "decode") for each in report[way])
    assert abs(report["excess"]) < 1e-2
    zero = evaluate_bridges(*sides, constant_bridges(*sides, "zero"), tiny_ids(8, 32, seed=5))
    assert all(a["kl"] > b["kl"] for way in ("encode", "decode") for a, b in zip(zero[way], report[way]))


def test_evaluation_does_not_depend_on_the_batch_size():
    dense, sparse = side_of(tiny_model(seed=1)), side_of(tiny_model(seed=2))
    bridges, blocks = Bridges(32, 32, 5, 0.5), tiny_ids(7, 12)
    one, two = (evaluate_bridges(dense, sparse, bridges, blocks, batch=batch) for batch in (2, 7))

    def flat(report):
        return [v for way in ("encode", "decode") for each in report[way] for v in each.values()] + [report["mean_hybrid"]]

    assert flat(one) == pytest.approx(flat(two), rel=1e-4)
    assert len(one["paths"]) == 8
    assert len({tuple(each["path"]) for each in one["paths"]}) == 8


@pytest.mark.parametrize(
    ("dense", "sparse", "message"),
    [
        (lambda: tiny_model(n_layer=3), tiny_model, "has 6 sublayers, the sparse one 4"),
        (lambda: tiny_model(vocab_size=50), tiny_model, "has 50 tokens, the sparse one 97"),
        (tiny_model, gpt2, "sparse side must be a CSP model"),
        (lambda: torch.nn.Linear(2, 2), tiny_model, "cannot be bridged"),
        (tiny_model, lambda: tiny_model().to_sparse(1.0), "dense matrices"),
    ],
)  # fmt: skip
def test_what_does_not_match_is_refused_by_name(dense, sparse, message):
    with pytest.raises(ValueError, match=message):
        BridgedPair(dense(), sparse(), None)
    with pytest.raises(ValueError, match="the models need"):
        BridgedPair(tiny_model(), tiny_model(), None, Bridges(32, 48, 5))


@pytest.mark.parametrize(
    "changes",
    [{"active": 0}, {"active": 1.5}, {"kl": -1}, {"nmse": float("inf")}, {"active": True}, {"pretraining": "1"}, {"lr": 0}],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        BridgeConfig(**changes)


def small_pair(kind="csp"):
    tokenizer = CSPTokenizer.from_pretrained(ROOT)
    vocab = {"vocab_size": len(tokenizer)}
    if kind == "gpt2":
        torch.manual_seed(0)
        dense = GPT2LMHeadModel(GPT2Config(n_positions=64, n_embd=24, n_layer=2, n_head=4, **vocab)).eval()
    else:
        dense = tiny_model(seed=1, **vocab)
    return BridgedPair(dense, tiny_model(seed=2, d_model=48, n_head=6, **vocab), tokenizer, config=BridgeConfig(active=0.5))


@pytest.mark.parametrize("kind", ["csp", "gpt2"])
def test_pairs_come_back_as_they_were(kind, tmp_path):
    pair = small_pair(kind)
    again = BridgedPair.from_pretrained(pair.save_pretrained(tmp_path / "pair"))
    ids = tiny_ids()
    wanted = bridge_losses(pair.dense, pair.sparse, pair.bridges, ids, pair.config)
    found = bridge_losses(again.dense, again.sparse, again.bridges, ids, again.config)
    assert again.config == pair.config
    assert {name: float(term) for name, term in found.items()} == {name: float(term) for name, term in wanted.items()}
    assert not [path for path in (tmp_path / "pair").rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    with pytest.raises(FileExistsError):
        pair.save_pretrained(tmp_path / "pair")


DAMAGE = {
    "no config": lambda f: (f / "bridges.json").unlink(),
    "no tensors": lambda f: (f / "bridges.safetensors").unlink(),
    "cut tensors": lambda f: (f / "bridges.safetensors").write_bytes((f / "bridges.safetensors").read_bytes()[:500]),
    "too many tensors": lambda f: (f / "bridges.safetensors").write_bytes(b"\0" * 5_000_000),
    "no json": lambda f: (f / "bridges.json").write_text("{"),
    "a list": lambda f: (f / "bridges.json").write_text("[]"),
    "deep": lambda f: (f / "bridges.json").write_text("[" * 99999),
    "version": lambda f: change(f, version=2),
    "points": lambda f: change(f, points=7),
    "huge": lambda f: change(f, points=10**9),
    "bool": lambda f: change(f, keep=True),
    "config": lambda f: change(f, config={"active": 5}),
    "unknown setting": lambda f: change(f, config={"speed": 5}),
    "tokenizer": lambda f: change(f, tokenizer="0" * 64),
}


def change(folder, **values):
    path = folder / "bridges.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_pairs_are_refused_by_name(what, tmp_path):
    folder = small_pair().save_pretrained(tmp_path / "pair")
    DAMAGE[what](folder)
    with pytest.raises((ValueError, FileNotFoundError), match=r"pair|bridges|tokenizer") as error:
        BridgedPair.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_only_reads_of_the_stream_are_steered_along():
    model = tiny_model(position_embedding_type="concatenated", d_pos_emb=6)
    assert read_point(model, "0.attn.act_in:3") == (0, 3)
    assert read_point(model, "1.mlp.act_in:31") == (3, 31)
    assert read_point(model, "final_resid:0") == (4, 0)
    for wrong in ("0.mlp.post_act:1", "0.attn.act_in:33"):
        with pytest.raises(ValueError, match="does not read the residual stream"):
            read_point(model, wrong)
