"""TransformerLens (4 and later; tried with 4.3.0) sees our models through the adapter here, which it finds by its entry point.

    from sparse_circuits.convert.transformer_lens import to_transformer_lens
    lens = to_transformer_lens(model, tokenizer)
    logits, cache = lens.run_with_cache(ids)
    cache["blocks.0.mlp.post_act.hook_out"]  # [batch, tokens, d_mlp]; every node site has a name of its own, as in model.node_sites()

The model runs as it is. Folding of norms and centring of weights (compatibility mode) are refused: they would fill the zeros that circuits are made of.
Attention is one component: patterns come from the model's own output_attentions, not from hook_pattern.
"""

from __future__ import annotations

from typing import Any

from ..circuits.sites import require_csp
from ..hub import require
from ..wiring_csp import EMBEDDING, FINAL, LOCATIONS, NODE_LOCATIONS, UNEMBEDDING
from .activations import hook_names

try:
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
    from transformer_lens.model_bridge.generalized_components import EmbeddingBridge, OpaqueBlockBridge, UnembeddingBridge
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
except ModuleNotFoundError:
    require("transformer_lens", "views of a model by TransformerLens")
    raise


def _inside(part: str) -> dict[str, GeneralizedComponent]:
    """The node sites in a part of a block, "attn" or "mlp"."""
    paths = [LOCATIONS[name].path for name in NODE_LOCATIONS]
    return {
        path.removeprefix(f"{part}."): _site(path.removeprefix(f"{part}.")) for path in paths if path.startswith(f"{part}.")
    }


class CSPArchitectureAdapter(ArchitectureAdapter):
    """Maps TransformerLens names onto our modules; each node site is a component with `hook_out`.

    Residual points: `blocks.i.resid_in`, `blocks.i.resid_mid` and `blocks.i.resid_post`, aliased as TransformerLens calls them.
    """

    supports_compatibility_mode = False
    supports_fold_ln = False

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.cfg.normalization_type = "RMS" if getattr(cfg, "norm_type", "rms_norm") == "rms_norm" else "LN"
        self.cfg.positional_embedding_type = "standard"
        self.cfg.gated_mlp = False
        self.cfg.attn_only = False
        self.cfg.tokenizer_name = None  # ours is a note on where it came from; TransformerLens would load a tokenizer by it
        self.weight_processing_conversions = {}
        self.component_mapping = {
            "embed": EmbeddingBridge(name=f"transformer.{EMBEDDING}"),
            "blocks": OpaqueBlockBridge(
                name="transformer.h",
                submodules={
                    "resid_in": _site("resid_in"),
                    "ln1": _site("attn_norm"),
                    "attn": GeneralizedComponent("attn", submodules=_inside("attn")),
                    "resid_mid": _site(LOCATIONS["resid_post_attn"].path),
                    "ln2": _site("mlp_norm"),
                    "mlp": GeneralizedComponent("mlp", submodules=_inside("mlp")),
                    "resid_post": _site(LOCATIONS["resid_post_mlp"].path),
                },
                hook_alias_overrides={
                    "hook_resid_mid": f"{LOCATIONS['resid_post_attn'].path}.hook_out",
                    "hook_attn_out": f"{LOCATIONS['attn_out'].path}.hook_out",
                    "hook_mlp_out": f"{LOCATIONS['mlp_out'].path}.hook_out",
                },
            ),
            "ln_final": _site("transformer.final_norm"),
            FINAL: _site(f"transformer.{FINAL}"),
            "unembed": UnembeddingBridge(name=UNEMBEDDING),
        }


# TransformerBridge.boot_transformers asks this list, which entry points do not reach (4.3.0): it works once this module has been imported.
SUPPORTED_ARCHITECTURES.setdefault("CSPForCausalLM", CSPArchitectureAdapter)


def to_transformer_lens(model: Any, tokenizer: Any = None) -> Any:
    """A TransformerBridge around a model. The bridge takes the model over: its modules are wrapped in place.

    Raises:
        ValueError: for a model that is none of ours, or that holds its weights as nonzeros.
    """
    if require_csp(model).is_sparse:
        raise ValueError("TransformerLens reads dense weights; load the model without sparse=True, or call to_dense().")
    return build_bridge_from_module(
        model, "CSPForCausalLM", hf_config=model.config, tokenizer=tokenizer, model_name=model.config._name_or_path or "csp"
    )


def _site(name: str) -> GeneralizedComponent:
    return GeneralizedComponent(name)


def hook_name(site: str) -> str:
    """TransformerLens' name of a node site's activations: "3.mlp.post_act" -> "blocks.3.mlp.post_act.hook_out"."""
    return hook_names(site)["transformer_lens"]
