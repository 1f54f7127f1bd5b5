"""The card of a model folder."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCardData

from ..files import write_whole
from ..modeling_csp import CSPForCausalLM
from .callback import measured
from .projection import sparse_tensors

_CARD = """---
{yaml}
---

# {title}

{description}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{load}", trust_remote_code=True)
{tokenizer_lines}```

| | |
|---|---|
{rows}

{curves}{citation}"""
CITATION = """A weight-sparse transformer is a GPT-2-style model trained so that nearly all of its weights are zero; model type `csp` stands for *circuit sparsity*. Gao et al. 2025, *Weight-sparse transformers have interpretable circuits*, arXiv 2511.13653.

```bibtex
@article{gao2025weightsparse,
  title = {Weight-sparse transformers have interpretable circuits},
  author = {Gao, Leo and others},
  journal = {arXiv preprint arXiv:2511.13653},
  year = {2025}
}
```
"""
HERE = "path/to/this/folder"  # what the card loads from until it is published


def write_card(
    folder: Path, model: CSPForCausalLM, *, title: str, description: str, rows: dict[str, str] | None = None
) -> None:
    """README.md of a model folder: what it is, how to load it, its numbers and provenance."""
    total = sum(p.numel() for p in model.parameters())
    nonzero = measured(sparse_tensors(model))["l0"]
    table = {"parameters": f"{total:,}", "nonzero weights, embeddings and biases (L0)": f"{nonzero:,}"}
    table |= rows or {}
    table |= {key: f"`{value}`" for key, value in model.config.provenance.items() if not isinstance(value, dict)}
    has_tokenizer = (folder / "tokenizer.json").is_file()
    text = _CARD.format(
        yaml=front_matter(), title=title, description=description, load=HERE,
        tokenizer_lines=f'tokenizer = AutoTokenizer.from_pretrained("{HERE}", trust_remote_code=True)\n' if has_tokenizer else "",
        rows="\n".join(f"| {key} | {value} |" for key, value in table.items()), citation=CITATION,
        curves="![Loss, density and nonzeros over the run](curves.png)\n\n" if (folder / "curves.png").is_file() else "",
    )  # fmt: skip
    write_whole(folder / "README.md", text)


def front_matter(*tags: str, model: bool = True) -> str:
    """YAML at the head of a card. Of what is no single model of ours nothing is said but tags: its parts may have licences of their own."""
    found = ["csp", "weight-sparse", *tags]
    if not model:
        return ModelCardData(tags=found).to_yaml()
    return ModelCardData(
        license="apache-2.0", library_name="transformers", pipeline_tag="text-generation", tags=found
    ).to_yaml()
