"""Models in sparse form: equal to dense ones in every feature, observed as they are, trainable on their support."""

import copy

import pytest
import torch
from transformers import Trainer, TrainingArguments, default_data_collator, pipeline

from sparse_circuits import CSPForCausalLM, SparsityConfig, WeightSparsityCallback
from sparse_circuits.corpora.blocks import TokenBlocks
from sparse_circuits.nonzeros_csp import SparseLinear, SparseMatrix
from tiny import ALL_SITES, ROOT, sparse_pair, tiny_ids, tiny_model, without_kernels

# ------------------------------------------------------------------------------------------------------------- products


# --------------------------------------------------------------------------------------------------------------- models


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
    assert len(out.hidden_states) == form.config.n_layer + 1
    form.set_attn_implementation("eager")
    assert form(tiny_ids(1, 8), output_attentions=True).attentions[0].shape == (1, form.config.n_head, 8, 8)


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
