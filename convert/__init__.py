"""In: OpenAI's checkpoints and circuits, models of sparse_pretrain, GPT-2-shaped ones. Out: self-contained folders, and the Hub."""

from ..publishing.publish import Plan, publish
from .any import convert_checkpoint
from .gpt2 import config_from_gpt2, config_from_nanogpt, convert_gpt2, read_gpt2
from .openai import config_from_openai, convert_openai_checkpoint, read_openai_checkpoint
from .openai_circuit import convert_openai_circuit
from .sparse_pretrain import convert_sparse_pretrain, read_sparse_pretrain
from .sparse_pretrain_pair import convert_sparse_pretrain_pair
from .sparse_pretrain_tasks import task_file

__all__ = [
    "Plan",
    "config_from_gpt2",
    "config_from_nanogpt",
    "config_from_openai",
    "convert_checkpoint",
    "convert_gpt2",
    "convert_openai_checkpoint",
    "convert_openai_circuit",
    "convert_sparse_pretrain",
    "convert_sparse_pretrain_pair",
    "publish",
    "read_gpt2",
    "read_openai_checkpoint",
    "read_sparse_pretrain",
    "task_file",
]
