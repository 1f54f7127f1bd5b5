"""The network: reference numbers, then invariants that every feature must keep."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import DynamicCache, StaticCache

from sparse_circuits import CSPConfig, CSPForCausalLM
from sparse_circuits.convert import read_openai_checkpoint
from sparse_circuits.modeling_csp import sinusoids
from tiny import ALL_SITES, tiny_config, tiny_ids, tiny_model

CASES = ("attention_sink", "concatenated_positions", "gpt2_like_tied", "weight_sparse_bigram")


def with_attention(model, name):
    model.set_attn_implementation(name)
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_reference_checkpoint(reference, case, attention):
    config, tensors = read_openai_checkpoint(reference / "checkpoints" / case)
    expected = load_file(reference / "checkpoints" / case / "expected.safetensors")
    model = CSPForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    with_attention(model, attention).tie_weights()
    seen = {}
    for name, site in model.node_sites().items():
        site.register_forward_hook(lambda _m, _a, out, name=name: seen.__setitem__(name, out))
    for i, block in enumerate(model.transformer.h):  # what the reference hooks besides our node sites
        block.resid_in.register_forward_hook(lambda _m, _a, out, i=i: seen.__setitem__(f"{i}.resid_in", out))
        block.resid_mid.register_forward_hook(lambda _m, _a, out, i=i: seen.__setitem__(f"{i}.resid_mid", out))
        block.attn.c_proj.register_forward_pre_hook(lambda _m, args, i=i: seen.__setitem__(f"{i}.attn.y", args[0]))
    ids = expected["input_ids"].long()
    with torch.no_grad():
        out = model(ids, labels=ids)
    torch.testing.assert_close(out.logits, expected["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.loss.view(1), expected["loss"].view(1), atol=1e-5, rtol=0)
    assert {f"act.{name}" for name in seen} == {key for key in expected if key.startswith("act.")}
    for name, activation in seen.items():
        torch.testing.assert_close(
            activation, expected[f"act.{name}"], atol=1e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_node_sites_are_in_forward_order_and_carry_their_widths(features):
    model = tiny_model(**features)
    order, sites = [], model.node_sites()
    for name, site in sites.items():
        site.register_forward_hook(lambda _m, _a, out, name=name: order.append((name, out.shape[-1])))
    model(tiny_ids())
    assert order == [(name, site.width) for name, site in sites.items()]
    assert len(sites) == 8 * model.config.n_layer + 1


def test_a_hook_that_changes_a_site_changes_the_model(features):
    model, ids = tiny_model(**features), tiny_ids()
    plain = model(ids).logits
    for site in model.node_sites().values():
        handle = site.register_forward_hook(lambda _m, _a, out: out + 1)
        assert not torch.equal(model(ids).logits, plain)
        handle.remove()
    assert torch.equal(model(ids).logits, plain)


# ------------------------------------------------------------------------------------------------ attention invariants


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_eager_equals_sdpa(sink, padding):
    model, ids = tiny_model(sink=sink, position_embedding_type="added"), tiny_ids()
    mask = torch.ones_like(ids)
    if padding != "none":
        mask[0, :4] = 0
        mask[1, :9] = 0
        mask = mask if padding == "left" else mask.flip(1)
    eager = with_attention(model, "eager")(ids, attention_mask=mask).logits
    sdpa = with_attention(model, "sdpa")(ids, attention_mask=mask).logits
    torch.testing.assert_close(eager[mask.bool()], sdpa[mask.bool()], atol=1e-5, rtol=1e-5)


def test_eager_equals_sdpa_in_gradients():
    gradients = []
    for name in ("eager", "sdpa"):
        model, ids = with_attention(tiny_model(sink=True), name), tiny_ids()
        model(ids, labels=ids).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    assert gradients[0]["transformer.h.0.attn.sink_bias"].abs().max() > 0


def test_the_sink_is_a_key_of_zero_value():
    """Brute force: softmax over the keys and the sink's logit, per head and query."""
    model, ids = with_attention(tiny_model(sink=True, n_layer=1), "eager"), tiny_ids(1, 6)
    seen = {}
    attention = model.transformer.h[0].attn
    for name in ("q", "k"):
        getattr(attention, name).register_forward_hook(lambda _m, _a, out, name=name: seen.__setitem__(name, out))
    weights = model(ids, output_attentions=True).attentions[0]
    q, k = (seen[name].view(6, 4, 8) for name in ("q", "k"))
    for head in range(4):
        for query in range(6):
            logits = [(q[query, head] @ k[key, head]).item() / 8**0.5 for key in range(query + 1)]
            total = torch.tensor([*logits, attention.sink_bias[head].item()]).exp()
            torch.testing.assert_close(weights[0, head, query, : query + 1], total[:-1] / total.sum(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3"])
def test_attention_that_would_drop_the_sink_is_refused_by_name(name):
    model = CSPForCausalLM(tiny_config(sink=True))
    model.config._attn_implementation_internal = name  # as on a machine that has the kernel; without it transformers refuses
    with pytest.raises(ValueError, match=f"attn_implementation='{name}' ignores attention sinks"):
        model(tiny_ids())


@pytest.mark.slow
def test_flex_attention_without_a_sink_and_its_refusal_with_one_on_cpu():
    model, ids = tiny_model(d_head=16), tiny_ids(2, 130)
    expected = model(ids).logits
    with torch.no_grad():
        torch.testing.assert_close(with_attention(model, "flex_attention")(ids).logits, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="sinks cannot be run on CPU with flex attention"):
        with_attention(tiny_model(d_head=16, sink=True), "flex_attention")(ids)


def test_packed_documents_do_not_see_each_other():
    model = tiny_model(sink=True, position_embedding_type="added")
    ids = tiny_ids(1, 12)
    positions = torch.tensor([[*range(5), *range(7)]])
    packed = model(ids, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(packed[:, 5:], model(ids[:, 5:]).logits, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------ cache, padding


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("split", [1, 8, 16])
def test_cached_equals_uncached(features, kind, split):
    model, ids = tiny_model(**features), tiny_ids()
    whole = model(ids).logits
    if kind == "dynamic":
        cache = DynamicCache(config=model.config)
    else:
        cache = StaticCache(config=model.config, max_cache_len=32)
    first = model(ids[:, :split], past_key_values=cache, use_cache=True).logits
    rest = [model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits for i in range(split, ids.shape[1])]
    torch.testing.assert_close(torch.cat([first, *rest], dim=1), whole, atol=2e-5, rtol=1e-4)


def test_a_chunk_after_a_cached_prefix_equals_the_whole(features):
    model, ids = tiny_model(**features), tiny_ids()
    cache = model(ids[:, :6], use_cache=True).past_key_values
    chunk = model(ids[:, 6:], past_key_values=cache).logits
    torch.testing.assert_close(chunk, model(ids).logits[:, 6:], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_equals_single(features, side, attention):
    model, ids = with_attention(tiny_model(**features), attention), tiny_ids(1, 11)
    pad = torch.zeros(1, 5, dtype=torch.long)
    padded = torch.cat([pad, ids] if side == "left" else [ids, pad], dim=1)
    mask = torch.cat([pad, torch.ones_like(ids)] if side == "left" else [torch.ones_like(ids), pad], dim=1)
    logits = model(padded, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(logits, model(ids).logits[0], atol=2e-5, rtol=1e-4)


def test_batch_rows_do_not_influence_each_other(features):
    model, ids = tiny_model(**features), tiny_ids(4)
    together = model(ids).logits
    alone = torch.cat([model(row[None]).logits for row in ids])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(2, 20), st.integers(0, 10**6), st.data())
def test_a_token_never_sees_the_future(batch, tokens, seed, data):
    model, ids = tiny_model(sink=True, afrac=dict.fromkeys(ALL_SITES, 0.5)), tiny_ids(batch, tokens, seed=seed)
    changed = data.draw(st.integers(1, tokens - 1))
    other = ids.clone()
    other[:, changed:] = (other[:, changed:] + 1) % 97
    torch.testing.assert_close(model(ids).logits[:, :changed], model(other).logits[:, :changed], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- precision, training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype):
    # Hard top-k flips entries under rounding: with it, logits may differ, and closeness is asked of the loss.
    model, ids = tiny_model(sink=True, enable_bigram_table=True), tiny_ids()
    full = model(ids).logits
    half = copy.deepcopy(model).to(dtype)(ids).logits
    assert half.dtype == dtype
    assert (half.float() - full).abs().max() < 0.05 * full.abs().max()
    sparse = tiny_model(afrac=dict.fromkeys(ALL_SITES, 0.5))
    losses = [m(ids, labels=ids).loss.item() for m in (sparse, copy.deepcopy(sparse).to(dtype))]
    assert abs(losses[0] - losses[1]) < 0.15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(features, dtype):
    model, ids = tiny_model(**features), tiny_ids()
    with torch.autocast("cpu", dtype):
        loss = model(ids, labels=ids).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert abs(loss.item() - model(ids, labels=ids).loss.item()) < 0.15
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_gradient_checkpointing_changes_nothing(features):
    ids = tiny_ids()
    losses, gradients = [], []
    for checkpointing in (False, True):
        model = tiny_model(**features).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert model.is_gradient_checkpointing
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        losses.append(loss)
        gradients.append([p.grad for p in model.parameters()])
    assert torch.equal(*losses)
    for one, other in zip(*gradients, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_loss_is_the_next_token_cross_entropy(features):
    model, ids = tiny_model(**features), tiny_ids()
    labels = ids.clone()
    labels[:, :5] = -100
    out = model(ids, labels=labels)
    log_probabilities = out.logits.double().log_softmax(-1)
    picked = [log_probabilities[b, t, ids[b, t + 1]] for b in range(3) for t in range(4, 16)]
    assert out.loss.item() == pytest.approx(-torch.stack(picked).mean().item(), abs=1e-5)
    assert model.double()(ids, labels=labels).loss.dtype == torch.float64
    halved = model(ids, labels=labels, num_items_in_batch=2 * len(picked)).loss
    assert halved.item() == pytest.approx(model(ids, labels=labels).loss.item() / 2, rel=1e-9)


def test_dropout_acts_in_training_only():
    model, ids = tiny_model(dropout=0.5), tiny_ids()
    assert torch.equal(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


def test_initial_weights():
    torch.manual_seed(0)
    model = CSPForCausalLM(CSPConfig(d_model=128, n_layer=8, n_head=8, sink=True, enable_bigram_table=True, vocab_size=512))
    block = model.transformer.h[3]
    assert block.attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.transformer.wte.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for projection in (block.attn.c_proj, block.mlp.c_proj):
        assert projection.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    for zero in (block.attn.c_attn.bias, block.attn.sink_bias, model.bigram_table.logit_bias, model.final_logits_bias):
        assert not zero.any()
    assert (block.attn_norm.weight == 1).all()
    assert not model.final_logits_bias.requires_grad


def test_sinusoidal_positions_by_hand():
    table = sinusoids(16, 5)
    assert table.shape == (16, 5)
    for position in range(16):
        angles = [2 * torch.pi * position / period for period in (4.0, 16.0)]
        by_hand = torch.tensor(
            [torch.sin(torch.tensor(a)) for a in angles] + [torch.cos(torch.tensor(a)) for a in angles] + [0.0]
        )
        torch.testing.assert_close(table[position], by_hand, atol=1e-5, rtol=0)
    model = CSPForCausalLM(tiny_config(position_embedding_type="added", sinusoidal_positions=True))
    assert torch.equal(model.transformer.wpe.weight, sinusoids(64, 32))
    assert not model.transformer.wpe.weight.requires_grad


def test_frozen_bigram_rows_and_tables():
    ids = torch.full((1, 8), 96)
    model = tiny_model(enable_bigram_table=True, bigram_padding_idx=96)
    model(ids, labels=ids).loss.backward()
    assert not model.bigram_table.logit_bias.grad[96].any()
    free = tiny_model(enable_bigram_table=True)
    free(ids, labels=ids).loss.backward()
    assert free.bigram_table.logit_bias.grad[96].any()
    assert not tiny_model(enable_bigram_table=True, learnable_bigram_table=False).bigram_table.logit_bias.requires_grad


# --------------------------------------------------------------------------------------------------------------- outputs


def test_hidden_states_and_attentions(features):
    model, ids = with_attention(tiny_model(**features), "eager"), tiny_ids()
    out = model(ids, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 3
    assert out.hidden_states[0].shape == (3, 17, 32)
    assert [a.shape for a in out.attentions] == [(3, 4, 17, 17)] * 2
    base = model.transformer(ids)
    assert torch.equal(out.hidden_states[-1], base.last_hidden_state)
    sums = out.attentions[0].sum(-1)
    assert (sums <= 1 + 1e-5).all() if model.config.sink else torch.allclose(sums, torch.ones_like(sums))
    assert isinstance(model(ids, return_dict=False), tuple)


def test_logits_to_keep(features):
    model, ids = tiny_model(**features), tiny_ids()
    full = model(ids).logits
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(model(ids, logits_to_keep=4).logits, full[:, -4:], **close)
    index = torch.tensor([2, 9, 3])
    torch.testing.assert_close(model(ids, logits_to_keep=index).logits, full[:, index], **close)
    rows = torch.tensor([[1, 2], [0, 16], [5, 5]])
    by_row = torch.stack([full[b, row] for b, row in enumerate(rows)])
    torch.testing.assert_close(model(ids, logits_to_keep=rows).logits, by_row, **close)
    mask = ids % 3 == 0
    torch.testing.assert_close(model(ids, logits_to_keep=mask).logits, full[mask], **close)


def test_inputs_embeds(features):
    model, ids = tiny_model(**features), tiny_ids()
    embeds = model.get_input_embeddings()(ids)
    if model.config.enable_bigram_table:
        with pytest.raises(ValueError, match="bigram table, which needs token ids"):
            model(inputs_embeds=embeds)
        assert torch.equal(model(input_ids=ids, inputs_embeds=embeds).logits, model(ids).logits)
    else:
        assert torch.equal(model(inputs_embeds=embeds).logits, model(ids).logits)
    with pytest.raises(ValueError, match="input_ids"):
        model()


def test_sequences_beyond_the_position_table_are_refused():
    model = tiny_model(position_embedding_type="added")
    with pytest.raises(ValueError, match="65 tokens and the position table 64"):
        model(tiny_ids(1, 65))
    assert tiny_model()(tiny_ids(1, 65)).logits.shape[1] == 65  # without positions there is no table to run out of


@pytest.mark.parametrize("size", [97 + 30, 50])
def test_resized_embeddings_carry_bias_and_table(features, size):
    model, ids = tiny_model(**features), tiny_ids(vocab=50)
    with torch.no_grad():
        before = model(ids).logits
    model.resize_token_embeddings(size, mean_resizing=False)
    after = model(ids).logits
    kept = min(size, 97)
    assert after.shape[-1] == model.config.vocab_size == model.final_logits_bias.shape[0] == size
    torch.testing.assert_close(after[..., :kept], before[..., :kept], atol=1e-5, rtol=1e-5)
    if model.bigram_table is not None:
        assert model.bigram_table.logit_bias.shape == (size, size)
    model(ids, labels=ids).loss.backward()


@pytest.mark.parametrize("features", [{}, {"sink": True, "afrac": dict.fromkeys(ALL_SITES, 0.25), "enable_bigram_table": True}])
def test_compiles_as_one_graph(features):
    model, ids = tiny_model(**features), tiny_ids()
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(ids, use_cache=False).logits, model(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_compiles_with_inductor_and_its_gradient_agrees():
    model, ids = tiny_model(sink=True, afrac=dict.fromkeys(ALL_SITES, 0.5), enable_bigram_table=True, n_layer=1), tiny_ids()
    torch.compiler.reset()
    model(ids, labels=ids).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.compile(model, fullgraph=True)(ids, labels=ids, use_cache=False).loss.backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient, atol=1e-5, rtol=1e-3)


def test_exports():
    model, ids = tiny_model(sink=True, enable_bigram_table=True), tiny_ids()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(ids, use_cache=False).logits

    with torch.no_grad():
        program = torch.export.export(Logits(), (ids,), strict=False)
        torch.testing.assert_close(program.module()(ids), model(ids).logits, atol=1e-5, rtol=1e-5)
