"""Activations of named sites over a corpus, as parquet files that `datasets` reads (streaming too): what dictionaries and probes are trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..circuits.identity import identify, tokenizer_sha256
from ..circuits.means import corpus_sha256, telling
from ..circuits.sites import evaluating, require_csp
from ..files import fresh_folder
from ..hub import require

DTYPES = ("float32", "float16")
ROWS = 16_384  # tokens in a file
ABOUT = "activations.json"


def hook_names(site: str) -> dict[str, str]:
    """What a site is called elsewhere: `module`, its submodule in `CSPForCausalLM`, whose output it is; `sparsify`, the same below `base_model`, a hookpoint of
    eai-sparsify; `transformer_lens`, its name in the cache of `to_transformer_lens` (SAELens' `hook_name`)."""
    layer, dot, path = site.partition(".")
    below = f"h.{layer}.{path}" if dot else site
    return {
        "module": f"transformer.{below}",
        "sparsify": below,
        "transformer_lens": f"blocks.{layer}.{path}.hook_out" if dot else f"{site}.hook_out",
    }


@torch.no_grad()
def save_activations(
    model: Any, tokenizer: Any, blocks: torch.Tensor, sites: Sequence[str], dest: str | Path, *, dtype: str = "float32", batch: int = 16
) -> Path:  # fmt: skip
    """Writes a folder of parquet files, one row for each token: `block`, `position`, `token` (its id), `text`, and of each site a list of its width.

    One batch is in memory at a time. `activations.json` beside them says of which model, sites and tokens they are. Read them with

        datasets.load_dataset("parquet", data_files="DEST/*.parquet", split="train", streaming=True)

    Args:
        blocks: token ids [n, tokens]. sites: names as in `model.node_sites()`; AbsTopK is applied, as the model does it.
        dest: folder; new or empty. It appears only when complete.
        dtype: "float32", or "float16", which is refused where an activation does not fit it.

    Raises:
        ValueError: naming a site that there is not, or what else is wrong, before the model runs.
    """
    require("datasets", "activations as parquet")
    known = require_csp(model).node_sites()
    unknown = [site for site in sites if site not in known]
    if unknown or not sites or len(set(sites)) < len(sites):
        what = f"{unknown[0]!r:.80} is no site of this model" if unknown else "Sites must be named, each once"
        raise ValueError(f"{what}; they are {', '.join(list(known)[:9])} and so on to {list(known)[-1]}.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r:.40}; it must be {' or '.join(DTYPES)}.")
    if blocks.dim() != 2 or not blocks.numel():
        raise ValueError(f"blocks has the shape {tuple(blocks.shape)}; it must be [blocks, tokens] with at least one of each.")
    with fresh_folder(dest) as folder:
        _write(model, tokenizer, blocks, list(sites), folder, dtype, batch)
        about = {
            "model": identify(model), "tokenizer": tokenizer_sha256(tokenizer), "sites": {site: known[site].width for site in sites},
            "dtype": dtype, "tokens": blocks.numel(), "block": blocks.shape[1],
            "corpus_sha256": corpus_sha256(blocks),
        }  # fmt: skip
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return Path(dest)


def _write(model: Any, tokenizer: Any, blocks: torch.Tensor, sites: list[str], folder: Path, dtype: str, batch: int) -> None:
    import pyarrow.parquet as parquet
    from datasets import Features, Value
    from datasets import Sequence as ListOf

    seen: dict[str, torch.Tensor] = {}
    widths = {site: model.node_sites()[site].width for site in sites}
    features = Features(
        {"block": Value("int32"), "position": Value("int32"), "token": Value("int32"), "text": Value("string")}
        | {site: ListOf(Value(dtype), length=width) for site, width in widths.items()}
    )
    per_file, done = max(1, ROWS // blocks.shape[1]), 0
    texts = {int(i): tokenizer.decode([int(i)]) for i in blocks.unique()}
    files = -(-len(blocks) // per_file)

    def keep(name: str, value: torch.Tensor) -> None:
        if name in widths:
            seen[name] = value

    bar = tqdm(total=len(blocks), desc="activations", unit="block", disable=None, delay=2)
    with evaluating(model), telling(model, keep), bar:
        for i, part in enumerate(blocks.split(per_file)):
            path = folder / f"activations-{i:05d}-of-{files:05d}.parquet"
            with parquet.ParquetWriter(path, features.arrow_schema, compression="zstd") as writer:
                for ids in part.split(batch):
                    model(input_ids=ids.long().to(model.device), use_cache=False, logits_to_keep=1)
                    writer.write_batch(_rows(ids, done, [seen[site] for site in sites], texts, features, dtype))
                    done += len(ids)
                    bar.update(len(ids))


def _rows(ids: torch.Tensor, first: int, found: list[torch.Tensor], texts: dict[int, str], features: Any, dtype: str) -> Any:
    import pyarrow as pa

    count, length = ids.shape
    flat = ids.flatten().tolist()
    columns = [
        pa.array((first + torch.arange(count)).repeat_interleave(length).int().numpy()),
        pa.array(torch.arange(length).repeat(count).int().numpy()), pa.array(flat, pa.int32()), pa.array([texts[i] for i in flat], pa.string()),
    ]  # fmt: skip
    for activations, field in zip(found, list(features.arrow_schema)[4:]):
        values = activations.float().flatten(0, 1).cpu()
        if dtype == "float16":
            if bool((values.abs() > torch.finfo(torch.float16).max).any()):
                raise ValueError(
                    f"{field.name} has activations up to {float(values.abs().max()):.3g}, beyond float16; take float32."
                )
            values = values.half()
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(values.flatten().numpy()), field.type.list_size))
    return pa.record_batch(columns, schema=features.arrow_schema)
