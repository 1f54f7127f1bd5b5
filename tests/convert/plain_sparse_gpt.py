"""Models in sparse_pretrain's format, made from its description, and what the project's forward pass says of them, written down anew."""

import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

MODEL = {
    "n_layer": 2, "d_model": 32, "n_ctx": 24, "d_head": 8, "d_mlp": None, "vocab_size": 50, "use_rms_norm": True, "tie_embeddings": False,
    "use_positional_embeddings": False, "use_bigram_table": True, "use_attention_sinks": True, "activation": "gelu", "dropout": 0.0, "use_bias": True,
    "use_flash_attention": True,
}  # fmt: skip
SPARSITY = {
    "enable_weight_sparsity": True, "target_l0_fraction": 0.015625, "enable_activation_sparsity": True, "activation_topk_fraction": 0.25,
    "activation_sparsity_locations": "attn_in,attn_out,mlp_in,mlp_out,mlp_neuron,attn_v,attn_k,attn_q",
}  # fmt: skip


def state_dict(model, seed=0):
    """Random weights, a third of them zero, under the project's names."""
    generator = torch.Generator().manual_seed(seed)
    d, heads, mlp, vocab = (
        model["d_model"],
        model["d_model"] // model["d_head"],
        model["d_mlp"] or 4 * model["d_model"],
        model["vocab_size"],
    )
    found = {}

    def random(name, *shape, at=0.0):
        values = torch.randn(shape, generator=generator) * 0.3
        found[name] = at + values * (torch.rand(shape, generator=generator) < 0.66) if len(shape) > 1 else at + values

    random("wte.weight", vocab, d)
    if model["use_positional_embeddings"]:
        random("wpe.weight", model["n_ctx"], d)
    for i in range(model["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            random(f"blocks.{i}.{norm}.weight", d, at=1.0)
            if not model["use_rms_norm"]:
                random(f"blocks.{i}.{norm}.bias", d)
        for name, rows, columns in (
            ("attn.c_attn", 3 * d, d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", mlp, d),
            ("mlp.c_proj", d, mlp),
        ):
            random(f"blocks.{i}.{name}.weight", rows, columns)
            if model["use_bias"]:
                random(f"blocks.{i}.{name}.bias", rows)
        if model["use_attention_sinks"]:
            random(f"blocks.{i}.attn.attn_fn.sink_logit", heads)
        if not model["use_flash_attention"]:
            found[f"blocks.{i}.attn.causal_mask"] = torch.tril(torch.ones(model["n_ctx"], model["n_ctx"]))[None, None]
    random("ln_f.weight", d, at=1.0)
    if not model["use_rms_norm"]:
        random("ln_f.bias", d)
    random("lm_head.weight", vocab, d)
    if model["tie_embeddings"]:
        found["lm_head.weight"] = found["wte.weight"]
    if model["use_bigram_table"]:
        random("bigram_table", vocab, vocab)
    return found


def plain_logits(weights, model, sparsity, ids):
    """What the project's forward pass says, written down anew."""
    w, d_head = weights, model["d_head"]
    places = sparsity["activation_sparsity_locations"].split(",") if sparsity["enable_activation_sparsity"] else []

    def keep(x, place):
        if place not in places:
            return x
        k = max(1, int(x.shape[-1] * sparsity["activation_topk_fraction"]))
        kept = torch.zeros_like(x)
        at = x.abs().topk(k, dim=-1).indices
        return kept.scatter(-1, at, x.gather(-1, at))

    def norm(x, name):
        if model["use_rms_norm"]:
            return x * (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).rsqrt() * w[f"{name}.weight"]
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    x = w["wte.weight"][ids]
    if "wpe.weight" in w:
        x = x + w["wpe.weight"][: ids.shape[1]]
    batch, tokens = ids.shape
    for i in range(model["n_layer"]):
        name, x = f"blocks.{i}", keep(x, "resid_pre")
        a = keep(norm(x, f"{name}.ln_1"), "attn_in")
        q, k, v = (keep(part, f"attn_{kind}") for part, kind in zip(linear(a, f"{name}.attn.c_attn").chunk(3, -1), "qkv"))
        q, k, v = (part.view(batch, tokens, -1, d_head).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(2, 3) / math.sqrt(d_head)).masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -math.inf)
        if model["use_attention_sinks"] and model["use_flash_attention"]:
            sink = w[f"{name}.attn.attn_fn.sink_logit"][None, :, None, None].expand(batch, -1, tokens, 1)
            weights_ = torch.cat([sink, scores], -1).softmax(-1)[..., 1:]
        else:
            weights_ = scores.softmax(-1)
        y = (weights_ @ v).transpose(1, 2).reshape(batch, tokens, -1)
        x = keep(x + keep(linear(y, f"{name}.attn.c_proj"), "attn_out"), "resid_mid")
        h = linear(keep(norm(x, f"{name}.ln_2"), "mlp_in"), f"{name}.mlp.c_fc")
        h = keep(F.gelu(h) if model["activation"] == "gelu" else h.relu(), "mlp_neuron")
        x = x + keep(linear(h, f"{name}.mlp.c_proj"), "mlp_out")
    logits = norm(x, "ln_f") @ w["lm_head.weight"].T
    return logits + w["bigram_table"][ids] if "bigram_table" in w else logits


def write(folder, model=None, sparsity=None, weights=None, safe=False):
    model, sparsity = {**MODEL, **(model or {})}, {**SPARSITY, **(sparsity or {})}
    folder.mkdir(parents=True, exist_ok=True)
    document = {"model_config": model, "sparsity_config": sparsity, "training_config": {"tokenizer_name": "of/stories"}}
    (folder / "config.json").write_text(json.dumps(document))
    weights = state_dict(model) if weights is None else weights
    if safe:
        save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return model, sparsity, weights
