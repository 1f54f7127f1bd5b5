"""Models in sparse form: equal to dense ones in every feature, observed as they are, trainable on their support."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments, default_data_collator, pipeline

import sparse_circuits.kernels.fused as fused
import sparse_circuits.kernels.run as running
from sparse_circuits import CSPForCausalLM, SparsityConfig, WeightSparsityCallback
from sparse_circuits.corpora.blocks import TokenBlocks
from sparse_circuits.nonzeros_csp import SparseEmbedding, SparseLinear, SparseMatrix, Support, sparse_product
from sparse_circuits.topk_csp import abs_topk
from tiny import ALL_SITES, ROOT, tiny_ids, tiny_model, without_kernels


def sparse_pair(share=0.3, seed=0, **features):
    """The same model, dense and with every matrix as nonzeros."""
    dense = tiny_model(seed, **features)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            if parameter.dim() == 2 and "bigram" not in name:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) < share)
    return dense, copy.deepcopy(dense).to_sparse(max_density=1.0)


@pytest.fixture
def fused_runs(monkeypatch):
    """Counts the blocks that ran fused."""
    runs, original = [], fused._run
    monkeypatch.setattr(fused, "_run", lambda attn, *a: runs.append(attn.layer_idx) or original(attn, *a))
    return runs


# ------------------------------------------------------------------------------------------------------------- products


@settings(deadline=None, max_examples=60)
@given(st.data())
@pytest.mark.parametrize("kernels", [True, False])
def test_products_and_their_gradients(kernels, data):
    rows, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    tokens = data.draw(st.sampled_from([0, 1, 2, 15, 16, 17, 70, 130, 300]))
    density = data.draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    weight = torch.randn(rows, width, generator=generator) * (torch.rand(rows, width, generator=generator) < density)
    if rows > 2:
        weight[rows // 2] = 0
    matrix = SparseMatrix.from_dense(weight)
    assert torch.equal(matrix.to_dense(), weight)
    bias = torch.randn(rows, generator=generator).requires_grad_() if data.draw(st.booleans()) else None
    x = torch.randn(tokens, width, generator=generator).requires_grad_()
    upstream = torch.randn(tokens, rows, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        if not kernels:
            without_kernels(patch)
        out = sparse_product(x, matrix.values, matrix.support, bias)
        wanted = [x, matrix.values] + ([bias] if bias is not None else [])
        ours = [out, *torch.autograd.grad((out * upstream).sum(), wanted)]
    leaf = weight.double().requires_grad_()
    other = x.detach().double().requires_grad_()
    expected = F.linear(other, leaf, None if bias is None else bias.double())
    dx, dweight = torch.autograd.grad((expected * upstream).sum(), [other, leaf])
    support = matrix.support
    everything = [expected, dx, dweight[support.row_of.long(), support.columns.long()]]
    everything += [upstream.double().sum(0)] if bias is not None else []
    for one, two in zip(ours, everything, strict=True):
        torch.testing.assert_close(one.double(), two, atol=1e-4, rtol=1e-5)


def test_second_derivatives(path):
    matrix = SparseMatrix.from_dense(torch.randn(5, 7).relu()).double()
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, v: sparse_product(x, v, matrix.support) ** 2, (x, matrix.values))


def test_infinity_reaches_only_what_it_is_connected_to(path):
    matrix = SparseMatrix.from_dense(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    with torch.no_grad():
        out = sparse_product(torch.tensor([[torch.inf, 1.0]] * 20), matrix.values, matrix.support)
    assert out.tolist() == [[torch.inf, 1.0]] * 20


def test_a_wrong_width_is_named():
    matrix = SparseMatrix.from_dense(torch.eye(4))
    with pytest.raises(ValueError, match="width 3 do not fit a matrix of 4 x 4"):
        sparse_product(torch.zeros(2, 3), matrix.values, matrix.support)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings(path, dtype):
    weight = (torch.randn(30, 8) * (torch.rand(30, 8) < 0.3)).to(dtype)
    weight[4] = 0
    embedding = SparseEmbedding(SparseMatrix.from_dense(weight))
    ids = torch.tensor([[0, 4, 29, 4], [7, 7, 7, 1]])
    dense = weight.clone().requires_grad_()
    expected, out = F.embedding(ids, dense), embedding(ids)
    assert torch.equal(out, expected)
    upstream = torch.randn(2, 4, 8).to(dtype)
    out.backward(upstream)
    expected.backward(upstream)
    support = embedding.weight.support
    torch.testing.assert_close(embedding.weight.values.grad, dense.grad[support.row_of.long(), support.columns.long()])
    with torch.no_grad():
        assert torch.equal(embedding(ids), expected)
        assert embedding(ids[:, :0]).shape == (2, 0, 8)
    with pytest.raises(IndexError, match="0 to 29"):
        embedding(torch.tensor([30]))


def test_a_support_knows_its_transpose():
    weight = torch.randn(9, 6) * (torch.rand(9, 6) < 0.4)
    matrix = SparseMatrix.from_dense(weight)
    support, order = matrix.support.transposed
    assert isinstance(support, Support)
    turned = SparseMatrix(matrix.values.detach()[order], support.starts, support.columns, support.shape)
    assert torch.equal(turned.to_dense(), weight.t())


# --------------------------------------------------------------------------------------------------------------- models


@torch.no_grad()
def test_equal_in_every_feature(features, path, fused_runs):
    dense, form = sparse_pair(**features)
    for ids in (tiny_ids(3, 17), tiny_ids(1, 40), tiny_ids(2, 1)):
        assert (form(ids).logits - dense(ids).logits).abs().max() < 1e-5
    assert bool(fused_runs) == (path == "kernels")
    mask = torch.ones(3, 17, dtype=torch.long)
    mask[1, :5] = mask[2, :11] = 0
    ids = tiny_ids(3, 17)
    ours, theirs = form(ids, attention_mask=mask).logits, dense(ids, attention_mask=mask).logits
    assert (ours - theirs)[mask.bool()].abs().max() < 1e-5
    for options in ({}, {"attention_mask": mask}, {"num_beams": 3}, {"cache_implementation": "static"}):
        given = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, **options}
        assert torch.equal(form.generate(ids, **given), dense.generate(ids, **given)), options


def test_gradients_in_every_feature(features, path):
    dense, form = sparse_pair(**features)
    ids = tiny_ids(2, 20)
    grads = []
    for model in (dense, form):
        activations = {}
        for name, site in model.node_sites().items():
            site.register_forward_hook(
                lambda m, a, out, name=name, seen=activations: seen.__setitem__(name, out) or out.retain_grad()
            )
        model(ids, labels=ids).loss.backward()
        grads.append({name: out.grad for name, out in activations.items()})
        grads[-1]["sink"] = getattr(model.transformer.h[0].attn.sink_bias, "grad", None)
    for name, expected in grads[0].items():
        if expected is not None:
            torch.testing.assert_close(grads[1][name], expected, atol=1e-6, rtol=1e-4)
    for name, matrix in form.named_modules(remove_duplicate=False):
        if isinstance(matrix, SparseMatrix) and matrix.values.requires_grad:
            full, support = dense.get_parameter(name).grad, matrix.support
            torch.testing.assert_close(
                matrix.values.grad, full[support.row_of.long(), support.columns.long()], atol=1e-6, rtol=1e-4
            )


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    dense, form = sparse_pair(afrac=dict.fromkeys(ALL_SITES, 0.5), sink=True)
    dense, form = dense.to(dtype), form.to(dtype)
    ids = tiny_ids()
    ours, theirs = form(ids).logits, dense(ids).logits
    assert ours.dtype == dtype
    difference = (ours - theirs).abs()
    assert difference.max() < 1e-12 if dtype == torch.float64 else difference.median() < 0.02


@torch.no_grad()
def test_a_cache_gives_what_no_cache_gives(features, fused_runs):
    _, form = sparse_pair(**features)
    ids = tiny_ids(2, 24)
    whole = form(ids, use_cache=False).logits
    cache = form(ids[:, :7], use_cache=True).past_key_values
    steps = [form(ids[:, i : i + 1], past_key_values=cache).logits for i in range(7, 24)]
    assert (torch.cat(steps, dim=1) - whole[:, 7:]).abs().max() < 1e-5
    assert len(fused_runs) == 2 * 19
    # Cropped, copied and reordered caches go on from what they hold, and leave each other alone.
    twin = copy.deepcopy(cache)
    cache.crop(-4)
    expected = form(ids[:, 20:21], past_key_values=cache).logits
    assert (expected - whole[:, 20:21]).abs().max() < 1e-5
    form(ids[:, :1], past_key_values=twin)
    cache.crop(-1)
    assert torch.equal(form(ids[:, 20:21], past_key_values=cache).logits, expected)
    cache.crop(-1)
    cache.reorder_cache(torch.tensor([1, 0]))
    swapped = form(ids[:, 20:21].flip(0), past_key_values=cache).logits
    assert (swapped.flip(0) - expected).abs().max() < 1e-5
    # A step of several tokens runs module by module, on the same cache.
    cache.crop(-5)
    cache.reorder_cache(torch.tensor([1, 0]))
    assert (form(ids[:, 16:20], past_key_values=cache).logits - whole[:, 16:20]).abs().max() < 1e-5


@torch.no_grad()
def test_hooks_see_and_change_every_node(fused_runs):
    dense, form = sparse_pair(afrac=dict.fromkeys(ALL_SITES, 0.5), sink=True)
    ids = tiny_ids(2, 20)
    assert list(form.node_sites()) == list(dense.node_sites())
    seen = [{}, {}]
    for model, found in zip((dense, form), seen, strict=True):
        for name, site in model.node_sites().items():
            site.register_forward_hook(lambda m, a, out, name=name, found=found: found.__setitem__(name, out))
        model(ids)
    assert not fused_runs
    for name in seen[0]:
        assert (seen[0][name] - seen[1][name]).abs().max() < 1e-5
    _, form = sparse_pair(afrac=dict.fromkeys(ALL_SITES, 0.5), sink=True)
    plain = form(ids).logits
    assert fused_runs == [0, 1]
    handle = form.transformer.h[1].mlp.post_act.register_forward_hook(lambda m, a, out: out * 0)
    ablated = form(ids).logits
    assert fused_runs == [0, 1, 0]  # the other block still runs fused
    assert not torch.equal(ablated, plain)
    handle.remove()
    assert torch.equal(form(ids).logits, plain)


@torch.no_grad()
def test_changes_are_noticed(fused_runs):
    _, form = sparse_pair(sink=True)
    ids = tiny_ids(1, 20)
    before = form(ids).logits
    block = form.transformer.h[0]
    block.mlp.c_fc.weight.values.mul_(2)  # in place
    doubled = form(ids).logits
    assert not torch.equal(doubled, before)
    block.mlp.c_fc.weight.values.data = block.mlp.c_fc.weight.values.data / 2  # other storage
    assert torch.equal(form(ids).logits, before)
    block.attn.v.k = 4  # another AbsTopK
    assert not torch.equal(form(ids).logits, before)
    block.attn.v.k = block.attn.v.width
    assert len(fused_runs) == 8
    block.mlp.post_act.forward = lambda x: x * 0  # as accelerate and others patch modules
    assert not torch.equal(form(ids).logits, before)
    del block.mlp.post_act.forward
    block.mlp.c_fc = form.transformer.h[1].mlp.c_fc  # another module
    assert not torch.equal(form(ids).logits, before)
    with torch.autocast("cpu", torch.bfloat16):
        form(ids)
    form.train()
    form(ids)
    assert len(fused_runs) == 8 + 1 + 2
    twin = copy.deepcopy(form.eval())
    assert torch.equal(twin(ids).logits, form(ids).logits)


def test_there_and_back(features):
    dense, form = sparse_pair(**features)
    assert form.is_sparse
    assert not dense.is_sparse
    if dense.config.tie_word_embeddings:
        assert form.lm_head.weight is form.transformer.wte.weight
    back = form.to_dense()
    assert back is form
    assert not back.is_sparse
    assert list(back.state_dict()) == list(dense.state_dict())
    for (name, parameter), other in zip(dense.named_parameters(), back.parameters(), strict=True):
        assert torch.equal(parameter, other), name
        assert parameter.requires_grad == other.requires_grad
    if dense.config.tie_word_embeddings:
        assert back.lm_head.weight is back.transformer.wte.weight
    assert torch.equal(back(tiny_ids()).logits, dense(tiny_ids()).logits)


def test_print_tells_what_is_sparse_and_how():
    _, form = sparse_pair()
    text = repr(form)
    assert "SparseLinear(\n" in text
    assert "in_features=32, out_features=96" in text
    count = form.transformer.h[0].attn.c_attn.weight.values.shape[0]
    assert f"96 x 32, nonzeros={count}" in text


def test_the_crossover_and_its_replacement(monkeypatch):
    dense = tiny_model()
    assert not copy.deepcopy(dense).to_sparse().is_sparse  # no zeros at all
    assert copy.deepcopy(dense).to_sparse(max_density=1.0).is_sparse
    with torch.no_grad():
        dense.transformer.h[0].mlp.c_fc.weight[1:] = 0
    form = copy.deepcopy(dense).to_sparse()
    assert [name for name, m in form.named_modules() if isinstance(m, SparseLinear)] == ["transformer.h.0.mlp.c_fc"]
    assert not copy.deepcopy(dense).to_sparse(max_density=0.0).is_sparse
    without_kernels(monkeypatch)
    assert not copy.deepcopy(dense).to_sparse().is_sparse  # too small for PyTorch alone
    with pytest.raises(ValueError, match=r"max_density is 2; it must be a density in \[0, 1\]"):
        dense.to_sparse(max_density=2)


@torch.no_grad()
def test_pipeline_and_output_options():
    form = CSPForCausalLM.from_pretrained(ROOT, dtype="float32").to_sparse(max_density=1.0)
    complete = pipeline("text-generation", model=form, tokenizer=str(ROOT))
    assert complete("for i in", max_new_tokens=3, do_sample=False)[0]["generated_text"].startswith("for i in")
    out = form(tiny_ids(1, 8), output_hidden_states=True)
    assert len(out.hidden_states) == 4
    form.set_attn_implementation("eager")
    assert form(tiny_ids(1, 8), output_attentions=True).attentions[0].shape == (1, 6, 8, 8)


def test_torch_compile_traces_the_sparse_form():
    dense, form = sparse_pair()
    ids = tiny_ids(1, 9)
    compiled = torch.compile(form, backend="eager")
    with torch.no_grad():
        assert (compiled(ids).logits - dense(ids).logits).abs().max() < 1e-5


def test_what_a_fixed_support_cannot_do_is_refused():
    _, form = sparse_pair()
    with pytest.raises(ValueError, match="the vocabulary is fixed"):
        form.resize_token_embeddings(120)
    arguments = TrainingArguments("unused", max_steps=1, report_to="none", save_strategy="no")
    trainer = Trainer(
        form, arguments, train_dataset=TokenBlocks(tiny_ids(8, 16)), data_collator=default_data_collator,
        callbacks=[WeightSparsityCallback(SparsityConfig(density=0.3))],
    )  # fmt: skip
    with pytest.raises(ValueError, match="support of a model in sparse form is fixed"):
        trainer.train()


def test_trainer_moves_the_nonzeros_only_and_resumes(tmp_path):
    def trainer(model, steps):
        arguments = TrainingArguments(
            str(tmp_path), max_steps=steps, learning_rate=0.01, per_device_train_batch_size=4, save_steps=3, report_to="none",
            logging_strategy="no", lr_scheduler_type="constant", seed=1, disable_tqdm=True,
        )  # fmt: skip
        return Trainer(model, arguments, train_dataset=TokenBlocks(tiny_ids(32, 16)), data_collator=default_data_collator)

    dense, form = sparse_pair(sink=True)
    run = trainer(form, 6)
    run.train()
    assert {p.numel() for p in run.optimizer.state} <= {p.numel() for p in form.parameters()}
    total = sum(state["exp_avg"].numel() for state in run.optimizer.state.values())
    assert total == sum(p.numel() for p in form.parameters() if p.requires_grad) < dense.num_parameters() / 2
    moved = copy.deepcopy(form).to_dense()
    assert not torch.equal(moved.lm_head.weight, dense.lm_head.weight)
    for name, parameter in moved.named_parameters():
        if parameter.dim() == 2:
            assert torch.equal(parameter != 0, dense.get_parameter(name) != 0), name
    # Checkpoints in between are ordinary ones, and resume into the sparse form bit for bit.
    again = sparse_pair(sink=True)[1]
    trainer(again, 6).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for (name, parameter), other in zip(form.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, other), name


def test_a_state_dict_of_another_support_is_refused():
    dense, form = sparse_pair()
    form.load_state_dict(dense.state_dict())
    other, _ = sparse_pair(seed=5)
    with pytest.raises(ValueError, match="has nonzeros in the checkpoint where this model, in sparse form, has none"):
        form.load_state_dict(other.state_dict())


# ------------------------------------------------------------------- what a hostile review found, each with a test of its own


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_of_the_process_does_not_matter(dtype):
    """transformers changes it while it builds a model, in whatever thread."""
    dense, form = sparse_pair(afrac=dict.fromkeys(ALL_SITES, 0.5), sink=True)
    ids = tiny_ids(2, 20)
    expected = [form(ids).logits.detach(), form.generate(ids[:1, :5], max_new_tokens=6, do_sample=False, pad_token_id=0)]
    dense(ids, labels=ids).loss.backward()
    gradient = dense.transformer.h[0].mlp.c_fc.weight.grad.clone()
    dense.zero_grad()
    torch.set_default_dtype(dtype)
    try:
        found = [form(ids).logits.detach(), form.generate(ids[:1, :5], max_new_tokens=6, do_sample=False, pad_token_id=0)]
        with torch.no_grad():
            assert torch.equal(form(ids).logits, form(ids).logits)
        dense(ids, labels=ids).loss.backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(dense.transformer.h[0].mlp.c_fc.weight.grad, gradient)


@torch.no_grad()
def test_a_cache_of_another_batch_or_model_is_refused_as_ever():
    dense, form = sparse_pair()
    ids = tiny_ids(3, 10)
    for model in (dense, form):
        cache = model(ids[:1], use_cache=True).past_key_values
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            model(ids[:, :1], past_key_values=cache)


@torch.no_grad()
def test_tensors_taken_from_a_cache_do_not_change():
    _, form = sparse_pair()
    ids = tiny_ids(1, 20)
    cache = form(ids[:, :10], use_cache=True).past_key_values
    form(ids[:, 10:11], past_key_values=cache)
    taken = [(layer.keys, layer.values, layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    cache.crop(-3)
    for i in range(4):
        form(ids[:, i : i + 1], past_key_values=cache)
    for keys, values, keys_then, values_then in taken:
        assert torch.equal(keys, keys_then)
        assert torch.equal(values, values_then)


def test_another_support_of_equal_size_is_loaded_whole():
    first, second = (sparse_pair()[0] for _ in range(2))
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if parameter.dim() == 2:
                order = torch.randperm(parameter.numel(), generator=torch.Generator().manual_seed(len(name)))
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    first, second_form = first.to_sparse(max_density=1.0), copy.deepcopy(second).to_sparse(max_density=1.0)
    ids = tiny_ids(2, 20)
    first(ids, labels=ids).loss.backward()  # makes the transposed support
    first.load_state_dict(second_form.state_dict())
    embeds = second.transformer.wte(ids).detach()
    grads = []
    for model in (first, second_form):
        leaf = embeds.clone().requires_grad_()
        model(ids, inputs_embeds=leaf, labels=ids).loss.backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)
    for (name, parameter), other in zip(first.to_dense().named_parameters(), second.parameters(), strict=True):
        assert torch.equal(parameter, other), name


@pytest.mark.parametrize("part", ["columns", "row_starts"])
def test_damaged_indices_in_a_state_dict_are_refused(part):
    _, form = sparse_pair()
    state = form.state_dict()
    state[f"lm_head.weight.{part}"] = state[f"lm_head.weight.{part}"] + 10**9
    with pytest.raises(ValueError, match=r"lm_head.weight of the state dict is damaged"):
        form.load_state_dict(state)


@torch.no_grad()
def test_positions_are_taken_as_the_modules_take_them():
    dense, form = sparse_pair(position_embedding_type="concatenated", d_pos_emb=6)
    ids = tiny_ids(2, 20)
    one = torch.tensor([[3]])
    torch.testing.assert_close(form(ids, position_ids=one).logits, dense(ids, position_ids=one).logits, atol=1e-5, rtol=1e-5)
    for model in (dense, form):
        with pytest.raises(RuntimeError):
            model(ids, position_ids=torch.arange(5)[None])
    for model in (dense, form):
        model.transformer.wpe.to(torch.bfloat16)
        for block in model.transformer.h:
            block.attn_pos_norm.to(torch.bfloat16)
            block.mlp_pos_norm.to(torch.bfloat16)
    torch.testing.assert_close(form(ids).logits, dense(ids).logits, atol=1e-3, rtol=1e-3)


def test_transformations_of_torch_func():
    dense, form = sparse_pair(afrac=dict.fromkeys(ALL_SITES, 0.5), sink=True)
    ids = tiny_ids(1, 6)
    embeds = dense.transformer.wte(ids).detach()
    direction = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(3))

    def logits(model):
        model.set_attn_implementation("eager")  # fused attention has no forward-mode derivative
        return lambda x: model(ids, inputs_embeds=x, use_cache=False).logits

    upstream = torch.randn(1, 6, 97, generator=torch.Generator().manual_seed(4))
    for model in (dense, form):
        run = logits(model)
        _, found = torch.func.jvp(run, (embeds,), (direction,))
        leaf = embeds.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((run(leaf) * upstream).sum(), leaf)  # by the kernels
        torch.testing.assert_close((found * upstream).sum(), (gradient * direction).sum(), atol=1e-3, rtol=1e-3)
        with torch.autograd.forward_ad.dual_level():
            dual = run(torch.autograd.forward_ad.make_dual(embeds, direction))
            torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, found)
    grads = []
    for model in (dense, form):
        run = logits(model)
        grads.append(torch.func.grad(lambda x, run=run: run(x).square().sum())(embeds))
    torch.testing.assert_close(*grads, atol=1e-2, rtol=1e-3)


@torch.no_grad()
def test_whoever_looks_at_a_module_sees_it_run():
    _, form = sparse_pair(dropout=0.5)
    ids = tiny_ids(1, 20)

    def differ(change, undo):
        before = form(ids).logits
        change()
        after = form(ids).logits
        undo()
        assert torch.equal(form(ids).logits, before)
        return not torch.equal(before, after)

    site = form.transformer.h[0].mlp.post_act
    form(ids)
    from collections import OrderedDict

    site._forward_hooks = OrderedDict()  # an idiom for removing all hooks
    handles = []
    assert differ(lambda: handles.append(site.register_forward_hook(lambda m, a, out: out * 0)), lambda: handles.pop().remove())
    dropout = form.transformer.h[1].mlp.dropout
    assert differ(dropout.train, dropout.eval)
    kind = type(form.transformer.h[0].mlp)
    original = kind.forward
    assert differ(
        lambda: setattr(kind, "forward", lambda self, x: original(self, x) * 0), lambda: setattr(kind, "forward", original)
    )
    norm = form.transformer.h[0].attn_norm
    assert differ(lambda: setattr(norm, "eps", 1.0), lambda: setattr(norm, "eps", 1.1920929e-07))
    mlp = form.transformer.h[0].mlp
    assert differ(lambda: setattr(mlp, "activation_type", "relu"), lambda: setattr(mlp, "activation_type", "gelu"))


def test_a_kernel_without_memory_says_so(monkeypatch):
    monkeypatch.setattr(running, "_entry", lambda kernel: (lambda job: None, 0))  # as one does that could not take its memory
    with pytest.raises(MemoryError, match="scratch space of a kernel"):
        abs_topk(torch.randn(3, 8), 2)


def test_dense_weights_are_freed():
    import gc
    import weakref

    model = sparse_pair()[0]
    with torch.no_grad():
        model(tiny_ids(1, 20))
    watched = [weakref.ref(model.transformer.h[0].mlp.c_fc.weight), weakref.ref(model.lm_head.weight)]
    model.to_sparse(max_density=1.0)
    gc.collect()
    assert not any(ref() is not None for ref in watched)


def test_what_else_is_refused():
    _, form = sparse_pair()
    with pytest.raises(TypeError, match=r"Token ids are torch.float32"):
        form.transformer.wte(torch.zeros(1, 3))
    with torch.device("meta"):
        empty = CSPForCausalLM(form.config)
    with pytest.raises(ValueError, match="has no values"):
        empty.to_sparse()


def test_numba_that_cannot_be_imported_is_no_numba():
    import subprocess
    import sys

    code = (
        "import sys, importlib.util, warnings, torch\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numba' and path is None and sys._getframe(1).f_code.co_name != 'find_spec':\n"
        "            raise ImportError('Numba needs NumPy 2.2 or less')\n"
        "import sparse_circuits.topk_csp as s\n"
        "sys.modules['numba'] = None\n"
        "importlib.util.find_spec = lambda name, *a: object()\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    assert s.abs_topk(torch.tensor([1.0, -3.0]), 1).tolist() == [0.0, -3.0]\n"
        "assert 'PyTorch serves instead' in str(seen[0].message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
