"""Small good models of other projects, which `csp convert` reads: for the doors."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def make_gpt2(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=16, vocab_size=97, bos_token_id=0, eos_token_id=0)
    )
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def make_nanogpt(folder: Path) -> None:
    args = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 16, "bias": False, "vocab_size": 97, "dropout": 0.0}
    generator = torch.Generator().manual_seed(0)
    shapes = {"wte": (97, 8), "wpe": (16, 8), "h.0.ln_1": (8,), "h.0.ln_2": (8,), "ln_f": (8,), "h.0.attn.c_attn": (24, 8), "h.0.attn.c_proj": (8, 8),
              "h.0.mlp.c_fc": (32, 8), "h.0.mlp.c_proj": (8, 32)}  # fmt: skip
    weights = {f"transformer.{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    torch.save(
        {"model": weights, "model_args": args, "iter_num": 3, "best_val_loss": torch.tensor(1.5), "config": {"out_dir": "out"}},
        folder / "ckpt.pt",
    )


def make_sparse_pretrain(folder: Path) -> None:
    model = {
        "n_layer": 1, "d_model": 8, "n_ctx": 16, "d_head": 4, "d_mlp": 16, "vocab_size": 97, "use_rms_norm": True, "tie_embeddings": False, "use_positional_embeddings": False,
        "use_bigram_table": False, "use_attention_sinks": True, "activation": "gelu", "dropout": 0.0, "use_bias": False, "use_flash_attention": True,
    }  # fmt: skip
    sparsity = {
        "enable_weight_sparsity": True,
        "target_l0_fraction": 0.5,
        "enable_activation_sparsity": True,
        "activation_topk_fraction": 0.5,
        "activation_sparsity_locations": "attn_in,mlp_neuron",
    }
    generator = torch.Generator().manual_seed(0)
    shapes = {"wte.weight": (97, 8), "lm_head.weight": (97, 8), "ln_f.weight": (8,), "blocks.0.ln_1.weight": (8,), "blocks.0.ln_2.weight": (8,), "blocks.0.attn.c_attn.weight": (24, 8),
              "blocks.0.attn.c_proj.weight": (8, 8), "blocks.0.mlp.c_fc.weight": (16, 8), "blocks.0.mlp.c_proj.weight": (8, 16), "blocks.0.attn.attn_fn.sink_logit": (2,)}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_config": model, "sparsity_config": sparsity}))
    torch.save({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}, folder / "pytorch_model.bin")


def make_bridged_sparse_pretrain(folder: Path) -> None:
    """A sparse model with bridges, its dense model and their tokenizer beside it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    for name in ("dense", "words"):
        (folder / name).mkdir()
    for part in (folder, folder / "dense"):
        make_sparse_pretrain(part)
    (folder / "pytorch_model.bin").rename(folder / "sparse_model.bin")
    found = json.loads((folder / "config.json").read_text())
    sparsity = {"activation_sparsity_locations": found["sparsity_config"].pop("activation_sparsity_locations")}
    found["bridges_config"] = {"encoder_afrac": 0.5, "d_dense": "of/dense"}
    (folder / "config.json").write_text(json.dumps(found))
    (folder / "training_config.yaml").write_text(json.dumps({"sparse_model": {"n_layer": 1}, "sparsity": sparsity}))
    generator = torch.Generator().manual_seed(1)
    shapes = {"weight": (8, 8), "bias": (8,)}
    names = [(i, part, kind) for i in range(3) for part in ("encoder", "decoder") for kind in shapes]
    torch.save(
        {f"bridges.{i}.{part}.linear.{kind}": torch.randn(shapes[kind], generator=generator) for i, part, kind in names},
        folder / "bridges.bin",
    )
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(96)} | {"[UNK]": 96}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder / "words")
