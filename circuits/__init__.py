"""Circuits: tasks, mean activations, ablation, pruning, the circuit file, verification, exports."""

from .ablation import ablated
from .circuit import Circuit, Edges, edges_in
from .masks import PruneConfig
from .means import Means, mean_activations
from .prune import CannotDo, prune
from .scoring import Gate, Score, gate, gates, score
from .tasks import CannotExpress, Pairs, Task, load_task, make_task, tasks

__all__ = [
    "CannotDo",
    "CannotExpress",
    "Circuit",
    "Edges",
    "Gate",
    "Means",
    "Pairs",
    "PruneConfig",
    "Score",
    "Task",
    "ablated",
    "edges_in",
    "gate",
    "gates",
    "load_task",
    "make_task",
    "mean_activations",
    "prune",
    "score",
    "tasks",
]
