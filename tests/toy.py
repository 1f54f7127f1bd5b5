"""A weight-sparse model whose quote-closing circuit is known exactly, because it is set by hand."""

from __future__ import annotations

import torch

from sparse_circuits import CSPConfig, CSPForCausalLM
from sparse_circuits.circuits import Circuit, Means, PruneConfig, edges_in, make_task
from sparse_circuits.circuits.identity import identify, tokenizer_sha256

WORDS = [f"w{i}" for i in range(12)]
TOKENS = ["('", '("', "')", '")', *WORDS]

# What the paper finds for string closing: 12 nodes, 9 edges; two neurons of layer 0 (quote detector, quote type), one head that copies the type.
NODES = {
    "0.mlp.act_in": [0, 1], "0.mlp.post_act": [0, 1], "0.mlp.resid_delta": [2, 3], "1.attn.act_in": [2, 3], "1.attn.k": [0],
    "1.attn.v": [0], "1.attn.resid_delta": [4], "final_resid": [4],
}  # fmt: skip
EDGES = {
    "0.mlp.act_in->0.mlp.post_act": {(0, 0), (1, 0), (0, 1), (1, 1)},
    "0.mlp.post_act->0.mlp.resid_delta": {(0, 2), (1, 3)},
    "1.attn.act_in->1.attn.k": {(2, 0)},
    "1.attn.act_in->1.attn.v": {(3, 0)},
    "1.attn.v->1.attn.resid_delta": {(0, 4)},
}


class ToyTokenizer:
    """One token per word between blanks."""

    pad_token_id = 15

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [TOKENS.index(word) for word in text.split()]

    def decode(self, ids) -> str:
        return " ".join(TOKENS[int(i)] for i in ids)

    def get_vocab(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(TOKENS)}


def quotes(values, wording):
    """Close the quote that was opened."""
    words = " ".join(values.random.choices(WORDS, k=values.random.randint(18, 24)))
    return (f"(' {words}", " ')"), (f'(" {words}', ' ")')


def toy_task():
    return make_task("quotes", quotes, ToyTokenizer())


@torch.no_grad()
def toy_model(kind: str = "plain") -> CSPForCausalLM:
    """kind: "plain"; "redundant": a second head does the same; "distractor": a second head copies the type to where nothing reads it,
    and a neuron of layer 1 reacts to quotes and writes beside it."""
    config = CSPConfig(vocab_size=16, block_size=64, n_layer=2, n_head=2, d_head=4, d_model=8, d_mlp=4, activation_type="relu")
    model = CSPForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    embedding, head = model.transformer.wte.weight, model.lm_head.weight
    embedding[0, 0] = embedding[1, 1] = 1.0
    embedding[2:, 7] = 1.0
    level = 8**0.5  # what the norm makes of a 1 among eight channels
    mlp = model.transformer.h[0].mlp
    mlp.c_fc.weight[0, 0] = mlp.c_fc.weight[0, 1] = 1.0  # neuron 0: a quote is opened
    mlp.c_fc.weight[1, 0], mlp.c_fc.weight[1, 1] = 1.0, -1.0  # neuron 1: which
    mlp.c_fc.bias[1] = level
    mlp.c_proj.weight[2, 0] = mlp.c_proj.weight[3, 1] = 1.0
    mlp.c_proj.bias[3] = -level
    _copying_head(model, 0, 4)
    if kind == "redundant":
        _copying_head(model, 1, 4)
    if kind == "distractor":
        _copying_head(model, 1, 5)
        late = model.transformer.h[1].mlp
        late.c_fc.weight[0, 2], late.c_proj.weight[6, 0] = 1.0, 0.5
    head[2, 4], head[3, 4] = 1.0, -1.0
    return model


def _copying_head(model: CSPForCausalLM, which: int, channel: int) -> None:
    """Attends to the quote (channel 2) and writes its type (channel 3) to `channel`."""
    attn, at = model.transformer.h[1].attn, 4 * which
    attn.c_attn.bias[at] = 4.0  # q, constant: at its mean it is what it was
    attn.c_attn.weight[8 + at, 2] = 6.0
    attn.c_attn.weight[16 + at, 3] = 1.0
    attn.c_proj.weight[channel, at] = 1.0


def toy_blocks(count: int = 64, tokens: int = 24, seed: int = 0) -> torch.Tensor:
    """A corpus: strings as in the task, quotes at the start."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(4, 16, (count, tokens), generator=generator)
    blocks[:, 0] = torch.randint(0, 2, (count,), generator=generator)
    return blocks


def toy_circuit(model, means: Means, nodes=None, task="quotes") -> Circuit:
    """The known circuit, or one with other nodes, as `prune` would return it."""
    chosen = {site: torch.tensor(indices) for site, indices in (nodes or NODES).items()}
    return Circuit(
        task=task, nodes=chosen, edges=edges_in(model, chosen), means=means.values,
        widths={name: site.width for name, site in model.node_sites().items()}, model=identify(model),
        tokenizer=tokenizer_sha256(ToyTokenizer()), settings={"means": {"tokens": means.count}, "steps": 5},
        metrics={"curve": [[12, 0.01], [4, 0.5], [8, 0.2]], "history": [[0, 0.7, 50], [100, 0.1, 20]], "circuit": {"loss": 0.01}},
    )  # fmt: skip


# Enough to find the circuit that toy models were built around.
CONFIG = PruneConfig(steps=30, pairs=8, eval_pairs=32)
