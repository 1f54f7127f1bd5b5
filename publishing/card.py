"""The model card of what is published: the folder's own card, made to fit the repository, with its circuits."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..bridges.pair import PARTS, BridgedPair
from ..circuits.identity import versions
from ..training.card import CITATION, HERE, front_matter, write_card

BEGIN, END = "<!-- circuits -->", "<!-- /circuits -->"

_CIRCUITS = """{begin}
## Circuits

Each found by pruning, and kept as plain data in `circuits/<task>/` with a page to look at. Loss is that between the two answers of the task, in nats, with
everything outside of the circuit held at its mean; low loss alone proves little. Levels are those of `csp verify`: *prefers* (the right one of two answers),
*produces* (it is the first guess), *agrees* (with the whole model, over the whole vocabulary), *mechanism* (survives resampling and frozen norms, its edges
are needed), *robust* (survives the worst that was found), *only one*. Certified is what `csp prove` counted: every prompt of the task's language, run through the circuit's program.

| task | edges | pairwise loss | levels reached | certified: right on | page |
|---|---|---|---|---|---|
{rows}

```python
from sparse_circuits import Circuit

circuit = Circuit.from_pretrained("{repo_id}", "{task}")
with circuit.applied_to({model}):
    ...  # the model runs as the circuit
```
{end}
"""


_PAIR = """---
{yaml}
---

# {title}

A dense language model and a weight-sparse one, with bridges between their residual streams: either can go on from where the other has come to, and a channel of the
sparse model is a direction in the dense one.

```python
from sparse_circuits.bridges import BridgedPair

pair = BridgedPair.from_pretrained("{repo_id}")  # pair.dense.model, pair.sparse.model, pair.bridges, pair.tokenizer
```

| | dense | sparse |
|---|---|---|
{rows}

{points}{citation}"""

_POINTS = """Bridges, at each point of the residual stream: variance that they explain, and next-token loss (nats) of the hybrid that changes models there.

| point | into the sparse model: explained | loss | into the dense model: explained | loss |
|---|---|---|---|---|
{rows}

"""


_LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
_LOCAL_COMMAND = re.compile(r"^\s*(make |\.venv/|pip install \.|python [\w/]+\.py)", re.M)
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
LARGEST_PICTURE = 5_000_000  # bytes


def pictures(text: str) -> list[str]:
    """The pictures of a card that lie beside it."""
    found = [target for mark, target in _LINK.findall(text) if mark and "://" not in target]
    return [target for target in dict.fromkeys(found) if target.lower().endswith(PICTURES)]


def dead_end(text: str, folder: Path) -> str:
    """The first link of a card that leads to no file of a folder, or the first command that needs a checkout; "" if there is none.

    What is between the marks of the circuits' section is written anew, and not looked at.
    """
    text = re.sub(rf"{BEGIN}.*?{END}", "", text, flags=re.S)
    for _, target in _LINK.findall(text):
        file = target.partition("#")[0]
        if file and "://" not in target and not target.startswith("mailto:") and not (folder / file).exists():
            return target
    for block in re.findall(r"```(?:bash|sh|shell|console)\n(.*?)```", text, re.S):
        if (command := _LOCAL_COMMAND.search(block)) is not None:
            return block[command.start() :].strip().splitlines()[0]
    return ""


def write_pair_card(folder: Path, pair: BridgedPair, repo_id: str) -> None:
    """README.md of a bridged pair, with the figures of its report.json, if it has one."""
    sides = (pair.dense, pair.sparse)
    rows = [
        ("parameters", *(f"{sum(p.numel() for p in side.model.parameters()):,}" for side in sides)),
        ("not zero", *(f"{sum(int(p.count_nonzero()) for p in side.model.parameters()):,}" for side in sides)),
        ("width", *(f"{side.width:,}" for side in sides)),
        ("sublayers", *(f"{side.sublayers}" for side in sides)),
    ]
    rows += [
        (key, "", f"`{value}`") for key, value in pair.sparse.model.config.provenance.items() if not isinstance(value, dict)
    ]
    points = ""
    if (folder / "report.json").is_file():
        try:
            report = json.loads((folder / "report.json").read_bytes())
            if {len(report["encode"]), len(report["decode"])} != {pair.bridges.points}:
                raise ValueError("it has other points than the bridges")
            rows.append(("next-token loss, held out (nats)", *(f"{report[part]:.3f}" for part in PARTS)))
            lines = [
                f"| {i} | {e['fve']:.3f} | {e['loss']:.3f} | {d['fve']:.3f} | {d['loss']:.3f} |"
                for i, (e, d) in enumerate(zip(report["encode"], report["decode"], strict=True))
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"report.json is not what csp bridge train writes ({str(error)[:80]}); take it out of the folder."
            ) from None
        points = _POINTS.format(rows="\n".join(lines))
    text = _PAIR.format(
        yaml=front_matter("bridges", model=False), title=repo_id.partition("/")[2], repo_id=repo_id, points=points, citation=CITATION,
        rows="\n".join(f"| {' | '.join(row)} |" for row in rows),
    )  # fmt: skip
    (folder / "README.md").write_text(text, encoding="utf-8")


def model_card(folder: Path, model: Any, repo_id: str, rows: Sequence[tuple[str, str, str, str, str]]) -> str:
    """The text of README.md: what the folder has (else one is written), loading by `repo_id`, a table of circuits, the versions that published it.

    Args:
        model: or bridged pair.
        rows: (task, edges, loss, verdict, what is certified) of each circuit.
    """
    if not (folder / "README.md").is_file() and isinstance(model, BridgedPair):
        write_pair_card(folder, model, repo_id)
    elif not (folder / "README.md").is_file():
        write_card(folder, model, title=repo_id.partition("/")[2], description="A weight-sparse language model.")
    text = (folder / "README.md").read_text(encoding="utf-8").replace(HERE, repo_id)
    text = re.sub(rf"\n*{BEGIN}.*?{END}\n?", "\n", text, flags=re.S).rstrip() + "\n"
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = "\n".join(f"| {' | '.join(row)} | [page.html](circuits/{row[0]}/page.html) |" for row in rows)
    name = "pair.sparse.model" if isinstance(model, BridgedPair) else "model"
    section = (
        _CIRCUITS.format(begin=BEGIN, end=END, rows=lines, repo_id=repo_id, task=rows[0][0], model=name)
        if rows
        else f"{BEGIN}\n{END}\n"
    )
    return f"{text}\n{section.replace(END, f'{chr(10)}Published with {made}.{chr(10)}{END}')}"
