"""The losses of bridge training, one by one (docs/method.md#bridges)."""

from __future__ import annotations

import torch

from .bridge import BridgeConfig, Bridges
from .hybrids import next_token_loss, nmse, stream, tails_kl
from .sides import Side


def bridge_losses(
    dense: Side, sparse: Side, bridges: Bridges, ids: torch.Tensor, config: BridgeConfig
) -> dict[str, torch.Tensor]:
    """Every term on token ids [batch, tokens], unweighted, and `loss`, their weighted sum.

    pretraining: next-token loss of the sparse model. nmse_encode / nmse_decode / kl_encode / kl_decode: sums over points;
    encode: dense stream into the sparse model, decode: the other way. Terms without weight are not computed.
    """
    with torch.no_grad():
        dense_stream, wanted = stream(dense, ids)
    sparse_stream, logits = stream(sparse, ids)
    encoded = [bridges.encode(i, x) for i, x in enumerate(dense_stream)]
    decoded = [bridges.decode(i, x) for i, x in enumerate(sparse_stream)]
    terms: dict[str, torch.Tensor] = {}
    if config.pretraining:
        terms["pretraining"] = next_token_loss(logits, ids)
    if config.nmse:
        targets = sparse_stream if config.nmse_moves_sparse else [x.detach() for x in sparse_stream]
        terms["nmse_encode"] = torch.stack([nmse(f, h) for f, h in zip(encoded, targets)]).sum()
        terms["nmse_decode"] = torch.stack([nmse(g, h) for g, h in zip(decoded, dense_stream)]).sum()
    if config.kl:
        terms["kl_encode"] = tails_kl(sparse, encoded, ids, wanted).sum()
        terms["kl_decode"] = tails_kl(dense, decoded, ids, wanted).sum()
    weights = {"pretraining": config.pretraining, "nmse": config.nmse, "kl": config.kl}
    total = torch.stack([weights[name.partition("_")[0]] * term for name, term in terms.items()]).sum()
    return {**terms, "loss": total}
