"""Circuits: tasks, mean activations, ablation, pruning, the circuit file, verification, exports."""

from .ablation import ablated
from .circuit import Circuit
from .edges import Edges, edges_in
from .masks import PruneConfig
from .means import Means, mean_activations
from .prune import CannotDo, prune
from .report import Report
from .scoring import Gate, Score, gate, gates, natural_form, score, task_for
from .tasks import CannotExpress, Pairs, Task, load_task, make_task, tasks
from .verify import verify

__all__ = [
    "CannotDo",
    "CannotExpress",
    "Circuit",
    "Edges",
    "Gate",
    "Means",
    "Pairs",
    "PruneConfig",
    "Report",
    "Score",
    "Task",
    "ablated",
    "edges_in",
    "gate",
    "gates",
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
