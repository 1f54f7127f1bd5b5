"""In: OpenAI's checkpoints and circuits. Out: self-contained folders, and the Hub."""

from ..publishing.publish import Plan, publish
from .openai import config_from_openai, convert_openai_checkpoint, read_openai_checkpoint
from .openai_circuit import convert_openai_circuit

__all__ = [
    "Plan",
    "config_from_openai",
    "convert_openai_checkpoint",
    "convert_openai_circuit",
    "publish",
    "read_openai_checkpoint",
]
