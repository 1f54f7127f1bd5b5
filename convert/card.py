"""The model card of what is published: the folder's own card, made to fit the repository, with its circuits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..circuits.identity import versions
from ..training.folder import HERE, write_card

BEGIN, END = "<!-- circuits -->", "<!-- /circuits -->"

_CIRCUITS = """{begin}
## Circuits

Each found by pruning, and kept as plain data in `circuits/<task>/` with a page to look at. Loss is that of the task, in nats, with everything
outside of the circuit held at its mean; low loss alone proves little, the verdict is that of `csp verify`.

| task | edges | loss | verdict | page |
|---|---|---|---|---|
{rows}

```python
from sparse_circuits import Circuit

circuit = Circuit.from_pretrained("{repo_id}", "{task}")
with circuit.applied_to(model):
    ...  # the model runs as the circuit
```
{end}
"""


def model_card(folder: Path, model: Any, repo_id: str, rows: Sequence[tuple[str, str, str, str]]) -> str:
    """The text of README.md: what the folder has (else one is written), loading by `repo_id`, a table of circuits, the versions that published it.

    Args:
        rows: (task, edges, loss, verdict) of each circuit.
    """
    if not (folder / "README.md").is_file():
        write_card(folder, model, title=repo_id.partition("/")[2], description="A weight-sparse language model.")
    text = (folder / "README.md").read_text(encoding="utf-8").replace(HERE, repo_id)
    text = re.sub(rf"\n*{BEGIN}.*?{END}\n?", "\n", text, flags=re.S).rstrip() + "\n"
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = "\n".join(f"| {' | '.join(row)} | [page.html](circuits/{row[0]}/page.html) |" for row in rows)
    section = (
        _CIRCUITS.format(begin=BEGIN, end=END, rows=lines, repo_id=repo_id, task=rows[0][0]) if rows else f"{BEGIN}\n{END}\n"
    )
    return f"{text}\n{section.replace(END, f'{chr(10)}Published with {made}.{chr(10)}{END}')}"
