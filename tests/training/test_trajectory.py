"""The whole reference training run (float64), from its initial model and batches, by the public pieces."""

import json

import pytest
import torch
from safetensors.torch import load_file

from sparse_circuits import CSPForCausalLM
from sparse_circuits.convert import read_openai_checkpoint
from sparse_circuits.training import (
    SparsityConfig,
    adamw_groups,
    normalize_gradients_,
    project_tensors_,
    sharkfin_lr,
    sparse_tensors,
)


@pytest.fixture(scope="module")
def run(reference):
    folder = reference / "training_trajectory"
    hyper = json.loads((folder / "trajectory.json").read_text())["hyper"]
    log = json.loads((folder / "trajectory.json").read_text())["log"]
    batches = load_file(folder / "batches.safetensors")["batches"].long()
    config, tensors = read_openai_checkpoint(folder, weights_file="initial_model.pt", drop_zero_positions=False)
    _, final = read_openai_checkpoint(folder, drop_zero_positions=False)
    model = CSPForCausalLM(config).double()
    model.load_state_dict(tensors)
    return hyper, log, batches, model, final


def test_reference_training_run_is_reproduced(run):
    hyper, log, batches, model, final = run
    total, width = hyper["steps"], hyper["expansion_factor"]
    sparsity = SparsityConfig(
        density=hyper["pfrac"] / width**2,
        embedding_density=hyper["pfrac"] / width,
        bias_density=1.0,
        min_alive=hyper["min_alive"],
        anneal_start=hyper["anneal_start"],
        anneal_stop=hyper["anneal_stop"],
        anneal_exponent=hyper["anneal_exponent"],
    )
    optimizer = torch.optim.AdamW(
        adamw_groups(model, hyper["weight_decay"]), lr=hyper["lr"], betas=tuple(hyper["betas"]), eps=hyper["eps"]
    )
    tensors = sparse_tensors(model)
    matrices = {t.name: t for t in tensors if t.group != "biases"}
    assert set(matrices) == set(log[0]["nonzero"])
    for step, expected in enumerate(log):
        lr = sharkfin_lr(step, total, peak=hyper["lr"], warmup=hyper["warmup"], sparsity=sparsity)
        assert lr == pytest.approx(expected["lr"], rel=1e-12, abs=0)
        densities = sparsity.densities_at(step, total)
        assert densities["weights"] == pytest.approx(expected["weight_density"], rel=1e-12)
        assert densities["embeddings"] == pytest.approx(expected["embedding_density"], rel=1e-12)
        loss = model(batches[step], labels=batches[step]).loss
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)
        optimizer.zero_grad()
        loss.backward()
        rms = normalize_gradients_(model.parameters())
        assert rms.item() == pytest.approx(expected["grad_rms"], rel=1e-6)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        project_tensors_(tensors, densities, sparsity.min_alive)
        nonzero = {name: int(t.parameter.count_nonzero()) for name, t in matrices.items()}
        assert nonzero == expected["nonzero"], f"step {step}"
    state = model.state_dict()
    for name in matrices:
        assert torch.equal(state[name] != 0, final[name] != 0), name
    for name, tensor in final.items():
        assert torch.allclose(state[name], tensor, atol=1e-6, rtol=0), name
