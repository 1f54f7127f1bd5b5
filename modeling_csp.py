"""Weight-sparse GPT-2-style decoder (Gao et al. 2025, arXiv 2511.13653), as a Hugging Face model.

How it deviates from GPT-2: RMSNorm; untied embeddings; no position embedding by default (or one that is concatenated to the
input of each sublayer instead of added); AbsTopK on activations at named node sites; an attention sink; a dense bigram table
added to the logits. Its weights are trained to be almost all zero (see `training/`), which this file need not know.

Every node site is a small module whose output is the activation of its nodes, so that plain forward hooks see and change
every node: `model.node_sites()` lists them in forward order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple

from .attention_csp import (
    MASK_TAKES_POSITION,
    OUTPUT_CACHE,
    PACKING,
    attention_function,
    causal_mask,
    keep,
    one_cache,
    packed_positions,
    refuse_unknown_keywords,
    sdpa_attention_forward,
)  # fmt: skip
from .configuration_csp import CSPConfig
from .sparse_form_csp import SparseForm
from .topk_csp import NodeSite, kernels
from .wiring_csp import FINAL, LOCATIONS, NODE_LOCATIONS, TABLE_WEIGHT, site

if TYPE_CHECKING:  # never run; but transformers 4.57 copies, of remote code, only the files that this one names
    from .nonzeros_csp import SparseMatrix  # noqa: F401
    from .sparse_file_csp import Stored  # noqa: F401

try:  # transformers 5
    from transformers import initialization as init
except ImportError:  # 4.57
    from torch.nn import init  # type: ignore[no-redef]
try:
    from transformers.utils.generic import merge_with_config_defaults
    from transformers.utils.output_capturing import capture_outputs
except ImportError:  # 4.57: one decorator did both
    from transformers.utils.generic import check_model_inputs

    def merge_with_config_defaults(forward):
        return forward

    def capture_outputs(forward):  # type: ignore[misc]
        return check_model_inputs()(forward)  # type: ignore[call-arg]


RMS_NORM_EPS = 1.1920929e-07  # float32 epsilon, whatever the dtype: torch's own default follows the input
LAYER_NORM_EPS = 1e-5


class BigramTable(nn.Module):
    """Logits added for each current token, [vocab, vocab]: the model's only dense matrix, exempt from sparsity and decay.

    The parameter is named a bias, which it is (of the logits, by token), so that the stock Trainer leaves it undecayed.
    """

    def __init__(self, vocab_size: int, padding_idx: int | None):
        super().__init__()
        self.padding_idx = padding_idx
        self.logit_bias = nn.Parameter(torch.zeros(vocab_size, vocab_size))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(input_ids, self.logit_bias, padding_idx=self.padding_idx)


def make_norm(config: CSPConfig, width: int) -> nn.Module:
    if config.norm_type == "rms_norm":
        return nn.RMSNorm(width, eps=RMS_NORM_EPS)
    return nn.LayerNorm(width, eps=LAYER_NORM_EPS, bias=config.ln_bias)


def activate(kind: str, x: torch.Tensor) -> torch.Tensor:
    if kind in ("gelu", "gelu_tanh"):
        return F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")
    return F.relu(x) if kind == "relu" else x


class CSPAttention(nn.Module):
    """Norm'd residual -> act_in -> q, k, v -> attention with an optional sink -> c_proj -> resid_delta."""

    def __init__(self, config: CSPConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.d_head = config.d_head
        self.scaling = config.d_head**-0.5
        width = config.n_head * config.d_head
        self.act_in = NodeSite(config, "attn_in")
        self.c_attn = nn.Linear(config.location_width("attn_in"), 3 * width, bias=config.bias)  # rows: q, k, v
        self.q = NodeSite(config, "attn_q")  # top-k over all heads pooled
        self.k = NodeSite(config, "attn_k")
        self.v = NodeSite(config, "attn_v")
        # Main difference to GPT-2's attention: the logit of one always-visible key of value zero, per head. (Named a bias,
        # of the softmax denominator, so that the stock Trainer does not decay it.)
        self.sink_bias = nn.Parameter(torch.zeros(config.n_head)) if config.sink else None
        self.c_proj = nn.Linear(width, config.d_model, bias=config.bias)
        self.c_proj.writes_residual = True  # type: ignore[assignment]
        self.dropout = nn.Dropout(config.dropout)
        self.resid_delta = NodeSite(config, "attn_out")

    def forward(
        self,
        hidden_states: torch.Tensor,  # (batch, tokens, d_model + d_pos_emb), after the norm
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        a = self.act_in(hidden_states)
        q, k, v = self.c_attn(a).chunk(3, dim=-1)
        q, k, v = (self._split_heads(x) for x in (self.q(q), self.k(k), self.v(v)))
        if isinstance(past_key_values, Cache):
            # The third argument is read by 4.57's static cache only.
            k, v = past_key_values.update(k, v, self.layer_idx, {"cache_position": kwargs.get("cache_position")})
        elif past_key_values is not None:  # of continuous batching: reads and writes by the indices that came with it
            k, v = past_key_values.update(key_states=k, value_states=v, layer_idx=self.layer_idx, kwargs=kwargs)
        # transformers looks for ALL_ATTENTION_FUNCTIONS.get_interface( or, in 4.57, eager_attention_forward and
        # ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation] in this file before it allows set_attn_implementation.
        attend = attention_function(self.config)
        if self.sink_bias is not None:
            kwargs["s_aux"] = self.sink_bias
        dropout = self.config.dropout if self.training else 0.0
        y, weights = attend(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        y = y.reshape(*hidden_states.shape[:-1], -1)  # (batch, tokens, heads * d_head); not a node
        return self.resid_delta(self.dropout(self.c_proj(y))), weights

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], -1, self.d_head).transpose(1, 2)  # (batch, heads, tokens, d_head)


class CSPMLP(nn.Module):
    """Norm'd residual -> act_in -> c_fc -> activation -> post_act -> c_proj -> resid_delta."""

    def __init__(self, config: CSPConfig):
        super().__init__()
        self.activation_type = config.activation_type
        self.act_in = NodeSite(config, "mlp_in")
        self.c_fc = nn.Linear(config.location_width("mlp_in"), config.d_mlp, bias=config.bias)
        self.post_act = NodeSite(config, "mlp_neuron")
        self.c_proj = nn.Linear(config.d_mlp, config.d_model, bias=config.bias)
        self.c_proj.writes_residual = True  # type: ignore[assignment]
        self.dropout = nn.Dropout(config.dropout)
        self.resid_delta = NodeSite(config, "mlp_out")

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        h = self.post_act(activate(self.activation_type, self.c_fc(self.act_in(hidden_states))))
        return self.resid_delta(self.dropout(self.c_proj(h)))


class CSPBlock(GradientCheckpointingLayer):
    def __init__(self, config: CSPConfig, layer_idx: int):
        super().__init__()
        self.residual_activation_type = config.residual_activation_type
        cat = config.position_embedding_type == "concatenated"
        self.resid_in = NodeSite(config, "resid_pre")  # resid_in, resid_mid and resid_post are hook points, not nodes
        self.attn_norm = make_norm(config, config.d_model)
        self.attn_pos_norm = make_norm(config, config.d_pos_emb) if cat else None
        self.attn = CSPAttention(config, layer_idx)
        self.resid_mid = NodeSite(config, "resid_post_attn")
        self.mlp_norm = make_norm(config, config.d_model)
        self.mlp_pos_norm = make_norm(config, config.d_pos_emb) if cat else None
        self.mlp = CSPMLP(config)
        self.resid_post = NodeSite(config, "resid_post_mlp")

    def forward(
        self,
        hidden_states: torch.Tensor,  # (batch, tokens, d_model)
        positions: torch.Tensor | None = None,  # (batch or 1, tokens, d_pos_emb), concatenated kind only
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        fast = None if torch.is_grad_enabled() or self.training else kernels()
        given = (hidden_states, positions, attention_mask, past_key_values, kwargs, sdpa_attention_forward)
        fused = None if fast is None else fast.fused_block(self, *given)
        if fused is not None:
            return fused
        return self.feed(self.attend(hidden_states, positions, attention_mask, past_key_values, **kwargs), positions)

    def attend(self, hidden_states, positions=None, attention_mask=None, past_key_values=None, **kwargs: Any) -> torch.Tensor:
        """The first sublayer: from before attention to before the MLP."""
        x = self.resid_in(hidden_states)
        a = with_positions(self.attn_norm(x), self.attn_pos_norm, positions)
        delta, _ = self.attn(a, attention_mask, past_key_values, **kwargs)
        return self.resid_mid(activate(self.residual_activation_type, x + delta))

    def feed(self, hidden_states: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """The second sublayer: from before the MLP to the end of the block."""
        m = with_positions(self.mlp_norm(hidden_states), self.mlp_pos_norm, positions)
        return self.resid_post(activate(self.residual_activation_type, hidden_states + self.mlp(m)))


def with_positions(x: torch.Tensor, norm: nn.Module | None, positions: torch.Tensor | None) -> torch.Tensor:
    """Appends the normalised position vector: it competes in the site's top-k but never enters the residual stream."""
    if norm is None or positions is None:
        return x
    return torch.cat([x, norm(positions).to(x.dtype).expand(*x.shape[:-1], -1)], dim=-1)


# ------------------------------------------------------------------------------------------------------------- models


class CSPPreTrainedModel(SparseForm, PreTrainedModel):  # type: ignore[misc]
    config: CSPConfig
    config_class = CSPConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CSPBlock"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _supports_context_parallel = False
    _can_record_outputs = {"hidden_states": CSPBlock, "attentions": CSPAttention}
    _input_embed_layer = "wte"

    def freeze_constants(self) -> None:
        """No gradient for sinusoidal positions, a table that is not learnable, and the bias of the logits, which the release's
        training never moves (the bigram table can say all that it could)."""
        frozen = ["final_logits_bias"]
        frozen += ["wpe.weight"] if self.config.sinusoidal_positions else []
        frozen += [] if self.config.learnable_bigram_table else [TABLE_WEIGHT]
        for name, parameter in self.named_parameters():
            if name.endswith(tuple(frozen)):
                parameter.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers calls this only for modules that own parameters, so what is special about one is marked on it.
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            narrow = math.sqrt(2 * self.config.n_layer) if getattr(module, "writes_residual", False) else 1.0
            init.normal_(module.weight, mean=0.0, std=std / narrow)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) and getattr(module, "sinusoidal", False):
            copy_ = getattr(init, "copy_", torch.Tensor.copy_)  # 4.57 has none, and calls this for unloaded modules only
            copy_(module.weight, sinusoids(*module.weight.shape).to(module.weight))
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, (nn.RMSNorm, nn.LayerNorm)):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, BigramTable):
            init.zeros_(module.logit_bias)
        if isinstance(module, CSPAttention) and module.sink_bias is not None:
            init.zeros_(module.sink_bias)
        if isinstance(module, CSPForCausalLM):
            init.zeros_(module.final_logits_bias)


def sinusoids(block_size: int, width: int) -> torch.Tensor:
    """Frozen positions [block_size, width]: max(1, width // 2) periods, log-spaced from 4 to block_size; sin | cos | zeros."""
    half = max(1, width // 2)
    periods = torch.exp(torch.linspace(math.log(4), math.log(max(block_size, 4)), half, dtype=torch.float64))
    angle = 2 * math.pi * torch.arange(block_size, dtype=torch.float64)[:, None] / periods
    table = torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :width]
    return F.pad(table, (0, width - table.shape[1])).float()


class CSPModel(CSPPreTrainedModel):
    """The decoder without its head: token ids [batch, tokens] -> normalised residual stream [batch, tokens, d_model]."""

    def __init__(self, config: CSPConfig):
        super().__init__(config)
        attention_function(config)  # refuse an attention that drops the sink before any weight is made
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.wpe = None
        if config.position_embedding_type != "none":
            self.wpe = nn.Embedding(config.block_size, config.d_pos_emb or config.d_model)
            self.wpe.sinusoidal = config.sinusoidal_positions
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList([CSPBlock(config, layer_idx) for layer_idx in range(config.n_layer)])
        self.final_resid = NodeSite(config, None)
        self.final_norm = make_norm(config, config.d_model)
        self.gradient_checkpointing = False
        self.freeze_constants()
        self.post_init()

    def node_sites(self) -> dict[str, NodeSite]:
        """Site name -> module, in forward order: per layer attn.act_in, .q, .k, .v, .resid_delta, mlp.act_in, .post_act,
        .resid_delta; last final_resid. A site's `width` is its number of nodes."""
        sites: dict[str, Any] = {
            site(i, location): block.get_submodule(LOCATIONS[location].path)
            for i, block in enumerate(self.h) for location in NODE_LOCATIONS
        }  # fmt: skip
        return {**sites, FINAL: self.final_resid}

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None, inputs_embeds: torch.Tensor | None = None, use_cache: bool | None = None,
        cache: Cache | None = None, **kwargs: Any,
    ) -> BaseModelOutputWithPast:  # fmt: skip
        past_key_values = one_cache(past_key_values, cache)
        refuse_unknown_keywords(past_key_values, kwargs)
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("The model needs input_ids or inputs_embeds.")
            inputs_embeds = self.wte(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        ordinary = past_key_values if isinstance(past_key_values, Cache) else None
        seen = 0 if ordinary is None else ordinary.get_seq_length()
        if ordinary is past_key_values and kwargs.get("cu_seq_lens_q") is not None and not self._is_flash():
            position_ids = packed_positions(position_ids, kwargs["cu_seq_lens_q"], inputs_embeds.shape[1])
            kwargs = {name: value for name, value in kwargs.items() if name not in PACKING}
        mask = attention_mask
        if ordinary is past_key_values:  # in continuous batching the mask is made, and says who sees whom in the whole batch
            mask = self._causal_mask(inputs_embeds, attention_mask, past_key_values, position_ids, seen, kwargs)
        given = position_ids is not None
        if position_ids is None:
            position_ids = self._position_ids(inputs_embeds, attention_mask, seen)
        x, positions = self.with_positions(inputs_embeds, position_ids, seen, given)
        for block in self.h:
            x = block(x, positions, attention_mask=mask, past_key_values=past_key_values, position_ids=position_ids, **kwargs)
        x = self.final(x)
        left: dict[str, Any] = {OUTPUT_CACHE: past_key_values if use_cache else None}
        return BaseModelOutputWithPast(last_hidden_state=x, **left)

    def _is_flash(self) -> bool:
        return "flash" in str(self.config._attn_implementation)

    def final(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From the last residual stream to what the unembedding reads."""
        return self.final_norm(self.final_resid(hidden_states))

    def _position_ids(self, x: torch.Tensor, attention_mask: torch.Tensor | None, seen: int | torch.Tensor) -> torch.Tensor:
        """0, 1, 2, ... after what the cache has seen; counted from the first unmasked token, so left padding is harmless."""
        tokens = x.shape[1]
        if self.wpe is not None and attention_mask is not None and attention_mask.dim() == 2:
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens:]
        return (torch.arange(tokens, device=x.device) + seen).unsqueeze(0)

    def _causal_mask(self, x, attention_mask, past_key_values, position_ids, seen, kwargs):
        # Packed sequences are told by the positions that were given; transformers looks for them only where there is no cache.
        begins = type(past_key_values) is DynamicCache and isinstance(seen, int) and seen == 0
        packed = begins and position_ids is not None and attention_mask is None
        if MASK_TAKES_POSITION and kwargs.get("cache_position") is None:
            kwargs["cache_position"] = torch.arange(x.shape[1], device=x.device) + seen
        cache = None if packed else past_key_values
        return causal_mask(self.config, x, attention_mask, cache, position_ids, kwargs.get("cache_position"))

    def with_positions(self, x, position_ids, seen=0, given=True) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(residual stream before the first block, positions that blocks concatenate) of embedded tokens.

        What must fit the table is the positions: packed sequences, and those padded on the left, may be longer. Where looking at them
        would make a GPU wait or break a graph, the number of tokens stands for them, unless they were `given`."""
        if self.wpe is None:
            return self.drop(x), None
        if position_ids.device.type == "cpu" and not torch.compiler.is_compiling():
            length = int(position_ids.max()) + 1
        else:
            length = seen + x.shape[1] if isinstance(seen, int) and not given else 0  # a static cache counts in a tensor
        if length > self.config.block_size:
            raise ValueError(
                f"The sequence has {length} tokens and the position table {self.config.block_size} "
                f"(config.block_size); shorten the prompt or generate fewer tokens."
            )
        positions = self.wpe(position_ids)
        if self.config.position_embedding_type == "added":
            return self.drop(x + positions), None
        return self.drop(x), positions


class CSPForCausalLM(CSPPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The language model: CSPModel, an untied unembedding, a bias on the logits and, where configured, the bigram table."""

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CSPConfig):
        super().__init__(config)
        self.transformer = CSPModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.final_logits_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.bigram_table = None
        if config.enable_bigram_table:
            self.bigram_table = BigramTable(config.vocab_size, config.bigram_padding_idx)
        self.freeze_constants()
        self.post_init()

    def node_sites(self) -> dict[str, NodeSite]:
        """See `CSPModel.node_sites`."""
        return self.transformer.node_sites()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None, inputs_embeds: torch.Tensor | None = None, labels: torch.Tensor | None = None,
        use_cache: bool | None = None, logits_to_keep: int | torch.Tensor = 0, cache: Cache | None = None, **kwargs: Any,
    ) -> CausalLMOutputWithPast:  # fmt: skip
        """Logits [batch, tokens, vocab]; with `labels` [batch, tokens] (-100: ignored) also the next-token cross-entropy.

        `inputs_embeds` may replace the embedding of `input_ids`; a model with a bigram table still needs the ids.
        """
        if self.bigram_table is not None and input_ids is None:
            raise ValueError(
                "This model has a bigram table, which needs token ids: pass input_ids along with inputs_embeds "
                "(the ids then feed the table only)."
            )
        outputs: BaseModelOutputWithPast = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds,
            past_key_values=one_cache(past_key_values, cache), use_cache=use_cache, **kwargs,
        )  # fmt: skip
        ids = None if input_ids is None else keep(input_ids, logits_to_keep)
        logits = self.unembed(keep(cast(torch.Tensor, outputs.last_hidden_state), logits_to_keep), ids)
        loss = None
        if labels is not None:
            # transformers' loss works in float32, also on float64 logits; top-k training amplifies that rounding.
            loss_function = float64_loss if logits.dtype == torch.float64 else self.loss_function
            loss = loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        left = {OUTPUT_CACHE: getattr(outputs, OUTPUT_CACHE)}
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions, **left
        )

    def unembed(self, hidden_states: torch.Tensor, input_ids: torch.Tensor | None) -> torch.Tensor:
        """Logits [..., vocab] of normalised residual streams [..., d_model]; the bigram table reads the ids [...]."""
        logits = self.lm_head(hidden_states)
        logits = logits + self.final_logits_bias.to(logits)  # dtype, and device under a device map
        if self.bigram_table is not None:
            logits = logits + self.bigram_table(input_ids).to(logits)
        return logits

    def _resize_token_embeddings(self, new_num_tokens, *args, **kwargs):
        """Also grows or cuts the logits' bias and the bigram table; new entries are zero, that is, no opinion."""
        embeddings = super()._resize_token_embeddings(new_num_tokens, *args, **kwargs)
        size = embeddings.weight.shape[0]
        with torch.no_grad():
            self.final_logits_bias = resized(self.final_logits_bias, size)
            if self.bigram_table is not None:
                self.bigram_table.logit_bias = resized(self.bigram_table.logit_bias, size)
                if (self.config.bigram_padding_idx or 0) >= size:  # the row that was frozen is gone
                    self.bigram_table.padding_idx = self.config.bigram_padding_idx = None
        return embeddings


def float64_loss(logits, labels, vocab_size, num_items_in_batch=None, ignore_index=-100, shift_labels=None, **kwargs):
    """transformers' ForCausalLMLoss without its cast to float32."""
    targets = F.pad(labels, (0, 1), value=ignore_index)[..., 1:] if shift_labels is None else shift_labels
    reduction = "mean" if num_items_in_batch is None else "sum"
    targets = targets.reshape(-1).to(logits.device)
    loss = F.cross_entropy(logits.view(-1, vocab_size), targets, ignore_index=ignore_index, reduction=reduction)
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def resized(old: nn.Parameter, size: int) -> nn.Parameter:
    new = old.new_zeros([size] * old.dim())
    kept = tuple(slice(0, min(size, n)) for n in old.shape)
    new[kept] = old[kept]
    return nn.Parameter(new, requires_grad=old.requires_grad)


CSPModel.register_for_auto_class("AutoModel")
CSPForCausalLM.register_for_auto_class("AutoModelForCausalLM")
