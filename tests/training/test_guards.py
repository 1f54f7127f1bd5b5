"""What is saved has the nonzeros that are logged, or the run is refused by name before its first step."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import EarlyStoppingCallback, GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, default_data_collator
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

from runs import BLOCKS, arguments
from sparse_circuits import CSPForCausalLM, SparsityConfig, WeightSparsityCallback
from sparse_circuits.corpora.blocks import TokenBlocks
from sparse_circuits.training import measured, module_rule, project_, sparse_tensors
from tiny import tiny_model

HELD = SparsityConfig(density=0.25, min_alive=2, anneal_start=0.0, anneal_stop=0.0)
FALLING = SparsityConfig(density=0.25, min_alive=2)


def trainer_of(folder, model=None, sparsity=HELD, callbacks=(), rule=None, optimizer=None, **changes):
    return Trainer(
        model=model or tiny_model(), args=arguments(folder, **{"max_steps": 6, **changes}), train_dataset=TokenBlocks(BLOCKS),
        eval_dataset=TokenBlocks(BLOCKS[:4]), data_collator=default_data_collator, optimizers=(optimizer, None),
        callbacks=[*callbacks, WeightSparsityCallback(sparsity, rule)],
    )  # fmt: skip


def refused(trainer, match, error=ValueError):
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(error, match=match):
        trainer.train()
    assert trainer.state.global_step == 0
    return before


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"])
@pytest.mark.parametrize("sparsity", [HELD, FALLING], ids=["held", "falling"])
def test_saved_is_what_is_logged(tmp_path, name, sparsity):
    trainer = trainer_of(tmp_path, sparsity=sparsity, optim=name, save_strategy="steps", save_steps=2)
    trainer.train()
    logged = {entry["step"]: entry["l0"] for entry in trainer.state.log_history if "l0" in entry}
    for step in (2, 4, 6):
        saved = CSPForCausalLM.from_pretrained(tmp_path / f"checkpoint-{step}")
        assert measured(sparse_tensors(saved))["l0"] == logged[step]
    trainer.save_model(tmp_path / "end")
    assert measured(sparse_tensors(CSPForCausalLM.from_pretrained(tmp_path / "end")))["l0"] == logged[6]


@pytest.mark.parametrize("name", ["schedule_free_adamw", "schedule_free_sgd", "schedule_free_radam"])
def test_optimizers_that_save_an_average_are_refused(tmp_path, name):
    refused(trainer_of(tmp_path, optim=name), "saves an average of weights")


def in_backward(model):
    """An optimizer that steps inside of backward, by the hook that PyTorch's tutorial recommends."""

    def step(parameter):
        with torch.no_grad():
            parameter.sub_(0.01 * parameter.grad)

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(step)
    return torch.optim.SGD(model.parameters(), lr=0.0)


class AdaLomo(torch.optim.SGD):
    """By the name of the one in the package lomo_optim."""


@pytest.mark.parametrize("kind", ["hooks", "dummy", "lomo"])
def test_optimizers_that_step_in_backward_are_refused(tmp_path, kind):
    model = tiny_model()
    if kind == "hooks":
        optimizer = in_backward(model)
    elif kind == "dummy":
        optimizer = LayerWiseDummyOptimizer(optimizer_dict={p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()})
    else:
        optimizer = AdaLomo(model.parameters(), lr=0.1)
    refused(trainer_of(tmp_path, model, optimizer=optimizer), "inside of backward")


class Meddling(TrainerCallback):
    """Changes weights where no one looks."""

    def __init__(self, when):
        self.when = when

    def __getattribute__(self, name):
        if name.startswith("on_") and name == object.__getattribute__(self, "when"):
            return self.meddle
        return object.__getattribute__(self, name)

    def meddle(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            model.transformer.h[0].mlp.c_fc.weight.add_(0.01)


@pytest.mark.parametrize("when", ["on_step_begin", "on_substep_end", "on_pre_optimizer_step"])
def test_weights_that_change_between_steps_are_noticed_at_the_first(tmp_path, when):
    trainer = trainer_of(tmp_path, callbacks=[Meddling(when)], gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="Weights changed between two optimizer steps"):
        trainer.train()
    assert trainer.state.global_step <= 1


def test_a_checkpoint_with_more_nonzeros_than_projected_is_an_error(tmp_path):
    trainer = trainer_of(tmp_path, callbacks=[Meddling("on_step_end")], save_strategy="steps", save_steps=1)
    with pytest.raises(ValueError, match=r"c_fc.weight has 2,048 nonzeros in the checkpoint that was just saved"):
        trainer.train()


def test_early_stopping_is_refused_while_density_falls_and_fine_where_it_is_held(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "save_strategy": "no"}
    stop = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=10.0)
    refused(trainer_of(tmp_path, sparsity=FALLING, callbacks=[stop], **settings), "EarlyStoppingCallback")
    trainer = trainer_of(tmp_path, sparsity=HELD, callbacks=[stop], **settings)
    trainer.train()
    assert trainer.state.global_step < 6
    assert measured(sparse_tensors(trainer.model))["density/weights"] == pytest.approx(0.25, abs=0.01)


def test_a_run_that_ends_before_its_target_says_so(tmp_path, caplog):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = True

    from transformers.utils import logging

    logging.enable_propagation()
    try:
        trainer_of(tmp_path, sparsity=FALLING, callbacks=[Stop()]).train()
    finally:
        logging.disable_propagation()
    assert "not yet at its target 0.25" in caplog.text


@pytest.mark.parametrize("hide", ["prune", "parametrize", "weight_norm", "wrapped"])
@pytest.mark.parametrize("where", ["transformer.h.1.mlp.c_proj", "transformer.h.0.attn.c_attn", "lm_head"])
def test_a_hidden_matrix_is_refused_by_name(tmp_path, hide, where):
    model = tiny_model()
    module = model.get_submodule(where)
    if hide == "prune":
        prune.l1_unstructured(module, "weight", 0.5)
    elif hide == "parametrize":
        parametrize.register_parametrization(module, "weight", nn.Identity())
    elif hide == "weight_norm":
        nn.utils.parametrizations.weight_norm(module)
    else:
        parent, _, name = where.rpartition(".")

        class Wrapped(nn.Module):
            def __init__(self, base_layer):
                super().__init__()
                self.base_layer = base_layer

            def forward(self, x):
                return self.base_layer(x)

        setattr(model.get_submodule(parent), name, Wrapped(module))
    match = where.replace(".", r"\.") + " keeps its weight as"
    refused(trainer_of(tmp_path, model), match)
    with pytest.raises(ValueError, match=match):
        project_(model, 0.25, min_alive=0)


def test_a_rule_that_places_nothing_is_refused(tmp_path):
    refused(trainer_of(tmp_path, rule=lambda name, parameter: None), "places none of the")
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=97, n_positions=32))
    with pytest.raises(ValueError, match="places none of the"):
        project_(gpt2, 0.5, rule=lambda name, parameter: None)
    assert project_(gpt2, 0.5, min_alive=0, rule=module_rule(gpt2))


def test_quantised_weights_are_refused_by_name():
    model = tiny_model()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"lm_head\.weight is torch\.int8"):
        project_(model, 0.5, min_alive=0)


def test_a_rule_of_ones_own_may_leave_matrices_out(tmp_path):
    def only_mlps(name, parameter):
        return ("weights", None) if ".mlp." in name and parameter.dim() == 2 else None

    trainer = trainer_of(tmp_path, rule=only_mlps)
    trainer.train()
    trainer.save_model(tmp_path / "end")
    saved = load_file(tmp_path / "end" / "model.safetensors")
    for name, tensor in saved.items():
        if tensor.dim() == 2:
            assert (tensor.count_nonzero() <= tensor.numel() // 4) == (".mlp." in name), name
