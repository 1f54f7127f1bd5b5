"""Model folders: written whole or not at all, with a card."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import ModelCardData

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

{citation}"""
CITATION = """Weight-sparse transformers: Gao et al. 2025, *Weight-sparse transformers have interpretable circuits*, arXiv 2511.13653.

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


@contextlib.contextmanager
def fresh_folder(dest: str | Path) -> Iterator[Path]:
    """A scratch folder beside `dest` that becomes `dest` when the block ends well and vanishes when it does not.

    Raises:
        FileExistsError: if dest exists and is not an empty folder.
    """
    dest = Path(dest)
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise FileExistsError(f"{dest} exists and is not empty; remove it or choose another folder.")
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", dir=dest.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if dest.exists():
            dest.rmdir()
        os.replace(partial, dest)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


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
        tokenizer_lines=f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")\n' if has_tokenizer else "",
        rows="\n".join(f"| {key} | {value} |" for key, value in table.items()), citation=CITATION,
    )  # fmt: skip
    (folder / "README.md").write_text(text, encoding="utf-8")


def front_matter(*tags: str, model: bool = True) -> str:
    """YAML at the head of a card. Of what is no single model of ours nothing is said but tags: its parts may have licences of their own."""
    found = ["csp", "weight-sparse", *tags]
    if not model:
        return ModelCardData(tags=found).to_yaml()
    return ModelCardData(
        license="apache-2.0", library_name="transformers", pipeline_tag="text-generation", tags=found
    ).to_yaml()
