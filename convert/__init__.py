"""In: OpenAI's checkpoints and circuits. Out: self-contained Hub folders."""

from .openai import config_from_openai, convert_openai_checkpoint, read_openai_checkpoint
from .openai_circuit import convert_openai_circuit

__all__ = ["config_from_openai", "convert_openai_checkpoint", "convert_openai_circuit", "read_openai_checkpoint"]
