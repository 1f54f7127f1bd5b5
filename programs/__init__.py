"""Circuits written out: as Python, and over every prompt of a task's language (docs/method.md#programs)."""

from .compile import compile_circuit, mean_scales
from .language import language
from .parts import Parts
from .prove import Proof, check, prove
from .run import run
from .text import load_program, program_text

__all__ = [
    "Parts",
    "Proof",
    "check",
    "compile_circuit",
    "language",
    "load_program",
    "mean_scales",
    "program_text",
    "prove",
    "run",
]
