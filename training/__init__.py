"""Weight-sparse training: projection, schedules, the Trainer callback, corpora, recipes."""

from .._auto import renamed
from .adapters import Merged, merge_and_project
from .callback import WeightSparsityCallback, measured
from .gradients import adamw_groups, normalize_gradients_
from .memory import keep_memory
from .products import sparse_products
from .projection import Projected, module_rule, project_, project_tensor_, project_tensors_, sparse_tensors
from .schedules import SparsityConfig, sharkfin_lr

__all__ = [
    "Merged",
    "Projected",
    "SparsityConfig",
    "WeightSparsityCallback",
    "adamw_groups",
    "keep_memory",
    "measured",
    "merge_and_project",
    "module_rule",
    "normalize_gradients_",
    "project_",
    "project_tensor_",
    "project_tensors_",
    "sharkfin_lr",
    "sparse_products",
    "sparse_tensors",
]

__getattr__ = renamed(__name__, {"SparseTensor": "Projected"})
