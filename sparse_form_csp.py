"""What every CSP model can do beyond transformers' own: hold, save, load and run its weights as nonzeros."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.utils import cached_file

from .configuration_csp import package, read_object
from .nonzeros_csp import SparseEmbedding, SparseLinear, SparseMatrix, pays
from .sparse_file_csp import (
    INDEX_NAME,
    ORDINARY_FILES,
    SPARSE_FILES,
    WEIGHTS_NAME,
    Nonzeros,
    Stored,
    fitting,
    read_index,
    read_sparse,
    require_complete,
    require_layers,
)  # fmt: skip

_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
# Options of from_pretrained that change nothing here.
_WITHOUT_EFFECT = (
    "trust_remote_code", "code_revision", "low_cpu_mem_usage", "use_safetensors", "weights_only", "_from_auto", "_from_pipeline",
    "_commit_hash", "adapter_kwargs", "disable_mmap", "tqdm_class",
)  # fmt: skip


class SparseForm:
    """Mixed into CSP models. In sparse form (`to_sparse`) the matrices that gain from it are `SparseMatrix` modules."""

    @property
    def is_sparse(self) -> bool:
        """Whether any matrix is kept as nonzeros."""
        return any(isinstance(module, SparseMatrix) for module in self.modules())  # type: ignore[attr-defined]

    def to_sparse(self, max_density: float | None = None):
        """Keeps and runs as nonzeros, in place, every matrix for which that is faster; returns the model.

        Same API, cache, node sites and results. The support is fixed from here on: gradients reach activations and the nonzero
        values only.

        Args:
            max_density: up to which density a matrix is taken; by default the measured crossover (`nonzeros_csp.pays`). 1.0 takes all.

        Raises:
            ValueError: if max_density is not in [0, 1].
        """
        if max_density is not None and not 0 <= max_density <= 1:
            raise ValueError(f"max_density is {max_density!r}; it must be a density in [0, 1].")
        for name, module in _matrices(self):
            weight = module.weight
            if weight.is_meta:
                raise ValueError(f"{name} has no values (it is on the meta device); load the weights first.")
            if pays(weight.shape, int((weight != 0).sum()), weight.device, max_density):
                _replace(self, name, _sparse_module(module, SparseMatrix.from_dense(weight)))
        _share_tied(self)
        _forget_plans(self)
        return self

    def to_dense(self):
        """Back to ordinary dense matrices, in place; returns the model."""
        for name, module in list(self.named_modules()):  # type: ignore[attr-defined]
            if isinstance(module, (SparseLinear, SparseEmbedding)):
                _replace(self, name, _dense_module(module))
        _share_tied(self)
        _forget_plans(self)
        return self

    def save_pretrained(
        self, save_directory, is_main_process=True, state_dict=None, *args: Any, sparse: bool | None = None, **kwargs: Any
    ):
        """transformers' own; with `sparse=True` only the nonzeros, exact to the bit (the file's form: `sparse_file_csp.py`).

        sparse=None, the default, takes the sparse form where it is much smaller, except in a Trainer's `checkpoint-N` folders,
        which the Trainer itself must be able to read. Files of the sparse form appear whole or not at all, and take the place of an
        earlier save only when all of them are there. The package `sparse_circuits` writes it; this code alone reads it, and saves dense.
        """
        writing = package("checkpoints.writing")
        if writing is not None:
            given = (save_directory, is_main_process, state_dict, *args)
            return writing.save(self, super().save_pretrained, *given, sparse=sparse, **kwargs)  # type: ignore[misc]
        if sparse:
            raise ImportError(
                "Saving nonzeros takes the package sparse_circuits beside this code; install it, or pass sparse=False."
            )
        self.config.sparse_weights = False  # type: ignore[attr-defined]
        return super().save_pretrained(save_directory, is_main_process, dense_state_dict(self, state_dict), *args, **kwargs)  # type: ignore[misc]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args: Any, sparse: bool = False, **kwargs: Any):
        """transformers' own, which here also reads sparse checkpoints: into dense, trainable matrices, or with `sparse=True` into
        the form of `to_sparse()`, without ever making a dense matrix of what runs as nonzeros.

        Weights that are missing are made anew where transformers' own would be silent only for the head of another class.

        Raises:
            ValueError, OSError: if the checkpoint is damaged or does not fit its config, or if an option cannot be honoured.
        """
        hub = {name: kwargs[name] for name in _HUB_OPTIONS if kwargs.get(name) is not None}
        path = pretrained_model_name_or_path
        ordinary = path is None or kwargs.get("state_dict") is not None or kwargs.get("variant")
        found = None if ordinary else _find_sparse(path, hub)
        if found is None:
            wants_info = kwargs.pop("output_loading_info", False)
            with _explained(path):
                if (looks := package("checkpoints.fitting")) is not None:
                    looks.require_ordinary(cls, path, args, kwargs)
                model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)  # type: ignore[misc]
            given = any(kwargs.get(name) is not None for name in ("state_dict", "quantization_config", "gguf_file"))
            if path is not None and not given and not getattr(model, "_hf_peft_config_loaded", False):
                require_complete(model, info, path)
            model.freeze_constants()
            if sparse:
                model.to_sparse()
            return (model, info) if wants_info else model
        return cls._from_nonzeros(path, found, hub, args, kwargs, sparse)

    @classmethod
    def _from_nonzeros(cls, path: Any, found: Any, hub: dict[str, Any], args: Any, kwargs: dict[str, Any], sparse: bool) -> Any:
        """`from_pretrained` of the files that `_find_sparse` found."""
        looks, folder = package("checkpoints.fitting"), Path(path) / hub.get("subfolder", "")
        if looks is not None and Path(path).is_dir():
            looks.require_settings(folder)
        config = kwargs.pop("config", None)
        if config is None or isinstance(config, (str, Path)):
            dtypes: dict[str, Any] = {name: kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs}
            config, kwargs = cls.config_class.from_pretrained(config or path, return_unused_kwargs=True, **kwargs)  # type: ignore[attr-defined]
            kwargs |= dtypes
        for name in _HUB_OPTIONS:
            kwargs.pop(name, None)
        if looks is not None and Path(path).is_dir():
            looks.require_generation(folder, config)
        config, tensors = copy.deepcopy(config), read_sparse(*found)
        with _explained(path):
            require_layers(config, tensors)
            if sparse:
                loaded = _load_sparse(cls, config, tensors, args, kwargs)
            else:
                tensors = fitting(_skeleton(cls, config, args), tensors)
                dense = {n: tensor.to_dense() if isinstance(tensor, Nonzeros) else tensor for n, tensor in tensors.items()}
                del tensors
                loaded = super().from_pretrained(None, *args, config=config, state_dict=dense, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_constants()
        model.name_or_path = model.config.name_or_path = str(path)
        if model.can_generate():
            with contextlib.suppress(OSError):  # where there is none, the one made from the config stays
                model.generation_config = GenerationConfig.from_pretrained(path, **hub)
        return loaded

    def _resize_token_embeddings(self, *args: Any, **kwargs: Any):
        if self.is_sparse:
            raise ValueError("In sparse form the vocabulary is fixed: call to_dense(), resize, then to_sparse() again.")
        return super()._resize_token_embeddings(*args, **kwargs)  # type: ignore[misc]

    def tie_weights(self, *args: Any, **kwargs: Any):
        if self.is_sparse:
            return _share_tied(self)
        return super().tie_weights(*args, **kwargs)  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------------- modules


def _matrices(model: Any) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if type(module) in (nn.Linear, nn.Embedding)]


def _replace(model: Any, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    module.train(model.get_submodule(name).training)
    setattr(model.get_submodule(parent), own, module)


def _forget_plans(model: Any) -> None:
    """Plans of fused blocks hold the weights that they were made from."""
    for module in model.modules():
        module.__dict__.pop("_fused_plan", None)


def _sparse_module(module: Any, matrix: SparseMatrix) -> nn.Module:
    return SparseLinear(matrix, module.bias) if isinstance(module, nn.Linear) else SparseEmbedding(matrix)


def _dense_module(module: Any) -> nn.Module:
    weight = nn.Parameter(module.weight.to_dense().detach(), requires_grad=module.weight.values.requires_grad)
    with torch.device("meta"):
        if isinstance(module, SparseEmbedding):
            dense: Any = nn.Embedding(*weight.shape)
        else:
            dense = nn.Linear(module.in_features, module.out_features, bias=False)
            dense.bias = module.bias
    dense.weight = weight
    return dense


def _share_tied(model: Any) -> None:
    head, base = getattr(model, "lm_head", None), getattr(model, "transformer", model)
    if head is not None and model.config.tie_word_embeddings:
        if isinstance(base.wte, SparseEmbedding) != isinstance(head, SparseLinear):
            raise ValueError("Tied embeddings are kept as nonzeros both or not at all.")
        head.weight = base.wte.weight


def sparse_matrices(model: Any) -> dict[str, SparseMatrix]:
    """Name -> matrix. By the class's name: a model that was loaded as remote code has other class objects than the package."""
    named = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in named if type(module).__name__ == "SparseMatrix"}


def popped(state: dict[str, Any], name: str, matrix: SparseMatrix) -> Nonzeros:
    """A sparse matrix taken out of a state dict, on CPU."""
    values, starts, columns = (state.pop(f"{name}.{part}").detach().cpu() for part in ("values", "row_starts", "columns"))
    return Nonzeros(values, starts, columns, (matrix.shape[0], matrix.shape[1]))


def dense_state_dict(model: Any, state_dict: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The state dict of a model in sparse form as that of its dense form; that of a dense model as it is."""
    matrices = sparse_matrices(model)
    if not matrices:
        return state_dict
    state = dict(model.state_dict() if state_dict is None else state_dict)
    for name, matrix in matrices.items():
        state[name] = popped(state, name, matrix).to_dense()
    return state


# ------------------------------------------------------------------------------------------------------------- loading


def _explained(path: Any) -> Any:
    """With the package, errors while the block runs are one sentence that names the path."""
    looks = package("checkpoints.fitting")
    return contextlib.nullcontext() if looks is None else looks.explained(path)


def _skeleton(cls: Any, config: Any, args: Any) -> Any:
    with torch.device("meta"):
        return cls(config, *args)


def _find_sparse(path: Any, hub: dict[str, Any]) -> tuple[list[str | Path], dict[str, str] | None] | None:
    """The files and index of the sparse checkpoint in a folder or Hub repository, or None where it is an ordinary one.

    config.json says which, so that a file that an earlier upload left behind is never taken for the model.
    """
    # What cannot be reached here is transformers' to explain, when it looks for an ordinary checkpoint.
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    local = Path(path).is_dir()
    folder = Path(path) / hub.get("subfolder", "")
    config = folder / "config.json" if local else cached_file(path, "config.json", **quiet, **hub)
    sparse = config is not None and Path(config).exists() and read_object(Path(config)).get("sparse_weights") is True
    if local:
        present = {file.name for file in folder.iterdir()}
        if not sparse and (
            not any(SPARSE_FILES.fullmatch(n) for n in present) or any(ORDINARY_FILES.fullmatch(n) for n in present)
        ):
            return None
        if WEIGHTS_NAME not in present and INDEX_NAME not in present:
            raise FileNotFoundError(f"{path} has no {WEIGHTS_NAME}, which its config.json announces; get the folder again.")
        if INDEX_NAME not in present:
            return [folder / WEIGHTS_NAME], None
        weight_map = read_index(folder / INDEX_NAME)
        return [folder / name for name in sorted(set(weight_map.values()))], weight_map
    if not sparse:
        return None
    index = cached_file(path, INDEX_NAME, **quiet, **hub)
    if index is None:
        return [str(cached_file(path, WEIGHTS_NAME, **hub))], None
    weight_map = read_index(index)
    return [str(cached_file(path, name, **hub)) for name in sorted(set(weight_map.values()))], weight_map


def _load_sparse(cls: Any, config: Any, tensors: dict[str, Stored], args: Any, options: dict[str, Any]) -> Any:
    dtype = options.pop("dtype", options.pop("torch_dtype", None))
    options.pop("torch_dtype", None)
    device = _one_device(options.pop("device_map", None))
    info = options.pop("output_loading_info", False)
    attention = options.pop("attn_implementation", None)
    odd = sorted(name for name in options if name not in _WITHOUT_EFFECT and options[name] is not None)
    if odd:
        raise ValueError(f"from_pretrained(..., sparse=True) does not take {odd[0]}; leave it out, or load dense.")
    if attention is not None:
        config._attn_implementation = attention
    model = _skeleton(cls, config, args)
    tensors = fitting(model, tensors, strict=True)
    wanted = None if dtype in (None, "auto") else getattr(torch, dtype) if isinstance(dtype, str) else dtype
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    if wanted is None and len(kinds) > 1:
        raise ValueError(
            f"The checkpoint holds weights of {' and '.join(kinds)}, which cannot run together; pass dtype=torch.float32."
        )
    _fill(model, tensors, wanted, device)
    model.config.dtype = model.dtype
    model = model.to(device).eval()
    return (
        (model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []})
        if info
        else model
    )


def _fill(model: Any, tensors: dict[str, Stored], dtype: torch.dtype | None, device: torch.device) -> None:
    """Gives a model on the meta device its weights: matrices as nonzeros where that pays on the device."""
    modules = {f"{name}.weight": (name, module) for name, module in _matrices(model)}
    shared: dict[int, SparseMatrix] = {}
    for name, tensor in tensors.items():
        cast = (lambda x: x) if dtype is None else (lambda x: x.to(dtype) if x.is_floating_point() else x)
        if isinstance(tensor, Nonzeros) and name in modules and pays(tensor.shape, len(tensor.values), device):
            if id(tensor) not in shared:
                shared[id(tensor)] = SparseMatrix(cast(tensor.values), tensor.starts, tensor.columns, tensor.shape)
            own, module = modules[name]
            _replace(model, own, _sparse_module(module, shared[id(tensor)]))
            continue
        owner, _, own = name.rpartition(".")
        parameters = model.get_submodule(owner)._parameters
        dense = tensor.to_dense() if isinstance(tensor, Nonzeros) else tensor
        parameters[own] = nn.Parameter(cast(dense), requires_grad=parameters[own].requires_grad)
    _share_tied(model)


def _one_device(device_map: Any) -> Any:
    if isinstance(device_map, dict) and list(device_map) == [""]:
        device_map = device_map[""]
    if device_map is None or (device_map == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device_map == "auto":
        return torch.device("cuda")
    try:
        return torch.device(device_map)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device_map={device_map!r} spreads a model over devices; one in sparse form goes onto one, such as 'cuda'."
        ) from None
