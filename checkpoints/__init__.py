"""Checkpoints: written as nonzeros, looked at before they are loaded, loaded in one sentence or not at all; tokenizers likewise."""
