"""The circuit page: one HTML file that opens anywhere, and the same page live with the model."""

from .data import Subject, circuit_data, page_data
from .page import render, write_page, write_pages

__all__ = ["Subject", "circuit_data", "page_data", "render", "write_page", "write_pages"]
