"""Files of nonzeros that are damaged, incomplete or of another checkpoint."""

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sparse_circuits import CSPForCausalLM
from sparse_circuits.sparse_file_csp import INDEX_NAME, WEIGHTS_NAME, Nonzeros, read_index, read_sparse
from tiny import thinned


@pytest.fixture
def checkpoint(tmp_path):
    model = thinned(share=0.05)
    model.save_pretrained(tmp_path, sparse=True)
    return tmp_path


def rewritten(folder, change, rehash=True):
    """The checkpoint with its tensors or table changed; with a fitting hash, as a faulty writer would leave it."""
    from sparse_circuits.sparse_file_csp import digest as _digest

    path = folder / WEIGHTS_NAME
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    table = json.loads(metadata["tensors"])
    change(tensors, table, metadata)
    metadata["tensors"] = json.dumps(table, sort_keys=True)
    if rehash:
        metadata["sha256"] = _digest(metadata["tensors"], tensors)
    path.unlink()
    save_file(tensors, path, metadata=metadata)


W = "lm_head.weight"


def swap(tensors, *_):
    columns, counts = tensors[f"columns::{W}"].long(), tensors[f"counts::{W}"].long()
    row = int((counts >= 2).nonzero()[0])
    first = int(counts[:row].sum())
    columns[[first, first + 1]] = columns[[first + 1, first]]
    tensors[f"columns::{W}"] = columns.to(torch.int32)


def put(name, index, value):
    def change(tensors, table, metadata):
        changed = tensors[name].long()
        changed[index] = value
        tensors[name] = changed.to(torch.int32)

    return change


def shorten(name):
    return lambda tensors, table, metadata: tensors.__setitem__(name, tensors[name][:-1].clone())


def wrap(tensors, table, metadata):
    counts = tensors[f"counts::{W}"].long()
    nonzeros = int(counts.sum())
    counts[:] = 0
    counts[:5] = torch.tensor([2**62 + 10**9, 2**62, 2**62, 2**62 - 10**9, nonzeros])
    tensors[f"counts::{W}"] = counts


def whole(tensors, table):
    name = "transformer.final_norm.weight"
    tensors[f"dense::{name}"] = torch.ones(32, dtype=torch.int64)
    table[name]["dtype"] = "int64"


def extra(tensors, table, metadata):
    table["extra.weight"] = {"shape": [1000, 2**31 - 1], "dtype": "float32", "nonzeros": 0}
    tensors["values::extra.weight"], tensors["columns::extra.weight"] = torch.zeros(0), torch.zeros(0, dtype=torch.int32)
    tensors["counts::extra.weight"] = torch.zeros(1000, dtype=torch.uint8)


def cut(name, **entries):
    return lambda tensors, table, metadata: table[name].update(entries)


DAMAGE = {
    "index out of range": (put(f"columns::{W}", -1, 32), "lm_head.weight: a column index is outside of its 32 columns"),
    "negative index": (put(f"columns::{W}", 0, -1), "outside of its 32 columns"),
    "unsorted": (swap, "do not rise within each row"),
    "counts do not add up": (put(f"counts::{W}", 0, 31), "do not add up"),
    "negative count": (put(f"counts::{W}", 0, -1), "do not add up"),
    "counts that wrap around": (wrap, "do not add up"),
    "weights of whole numbers": (lambda t, table, m: whole(t, table), "which no weights are"),
    "a tensor too many": (extra, "holds extra.weight, which its config does not ask for"),
    "too few values": (shorten(f"values::{W}"), "has 1.* values"),
    "too few rows": (shorten(f"counts::{W}"), "96 rows"),
    "wrong number of nonzeros": (cut(W, nonzeros=3), "has 1.* values"),
    "shape of another model": (lambda t, table, m: table[W].update(shape=[97, 33]), "is \\(97, 33\\) in the checkpoint"),
    "enormous shape": (cut("transformer.h.0.mlp.c_fc.weight", shape=[64, 2**30]), "is \\(64, 1073741824\\) in the checkpoint"),
    "absurd shape": (cut(W, shape=[97, -3]), "the shape of lm_head.weight is"),
    "shape of words": (cut(W, shape="wide"), "the shape of lm_head.weight is 'wide'"),
    "three dimensions": (cut(W, shape=[97, 4, 8]), "not stored as a matrix's nonzeros"),
    "dtype unknown": (cut(W, dtype="int9"), "which no weights are"),
    "table lacks a tensor": (lambda t, table, m: table.pop(W), "its table and its tensors differ"),
    "file lacks a tensor": (lambda t, table, m: t.pop(f"columns::{W}"), "its table and its tensors differ"),
    "dense of another shape": (cut("transformer.final_norm.weight", shape=[31]), "should be \\[31\\]"),
    "table is a list": (lambda t, table, m: table.__setitem__(W, 5), "table of tensors cannot be read"),
    "newer version": (lambda t, table, m: m.update(version="2"), "has version '2' of the format"),
    "foreign format": (lambda t, table, m: m.update(format="pt"), "is no sparse checkpoint of this package"),
}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_inconsistent_files_are_refused_by_name(checkpoint, damage, sparse):
    change, message = DAMAGE[damage]
    rewritten(checkpoint, change)
    with pytest.raises(ValueError, match=message):
        CSPForCausalLM.from_pretrained(checkpoint, sparse=sparse)


def test_a_wrong_hash_is_refused(checkpoint):
    rewritten(checkpoint, lambda t, table, m: t[f"values::{W}"].view(torch.int16).add_(1), rehash=False)
    with pytest.raises(ValueError, match="does not have the sha256"):
        CSPForCausalLM.from_pretrained(checkpoint)


def test_fuzzed_files_are_refused_or_unchanged(checkpoint):
    path, model = checkpoint / WEIGHTS_NAME, CSPForCausalLM.from_pretrained(checkpoint)
    original, chance, refused = path.read_bytes(), random.Random(0), 0
    header = int.from_bytes(original[:8], "little")
    for turn in range(300):
        data = bytearray(original)
        place = chance.randrange(8 + header) if turn % 2 else chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(data))
        try:
            tensors = read_sparse([path])
        except ValueError as error:
            refused += str(error).startswith(WEIGHTS_NAME)
        else:  # padding, or a letter of a name that nobody reads
            for name, parameter in model.named_parameters():
                found = tensors[name]
                assert torch.equal(found.to_dense() if isinstance(found, Nonzeros) else found, parameter), name
    assert refused > 280
    for size in (0, 7, 8, 100, len(original) // 2, len(original) - 1):
        path.write_bytes(original[:size])
        with pytest.raises(ValueError, match="damaged or truncated"):
            read_sparse([path])


def test_incomplete_and_foreign_shards_are_named(tmp_path):
    thinned().save_pretrained(tmp_path, sparse=True, max_shard_size="4KB")
    shards = sorted(path for path in tmp_path.glob("*.safetensors"))
    moved = shards[1].read_bytes()
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match="is missing; the checkpoint is incomplete"):
        CSPForCausalLM.from_pretrained(tmp_path)
    shards[1].write_bytes(shards[0].read_bytes())
    with pytest.raises(ValueError, match=r"which another shard holds|does not list there"):
        CSPForCausalLM.from_pretrained(tmp_path)
    shards[1].write_bytes(moved)
    index = tmp_path / INDEX_NAME
    listed = json.loads(index.read_text())
    lost = dict(listed["weight_map"])
    lost = {name: file for name, file in lost.items() if file != shards[-1].name}
    index.write_text(json.dumps({**listed, "weight_map": lost}))
    for sparse in (False, True):
        with pytest.raises(ValueError, match="The checkpoint lacks"):
            CSPForCausalLM.from_pretrained(tmp_path, sparse=sparse)
    more = {**listed["weight_map"], "extra.weight": shards[0].name}
    index.write_text(json.dumps({**listed, "weight_map": more}))
    with pytest.raises(ValueError, match=r"lists extra.weight, which no shard holds"):
        CSPForCausalLM.from_pretrained(tmp_path)
    for wrong in ({"weight_map": {"x": "../../secret.safetensors"}}, {"weight_map": {"x": 5}}):
        index.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="which is no shard"):
            read_index(index)
    for text in ("", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 100_000):
        index.write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            read_index(index)


def test_a_folder_without_its_weights_says_so(checkpoint):
    (checkpoint / WEIGHTS_NAME).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {WEIGHTS_NAME}"):
        CSPForCausalLM.from_pretrained(checkpoint)
