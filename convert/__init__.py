"""In: OpenAI's checkpoints. Out: self-contained Hub folders."""

from .openai import config_from_openai, convert_openai_checkpoint, read_openai_checkpoint

__all__ = ["config_from_openai", "convert_openai_checkpoint", "read_openai_checkpoint"]
