"""In: OpenAI's checkpoints and circuits, models of sparse_pretrain. Out: self-contained folders, and the Hub."""

from ..publishing.publish import Plan, publish
from .openai import config_from_openai, convert_openai_checkpoint, read_openai_checkpoint
from .openai_circuit import convert_openai_circuit
from .sparse_pretrain import convert_sparse_pretrain, read_sparse_pretrain

__all__ = [
    "Plan",
    "config_from_openai",
    "convert_openai_checkpoint",
    "convert_openai_circuit",
    "convert_sparse_pretrain",
    "publish",
    "read_openai_checkpoint",
    "read_sparse_pretrain",
]
