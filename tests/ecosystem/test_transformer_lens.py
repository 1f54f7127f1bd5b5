"""TransformerLens: our adapter is found by its entry point; logits and every site equal ours; weights are left alone."""

import pytest
import torch

pytest.importorskip("transformer_lens", reason="the extra `lens` is part of make test")

from importlib.metadata import entry_points

from transformer_lens.model_bridge import TransformerBridge

from sparse_circuits import CSPForCausalLM
from sparse_circuits.circuits import mean_activations
from sparse_circuits.convert.transformer_lens import CSPArchitectureAdapter, hook_name, to_transformer_lens
from tiny import ROOT, recorded, tiny_ids, tiny_model
from toy import toy_blocks, toy_circuit, toy_model, toy_task


def test_the_adapter_is_an_entry_point():
    (point,) = entry_points(group="transformer_lens.architectures", name="CSPForCausalLM")
    assert point.load() is CSPArchitectureAdapter


def test_logits_and_every_site_equal_ours(features):
    model, ids = tiny_model(**features), tiny_ids()
    model.set_attn_implementation("eager")
    logits, seen = recorded(model, ids)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    lens = to_transformer_lens(model)
    with torch.no_grad():
        found, cache = lens.run_with_cache(ids)
    assert torch.allclose(found, logits, atol=1e-5)
    for name, activation in seen.items():
        assert torch.equal(cache[hook_name(name)], activation), name
    after = {name.replace("._original_component", ""): value for name, value in lens.original_model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in weights.items())  # zeros stay zeros


def test_residual_points_have_their_usual_names():
    model, ids = tiny_model(), tiny_ids()
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    lens = to_transformer_lens(model)
    with torch.no_grad():
        _, cache = lens.run_with_cache(ids)
    for i in range(2):
        assert torch.allclose(cache[f"blocks.{i}.hook_resid_pre"], states[i], atol=1e-6)
        mid = cache[f"blocks.{i}.hook_resid_pre"] + cache[f"blocks.{i}.hook_attn_out"]
        assert torch.allclose(cache[f"blocks.{i}.hook_resid_mid"], mid, atol=1e-6)
        assert torch.allclose(cache[f"blocks.{i}.hook_resid_post"], mid + cache[f"blocks.{i}.hook_mlp_out"], atol=1e-6)


def test_hooks_change_what_comes_after():
    model, ids = tiny_model(), tiny_ids()
    site = model.node_sites()["0.mlp.post_act"]
    handle = site.register_forward_hook(lambda module, args, out: out * 0)
    with torch.no_grad():
        wanted = model(ids).logits
    handle.remove()
    lens = to_transformer_lens(model)
    with torch.no_grad():
        found = lens.run_with_hooks(ids, fwd_hooks=[(hook_name("0.mlp.post_act"), lambda value, hook: value * 0)])
        plain = lens(ids)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_a_saved_folder_boots_as_remote_code():
    """Once the adapter's module has been imported, as it is above."""
    model = CSPForCausalLM.from_pretrained(ROOT).eval()
    lens = TransformerBridge.boot_transformers(str(ROOT), trust_remote_code=True, device="cpu")
    ids = lens.to_tokens("for i in range(", prepend_bos=False)
    with torch.no_grad():
        assert torch.allclose(lens(ids), model(ids).logits, atol=1e-5)


def test_folding_is_refused_and_other_models_too():
    lens = to_transformer_lens(tiny_model())
    with pytest.raises(RuntimeError, match="does not support compatibility mode"):
        lens.enable_compatibility_mode()
    with pytest.raises(ValueError, match="is no CSP language model"):
        to_transformer_lens(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="dense weights"):
        to_transformer_lens(CSPForCausalLM.from_pretrained(ROOT, sparse=True).to_sparse(1.0))


def test_circuits_are_applied_before_the_bridge_takes_the_model():
    """The bridge wraps modules in place; the circuit's hooks are on the sites themselves and still act."""
    model = toy_model()
    circuit = toy_circuit(model, mean_activations(model, toy_blocks()))
    ids = toy_task().pairs(2).input_ids
    with circuit.applied_to(model):
        wanted = model(ids).logits
        found = to_transformer_lens(model)(ids)
    assert torch.allclose(found, wanted, atol=1e-5)
