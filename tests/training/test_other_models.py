"""Weight-sparse training of models that are not ours: GPT-2 (Conv1D) and Llama (Linear)."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from sparse_circuits import SparsityConfig, WeightSparsityCallback, project_
from sparse_circuits.corpora.blocks import TokenBlocks
from sparse_circuits.training import module_rule, sparse_tensors
from tiny import tiny_ids

GPT2_NEURONS = {"mlp.c_fc": "outputs", "attn.c_attn": "outputs", "c_proj": "inputs"}
LLAMA_NEURONS = {"gate_proj": "outputs", "up_proj": "outputs", "down_proj": "inputs"}


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )


@pytest.mark.parametrize(("make", "neurons"), [(gpt2, GPT2_NEURONS), (llama, LLAMA_NEURONS)])
def test_stock_trainer_and_callback(make, neurons, tmp_path):
    model = make()
    rule = module_rule(model, neurons)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=6, learning_rate=0.01, per_device_train_batch_size=4, report_to="none", save_strategy="no", max_grad_norm=0.0,
        lr_scheduler_type="linear", disable_tqdm=True, logging_steps=2, use_cpu=True,
    )  # fmt: skip
    sparsity = SparsityConfig(density=0.25, min_alive=3, anneal_start=0.0, anneal_stop=0.5)
    trainer = Trainer(
        model, arguments, train_dataset=TokenBlocks(tiny_ids(24, 16)), data_collator=default_data_collator,
        callbacks=[WeightSparsityCallback(sparsity, rule)],
    )  # fmt: skip
    trainer.train()
    for tensor in sparse_tensors(model, rule):
        assert int(tensor.parameter.count_nonzero()) <= int(0.25 * tensor.parameter.numel()), tensor.name
        if tensor.neuron_dim is not None:
            alive = (tensor.parameter != 0).sum(1 - tensor.neuron_dim)
            assert int(alive.min()) >= 3, tensor.name
    assert trainer.state.log_history[0]["l0"] > 0


def test_orientation_follows_from_the_class_and_the_declaration():
    found = {
        t.name.removeprefix("transformer.h.0."): (t.group, t.neuron_dim)
        for t in sparse_tensors(gpt2(), module_rule(gpt2(), GPT2_NEURONS))
    }
    assert found["attn.c_attn.weight"] == ("weights", 1)  # Conv1D holds [inputs, outputs]
    assert found["attn.c_proj.weight"] == found["mlp.c_proj.weight"] == ("weights", 0)
    assert found["mlp.c_fc.bias"] == ("biases", None)
    assert found["transformer.wte.weight"] == ("embeddings", None)
    assert not any("ln" in name for name in found)
    found = {t.name: (t.group, t.neuron_dim) for t in sparse_tensors(llama(), module_rule(llama(), LLAMA_NEURONS))}
    assert found["model.layers.0.mlp.up_proj.weight"] == ("weights", 0)
    assert found["model.layers.0.mlp.down_proj.weight"] == ("weights", 1)
    assert found["model.layers.0.self_attn.q_proj.weight"] == ("weights", None)
    assert found["lm_head.weight"] == ("embeddings", None)


def test_wrong_declarations_are_named():
    with pytest.raises(ValueError, match="'c_up', which no Linear or Conv1D"):
        module_rule(gpt2(), {"c_up": "outputs"})
    with pytest.raises(ValueError, match="'rows'; a linear map's neurons"):
        module_rule(gpt2(), {"c_fc": "rows"})
    with pytest.raises(ValueError, match=r"pass a rule .* such as module_rule"):
        project_(gpt2(), 0.5)
