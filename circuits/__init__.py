"""Circuits: tasks, mean activations, ablation, pruning, the circuit file, verification, exports."""

from .._auto import renamed
from .ablation import ablated
from .circuit import Circuit
from .edges import Edges, edges_in
from .masks import PruneConfig
from .means import Means, mean_activations
from .prune import CannotDo, prune
from .report import Verification
from .scoring import Capability, Score, capabilities, capability, natural_form, score, task_for
from .tasks import CannotExpress, Pairs, Task, load_task, make_task, tasks
from .verify import verify

__all__ = [
    "CannotDo",
    "CannotExpress",
    "Capability",
    "Circuit",
    "Edges",
    "Means",
    "Pairs",
    "PruneConfig",
    "Score",
    "Task",
    "Verification",
    "ablated",
    "capabilities",
    "capability",
    "edges_in",
    "load_task",
    "make_task",
    "mean_activations",
    "natural_form",
    "prune",
    "score",
    "task_for",
    "tasks",
    "verify",
]

__getattr__ = renamed(__name__, {"Gate": "Capability", "gate": "capability", "gates": "capabilities", "Report": "Verification"})
