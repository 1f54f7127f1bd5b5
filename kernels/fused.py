"""A block for inference on CPU in two kernels and an attention: what makes decoding fast.

This is no second model: `CSPBlock.forward` asks here first, and where the kernels cannot do exactly what its modules would do (a
gradient is wanted, a hook sits on one of them, a matrix is dense, the mask is not plainly causal, ...), the modules run one by one.
The tests hold both to the same results for every feature of the config.

Modules are known by their classes' names: those of remote code are other objects than the package's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..wiring_csp import LOCATIONS
from .attention import AttentionOfOneJob, attention_of_one_kernel
from .block import (
    GELU,
    GELU_TANH,
    LAYER_NORM,
    RELU,
    RMS_NORM,
    BlockCall,
    BlockPlan,
    Kept,
    Norm,
    after_attention_kernel,
    before_attention_kernel,
)
from .jit import float_bits
from .jobs import flat
from .products import Matrix
from .run import LANES, run, serve

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MODULES = ("NodeSite", "CSPAttention", "CSPMLP", "SparseLinear", "SparseMatrix", "RMSNorm", "LayerNorm", "Dropout")
_ACTIVATIONS = {"gelu": GELU, "gelu_tanh": GELU_TANH, "relu": RELU}
_Attend = Callable[..., tuple[torch.Tensor, Any]]


def fused_block(
    block: Any,
    x: torch.Tensor,
    positions: torch.Tensor | None,
    attention_mask: Any,
    cache: Any,
    options: dict[str, Any],
    attend: _Attend,
) -> torch.Tensor | None:
    """The block's output [batch, tokens, d_model], or None where its modules must run one by one; attend: SDPA with a sink."""
    if torch.is_grad_enabled() or block.training or attention_mask is not None or options.get("is_causal") is False:
        return None
    if not serve(x) or block.attn.config._attn_implementation != "sdpa" or torch.is_autocast_enabled("cpu"):
        return None
    attn = block.attn
    if type(attn.c_attn).__name__ != "SparseLinear" or not _positions_fit(block, x, positions):
        return None
    past = 0 if cache is None else cache.get_seq_length(attn.layer_idx)
    if not isinstance(past, int) or (past and x.shape[1] != 1):
        return None
    if cache is not None and (type(cache).__name__ != "DynamicCache" or getattr(cache, "offloading", False)):
        return None
    plan = block.__dict__.get("_fused_plan")
    if plan is None or not plan.is_current():
        plan = block.__dict__["_fused_plan"] = _Plan(block)
    if plan.record is None or plan.is_observed():
        return None
    return _run(attn, plan, x.contiguous(), positions, cache, past, attend)


def _positions_fit(block: Any, x: torch.Tensor, positions: torch.Tensor | None) -> bool:
    if positions is None or block.attn_pos_norm is None:
        return positions is None and block.attn_pos_norm is None
    fits = positions.shape[:-1] in ((1, x.shape[1]), (x.shape[0], x.shape[1])) and serve(positions)
    return fits and positions.shape[-1] == block.attn_pos_norm.weight.shape[0]


def _run(
    attn: Any, plan: _Plan, x: torch.Tensor, positions: torch.Tensor | None, cache: Any, past: int, attend: _Attend
) -> torch.Tensor:
    batch, tokens, _ = x.shape
    rows, chunks = batch * tokens, -(-batch * tokens // LANES)
    heads, d_head = attn.c_attn.out_features // 3 // attn.d_head, attn.d_head
    stride = 0
    if positions is not None:
        positions = positions.expand(batch, -1, -1).contiguous()
        stride = positions.shape[-1]
    place = 0 if positions is None else positions.data_ptr()
    qkv = torch.empty(rows, 3 * heads * d_head, dtype=torch.float32, device="cpu")
    words = plan.words()
    run(before_attention_kernel, chunks, (*words, *BlockCall(x.data_ptr(), place, stride, rows, 0, qkv.data_ptr())))
    layer = _dynamic_layer(cache, attn.layer_idx, (batch, heads, past, d_head)) if past else None
    if layer is not None:
        y = _attention_of_one(attn, qkv, layer, heads, past)
    else:
        q, k, v = qkv.view(batch, tokens, 3, heads, d_head).permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, d_head)
        if cache is not None:
            k, v = cache.update(k, v, attn.layer_idx, {"cache_position": None})
        y, _ = attend(attn, q, k, v, None, scaling=attn.scaling, s_aux=attn.sink_bias)
    out = torch.empty_like(x)
    run(after_attention_kernel, chunks, (*words, *BlockCall(x.data_ptr(), place, stride, rows, y.data_ptr(), out.data_ptr())))
    return out


class _Plan:
    """What the kernels need to know of a block, and how to notice that it has changed."""

    def __init__(self, block: Any):
        modules = [module for module in block.modules() if module is not block]
        self._children = [(m._modules, name, child) for m in (block, *modules) for name, child in m._modules.items()]
        self._tensors = [
            (group, name, tensor, 0 if tensor is None else tensor.data_ptr())
            for m in modules for group in (m._parameters, m._buffers) for name, tensor in group.items()
        ]  # fmt: skip
        self._modules = modules
        self._dropouts = [m for m in modules if isinstance(m, nn.Dropout) and m.p > 0]
        self._forwards = {type(m): type(m).forward for m in modules}
        self._norms = [n for n in (block.attn_norm, block.attn_pos_norm, block.mlp_norm, block.mlp_pos_norm) if n is not None]
        self._block, self._settings = block, self._settings_of(block)
        self.record = self._describe(block, modules)
        self._sites = [] if self.record is None else [block.get_submodule(LOCATIONS[name].path) for name in Kept._fields]
        self._kept: tuple[int, ...] | None = None

    def words(self) -> tuple[int, ...]:
        """The record, flat, with each location's k as it is now."""
        assert self.record is not None  # who calls has looked
        kept = tuple(site.k for site in self._sites)
        if kept != self._kept:
            self._kept, self._words = kept, tuple(flat(self.record._replace(kept=Kept(*kept))))
        return self._words

    def is_current(self) -> bool:
        """Whether the block still has the modules, tensors and settings that the plan was made for."""
        return (
            all(group.get(name) is child for group, name, child in self._children)
            and all(
                group.get(name) is tensor and (tensor is None or tensor.data_ptr() == address)
                for group, name, tensor, address in self._tensors
            )
            and self._settings == self._settings_of(self._block)
        )

    def _settings_of(self, block: Any) -> tuple[Any, ...]:
        return block.residual_activation_type, block.mlp.activation_type, *(norm.eps for norm in self._norms)

    def is_observed(self) -> bool:
        """Whether anyone would notice that the modules do not run: a hook, a forward that was replaced, dropout left on."""
        for module in self._modules:
            names = module.__dict__
            for kind in _HOOKS:
                # transformers' recorder of attention weights, once set up, stays; SDPA has no weights to give it.
                hooks = names[kind]
                if hooks and any(getattr(hook, "__name__", "") != "output_capturing_hook" for hook in hooks.values()):
                    return True
            if "forward" in names:
                return True
        if any(cls.forward is not forward for cls, forward in self._forwards.items()):
            return True
        if any(dropout.training for dropout in self._dropouts):
            return True
        return bool(nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks)

    @staticmethod
    def _describe(block: Any, modules: list[nn.Module]) -> BlockPlan | None:
        """None where the kernels cannot do what the block's modules do."""
        attn, mlp = block.attn, block.mlp
        matrices = [attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj]
        if any(type(module).__name__ not in _MODULES for module in modules):
            return None
        for cls in {type(module) for module in modules if type(module).__name__ != "SparseMatrix"}:  # which has no forward
            if cls.forward.__qualname__ != f"{cls.__name__}.forward" or hasattr(cls.forward, "__wrapped__"):
                return None  # patched for the whole class
        sparse = all(type(matrix).__name__ == "SparseLinear" for matrix in matrices)
        if not sparse or block.resid_in.k < block.resid_in.width:
            return None
        known, sites = {LOCATIONS[name].path for name in Kept._fields}, dict(block.named_modules())
        if not known <= set(sites):  # of remote code of another version
            return None
        others = [
            site for path, site in sites.items() if type(site).__name__ == "NodeSite" and path not in {*known, "resid_in"}
        ]
        if any(site.k < site.width for site in others):  # a location that the kernels do not know
            return None
        if mlp.activation_type not in _ACTIVATIONS:
            return None
        tensors = [p for m in modules for p in m._parameters.values() if p is not None]
        if not all(serve(p) or p.numel() == 0 for p in tensors) or not all(p.is_contiguous() for p in tensors):
            return None
        d_pos = 0 if block.attn_pos_norm is None else block.attn_pos_norm.weight.shape[0]
        return BlockPlan(
            block.resid_in.width, d_pos, attn.c_attn.out_features // 3, mlp.c_fc.out_features, int(block.residual_activation_type == "relu"),
            _ACTIVATIONS[mlp.activation_type], Kept(*(0 for _ in Kept._fields)), _norm(block.attn_norm), _norm(block.attn_pos_norm), _norm(block.mlp_norm),
            _norm(block.mlp_pos_norm), _matrix(attn.c_attn), _matrix(attn.c_proj), _matrix(mlp.c_fc), _matrix(mlp.c_proj),
        )  # fmt: skip


def _norm(norm: Any) -> Norm:
    if norm is None:
        return Norm(0, 0, 0, 0)
    bias = getattr(norm, "bias", None)
    kind = RMS_NORM if isinstance(norm, nn.RMSNorm) else LAYER_NORM
    return Norm(kind, float_bits(norm.eps), norm.weight.data_ptr(), 0 if bias is None else bias.data_ptr())


def _matrix(linear: Any) -> Matrix:
    weight, bias = linear.weight, linear.bias
    return Matrix(
        weight.row_starts.data_ptr(),
        weight.columns.data_ptr(),
        weight.values.data_ptr(),
        0 if bias is None else bias.data_ptr(),
    )


# --------------------------------------------------------------------------------------------------- a cache with room to grow

_Room = tuple[torch.Tensor, torch.Tensor, int]  # keys, values, tokens written so far
_rooms: WeakKeyDictionary[Any, _Room] = WeakKeyDictionary()


def _dynamic_layer(cache: Any, layer_idx: int, shape: tuple[int, ...]) -> Any:
    """The layer, if its keys and values are of this model and batch; else its own `update` has to say what is wrong."""
    layer = cache.layers[layer_idx]
    if type(layer).__name__ != "DynamicLayer" or not serve(layer.keys, layer.values):
        return None
    return layer if tuple(layer.keys.shape) == tuple(layer.values.shape) == shape else None


def _attention_of_one(attn: Any, qkv: torch.Tensor, layer: Any, heads: int, past: int) -> torch.Tensor:
    """One new token per text: stores its key and value in the cache, and attends to all that are there."""
    batch, d_head, seen = qkv.shape[0], attn.d_head, past + 1
    keys, values = _room_for(layer, seen)
    y = torch.empty(batch, heads * d_head, dtype=torch.float32, device="cpu")
    total = batch * heads
    per_chunk = -(-total // 8) if total * seen * d_head > 1 << 17 else total
    sink = 0 if attn.sink_bias is None else attn.sink_bias.data_ptr()
    job = AttentionOfOneJob(
        qkv.data_ptr(), keys.data_ptr(), values.data_ptr(), y.data_ptr(), sink, batch, heads, seen, keys.shape[-1], d_head,
        float_bits(attn.scaling), per_chunk,
    )  # fmt: skip
    run(attention_of_one_kernel, -(-total // per_chunk), job)
    layer.keys, layer.values = keys[..., :seen].transpose(2, 3), values[:, :, :seen]
    return y


def _room_for(layer: Any, seen: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Storage for at least `seen` tokens of which the layer's keys and values are the first: keys by channel [batch, heads, d_head,
    room], values by token [batch, heads, room, d_head].

    Only what was never handed out is written, so tensors that someone took from the cache do not change; a cache that was cropped,
    reordered or copied gets storage of its own."""
    room = _rooms.get(layer)
    if room is not None and room[0].shape[-1] >= seen and room[2] == seen - 1:
        same = layer.keys.data_ptr() == room[0].data_ptr() and layer.values.data_ptr() == room[1].data_ptr()
        if same and layer.keys.shape[0] == room[0].shape[0] and layer.keys.stride(-1) == room[0].shape[-1]:
            _rooms[layer] = *room[:2], seen
            return room[:2]
    batch, heads, past, d_head = layer.keys.shape
    size = ((seen + seen // 4 + 64) // 16 | 1) * 16  # an odd number of cache lines: powers of two would alias in the cache
    keys = torch.empty(batch, heads, d_head, size, dtype=torch.float32, device="cpu")
    values = torch.empty(batch, heads, size, d_head, dtype=torch.float32, device="cpu")
    keys[..., :past] = layer.keys.transpose(2, 3)
    values[:, :, :past] = layer.values
    _rooms[layer] = keys, values, seen
    return keys, values
