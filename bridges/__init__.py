"""Bridges between a dense and a sparse model: their training, evaluation, steering."""

from .bridge import BridgeConfig, Bridges
from .evaluate import evaluate_bridges, ridge_bridges
from .losses import bridge_losses
from .pair import BridgedPair
from .protocols import evaluate_pair, steer_task
from .sides import side_of
from .steering import Steering, steer

__all__ = [
    "BridgeConfig",
    "BridgedPair",
    "Bridges",
    "Steering",
    "bridge_losses",
    "evaluate_bridges",
    "evaluate_pair",
    "ridge_bridges",
    "side_of",
    "steer",
    "steer_task",
]
