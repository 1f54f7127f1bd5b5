"""Tiny models with fixed seeds, one for every feature of the architecture."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from sparse_circuits import CSPConfig, CSPForCausalLM
from sparse_circuits.wiring_csp import LOCATIONS
from sparse_circuits.wiring_csp import NODE_LOCATIONS as ALL_SITES

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "tests" / "reference"

TINY = {"vocab_size": 97, "block_size": 64, "n_layer": 2, "n_head": 4, "d_head": 8, "d_model": 32, "d_mlp": 64}

# Every feature of the architecture at least once; names are the tests' ids.
FEATURES = {
    "plain": {},
    "sink": {"sink": True},
    "abs_topk": {"afrac": dict.fromkeys(ALL_SITES, 0.25)},
    "added": {"position_embedding_type": "added"},
    "concatenated": {"position_embedding_type": "concatenated", "d_pos_emb": 6, "sink": True},
    "sinusoidal": {"position_embedding_type": "added", "sinusoidal_positions": True},
    "bigram": {"enable_bigram_table": True, "bigram_padding_idx": 96},
    "layer_norm_relu": {
        "norm_type": "layer_norm",
        "activation_type": "relu",
        "residual_activation_type": "relu",
        "bias": False,
    },
    "gpt2": {
        "position_embedding_type": "added",
        "norm_type": "layer_norm",
        "activation_type": "gelu_tanh",
        "tie_word_embeddings": True,
    },
    "tied": {"tie_word_embeddings": True},
    "everything": {
        "sink": True,
        "position_embedding_type": "concatenated",
        "d_pos_emb": 6,
        "enable_bigram_table": True,
        "afrac": {**dict.fromkeys([each for each in LOCATIONS if each != "resid_pre"], 0.75), **dict.fromkeys(ALL_SITES, 0.5)},
    },
}
# As sparse_pretrain has it; fused blocks do not know the first, and are tested without (test_fused.py).
STREAM = {"afrac": {"resid_pre": 0.75, "resid_post_attn": 0.75, **dict.fromkeys(ALL_SITES, 0.5)}}


def tiny_config(**overrides) -> CSPConfig:
    return CSPConfig(**{**TINY, **overrides})


def tiny_model(seed: int = 0, **overrides) -> CSPForCausalLM:
    """A tiny model in eval mode whose every parameter is random (no zeros that could hide a missing term)."""
    generator = torch.Generator().manual_seed(seed)
    model = CSPForCausalLM(tiny_config(**overrides)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "wpe" not in name or parameter.requires_grad:  # frozen sinusoids stay what they are
                noise = torch.randn(parameter.shape, generator=generator) * (0.2 if parameter.dim() > 1 else 0.1)
                parameter.copy_(1 + noise if name.endswith("norm.weight") else noise)
    model.tie_weights()
    return model


def tiny_ids(batch: int = 3, tokens: int = 17, vocab: int = 97, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, vocab, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def recorded(model, ids):
    """(logits, site -> activations) of a plain pass under plain hooks."""
    seen = {}
    keep = lambda name: lambda module, args, out: seen.__setitem__(name, out.detach().clone())  # noqa: E731
    handles = [site.register_forward_hook(keep(name)) for name, site in model.node_sites().items()]
    with torch.no_grad():
        logits = model(ids).logits
    for handle in handles:
        handle.remove()
    return logits, seen


def without_kernels(patch) -> None:
    """Leaves PyTorch alone to serve, as where Numba is not installed; patch: pytest's monkeypatch."""
    import sparse_circuits.kernels.run as run
    import sparse_circuits.topk_csp as topk

    patch.setattr(topk, "kernels_wanted", lambda: False)
    patch.setattr(run, "available", lambda: False)


def thinned(share=0.1, **features):
    model = tiny_model(**features)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "bigram" not in name and parameter.requires_grad:
                parameter.mul_((torch.rand(parameter.shape, generator=generator) < share).float().add(0.0))
                parameter[parameter == 0] = 0.0
    return model


def sparse_pair(share=0.3, seed=0, **features):
    """The same model, dense and with every matrix as nonzeros."""
    dense = tiny_model(seed, **features)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            if parameter.dim() == 2 and "bigram" not in name:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) < share)
    return dense, copy.deepcopy(dense).to_sparse(max_density=1.0)
