"""What is taken from a folder that is published, when links, pipes and devices are among its names; and scratch folders of killed runs."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparse_circuits import CSPTokenizer
from sparse_circuits.convert import publish
from sparse_circuits.publishing.places import scratch_folder, sweep
from sparse_circuits.publishing.publish import CIRCUIT_FILES, _blocks, _stage, _stage_pair
from tiny import ROOT

TASK = "single_double_quote"
NAMES = ["config.json", "generation_config.json", "sparse_weights.safetensors", "model-00001-of-00002.safetensors", "modeling_csp.py", "README.md", "LICENSE", "LICENSE.txt", "merges.txt", "vocab.json",
         "recipe.yaml", "report.json", "curves.png", "tokenizer.json", "special_tokens_map.json", f"circuits/{TASK}/circuit.json", f"circuits/{TASK}/circuit.safetensors", f"circuits/{TASK}/report.json"]  # fmt: skip
FOLDERS = ["circuits", f"circuits/{TASK}"]


@pytest.fixture
def folder(tmp_path):
    """Files of every name that goes, and a file and a folder outside."""
    folder = tmp_path / "model"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "private").mkdir()
    for name in (*NAMES, "private.txt"):
        (tmp_path / "private" / Path(name).name).write_text("private")
    return folder


def staged(folder, pair=False):
    """What a folder's files are when they are put together: name -> text."""
    place = Path(tempfile.mkdtemp(dir=folder.parent)) / "repo"
    (_stage_pair if pair else _stage)(folder, place)
    return {path.relative_to(place).as_posix(): path.read_text() for path in place.rglob("*") if path.is_file()}


def in_its_place(path, target):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(target)


def ways_out(folder, target):
    """Links that lead out, each another way: what `path` is to be linked to."""
    top = folder.parent
    (top / "outside").symlink_to(target)
    (folder / "hop").symlink_to(top / "outside")
    (folder / "through").symlink_to(target.parent)
    return [target, os.path.relpath(target, folder), top / "outside", folder / "hop", folder / "through" / target.name, f"{folder}/../{target.relative_to(top)}"]  # fmt: skip


@pytest.mark.parametrize("way", range(6))
@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_links_out_are_refused_by_name(name, way, folder):
    target = Path(ways_out(folder, folder.parent / "private" / "private.txt")[way])
    in_its_place(folder / name, target if target.is_absolute() else os.path.relpath(folder / target, (folder / name).parent))
    assert (folder / name).read_text() == "private"
    with pytest.raises(
        ValueError, match=f"^{re.escape(name)} is, or is behind, a link that leads out of the folder; put the file itself"
    ):
        staged(folder)


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_that_are_links_out_are_refused_by_name(name, folder):
    in_its_place(folder / name, folder.parent / "private")
    with pytest.raises(ValueError, match=f"^{name} is, or is behind, a link that leads out"):
        staged(folder)


def test_a_new_circuit_that_is_a_link_out_is_refused(folder):
    (folder / "circuits" / "other").symlink_to(folder.parent / "private")
    with pytest.raises(ValueError, match=r"^circuits/other is"):
        staged(folder)


@pytest.mark.parametrize("name", [*NAMES, *FOLDERS])
def test_links_to_nothing_and_to_themselves_are_refused_by_name(name, folder):
    for target in ("nothing", Path(name).name):
        in_its_place(folder / name, target)
        with pytest.raises(ValueError, match=f"^{re.escape(name)} is a link to nothing"):
            staged(folder)


@pytest.mark.parametrize("name", NAMES)
def test_pipes_sockets_and_devices_are_refused_at_once(name, folder, monkeypatch):
    monkeypatch.chdir((folder / name).parent)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"^{re.escape(name)} is no regular file"):
        staged(folder)
    (folder / name).unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(Path(name).name)
        with pytest.raises(ValueError, match=f"^{re.escape(name)} is no regular file"):
            staged(folder)
    in_its_place(folder / name, "/dev/zero")
    with pytest.raises(ValueError, match=f"^{re.escape(name)} is, or is behind, a link that leads out"):
        staged(folder)
    os.mkfifo(folder / "pipe")
    in_its_place(folder / name, os.path.relpath(folder / "pipe", (folder / name).parent))
    with pytest.raises(ValueError, match=f"^{re.escape(name)} is no regular file"):
        staged(folder)


def test_links_within_the_folder_and_to_it_are_followed(folder):
    plain = staged(folder)
    (folder / "kept").mkdir()
    for i, name in enumerate(NAMES):
        (folder / name).rename(folder / "kept" / str(i))
        (folder / name).symlink_to(
            folder / "kept" / str(i) if i % 2 else os.path.relpath(folder / "kept" / str(i), (folder / name).parent)
        )
    assert staged(folder) == plain
    (folder / "circuits" / TASK).rename(folder / "kept" / "circuit")
    for name in CIRCUIT_FILES[:3]:  # links that were relative to the folder's old place
        (folder / "kept" / "circuit" / name).unlink()
        (folder / "kept" / "circuit" / name).write_text(f"circuits/{TASK}/{name}")
    (folder / "circuits" / TASK).symlink_to("../kept/circuit")
    (folder.parent / "latest").symlink_to(folder)
    assert staged(folder.parent / "latest") == plain


def test_names_that_do_not_go_may_be_anything(folder):
    (folder / "checkpoints").symlink_to(folder.parent / "private")
    (folder / "optimizer.pt").symlink_to("nothing")
    os.mkfifo(folder / "pipe")
    (folder / "LICENSE.d").mkdir()
    place = folder.parent / "repo"
    assert {"checkpoints/", "optimizer.pt", "pipe", "LICENSE.d/"} <= set(_stage(folder, place))
    assert set(NAMES) == {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


@pytest.fixture
def pair(folder):
    pair = folder.parent / "pair"
    for part in ("dense", "sparse"):
        shutil.copytree(folder, pair / part)
    shutil.move(pair / "sparse" / "circuits", pair / "circuits")
    (pair / "bridges.json").write_text("bridges.json")
    return pair


@pytest.mark.parametrize(
    "name", ["dense", "sparse", "circuits", f"circuits/{TASK}", "bridges.json", "dense/config.json", "sparse/tokenizer.json"]
)
def test_a_pair_is_of_its_own_folder_too(name, pair, folder):
    in_its_place(pair / name, folder if (pair / name).is_dir() else folder.parent / "private" / "private.txt")
    with pytest.raises(ValueError, match=f"^{name} is, or is behind, a link that leads out"):
        staged(pair, pair=True)


def test_parts_of_a_pair_may_share_files(pair):
    plain = staged(pair, pair=True)
    in_its_place(pair / "dense" / "tokenizer.json", "../sparse/tokenizer.json")
    assert staged(pair, pair=True) == plain
    in_its_place(pair / "dense", "sparse")
    assert staged(pair, pair=True) == plain


def cached(folder, cache, shared):
    """The folder as the Hub's cache has it; shared: blobs are links into one store for all repositories."""
    repository = cache / "models--user--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    for i, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob, place = repository / "blobs" / f"{i:040x}", snapshot / path.relative_to(folder)
        for each in (blob, place):
            each.parent.mkdir(parents=True, exist_ok=True)
        if shared and i % 2:
            store = cache / "blobs" / f"{i:02x}" / f"{i:064x}"
            store.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, store)
            blob.symlink_to(os.path.relpath(store, blob.parent))
        else:
            shutil.copyfile(path, blob)
        place.symlink_to(os.path.relpath(blob, place.parent))
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["model", "pair"])
def test_a_snapshot_of_the_hubs_cache_is_taken_whole(kind, shared, folder, pair):
    source = pair if kind == "pair" else folder
    snapshot = cached(source, folder.parent / "cache", shared)
    assert staged(snapshot, pair=kind == "pair") == staged(source, pair=kind == "pair")


@pytest.mark.parametrize("name", ["README.md", f"circuits/{TASK}/report.json"])
def test_a_snapshot_has_only_its_own_blobs(name, folder):
    snapshot = cached(folder, folder.parent / "cache", True)
    top = folder.parent
    (top / "cache" / "models--user--other" / "blobs").mkdir(parents=True)
    private = [top / "private" / "private.txt", top / "cache" / "models--user--other" / "blobs" / "a", top / "cache" / "token", top / "cache" / "blobs" / "x", snapshot.parents[1] / "refs"]  # fmt: skip
    for path in private:
        path.write_text("private")
        in_its_place(snapshot / name, path)
        with pytest.raises(ValueError, match=f"^{name} is, or is behind, a link that leads out"):
            staged(snapshot)
    blob = snapshot.parents[1] / "blobs" / "b"  # a blob that is itself a link out
    blob.symlink_to(private[0])
    in_its_place(snapshot / name, os.path.relpath(blob, (snapshot / name).parent))
    with pytest.raises(ValueError, match="leads out"):
        staged(snapshot)
    # and a folder that only has a name of the cache
    plain = folder.rename(top / "snapshots")
    in_its_place(plain / name, top / "private" / "private.txt")
    with pytest.raises(ValueError, match="leads out"):
        staged(plain)


def test_a_model_of_the_cache_is_published(tmp_path):
    """The shipped one, with its circuit: no false alarm in any of its files."""
    source = tmp_path / "source"
    source.mkdir()
    for name in (
        "config.json",
        "generation_config.json",
        "sparse_weights.safetensors",
        "README.md",
        "LICENSE",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        shutil.copyfile(ROOT / name, source / name)
    for path in ROOT.glob("*_csp.py"):
        shutil.copyfile(path, source / path.name)
    shutil.copytree(ROOT / "circuits" / TASK, source / "circuits" / TASK)
    plan = publish(cached(source, tmp_path / "cache", True), "user/name", dry_run=True, space="user/look")
    assert plan.circuits == [TASK]
    assert {"config.json", "sparse_weights.safetensors", f"circuits/{TASK}/page.html"} <= {name for name, _ in plan.files}


def test_text_for_pages_is_of_the_folder(folder):
    tokenizer = CSPTokenizer.from_pretrained(ROOT)
    save_file({"train": torch.zeros(2, 8).int()}, folder.parent / "blocks.safetensors")
    assert _blocks(folder, tokenizer, set(), print) is None
    (folder / "blocks.safetensors").symlink_to("../blocks.safetensors")
    with pytest.raises(ValueError, match=r"^blocks.safetensors is, or is behind, a link that leads out"):
        _blocks(folder, tokenizer, set(), print)
    (folder / "blocks.safetensors").unlink()
    os.mkfifo(folder / "blocks.safetensors")
    with pytest.raises(ValueError, match=r"^blocks.safetensors is no regular file"):
        _blocks(folder, tokenizer, set(), print)


@pytest.mark.parametrize(
    "text",
    ["/mnt/nas\n", 'password = "{}"\n', "hf_{}{}", "https://someone:{}@example.com\n", "login someone\n"],
)
def test_text_for_pages_goes_through_the_same_check(text, folder):
    """Also where a secret begins in one block and ends in the next."""
    tokenizer = CSPTokenizer.from_pretrained(ROOT)
    secret = tokenizer(text.format("a1b2c3d4e5f6" * 2, "a" * 9))["input_ids"]
    fine, said, cut = tokenizer("def f(x):\n    return x\n" * 99)["input_ids"], [], len(secret) // 2
    plain, whole = fine[:48], (secret + fine)[:48]
    halves = [fine[cut - 48 :] + secret[:cut], (secret[cut:] + fine)[:48]]
    for rows, left in (([plain, whole, plain], 2), ([*halves, plain], 1)):
        save_file({"train": torch.tensor(rows).int()}, folder / "blocks.safetensors")
        found = _blocks(folder, tokenizer, set(), said.append)
        assert len(found) == (len(rows) if text.startswith("login") else left)
    assert text.startswith("login") or "blocks of training text hold what looks like a secret" in said[0]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def aged(path, days):
    then = time.time() - days * 24 * 3600
    os.utime(path, (then, then), follow_symlinks=False)


def test_scratch_folders_of_killed_runs_are_swept(scratch, tmp_path, monkeypatch):
    code = "import os, tempfile\nfrom sparse_circuits.publishing.places import scratch_folder\nwith scratch_folder() as place:\n    print(place, flush=True)\n    os.kill(os.getpid(), 9)"
    killed = Path(
        subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(scratch)}
        ).stdout.strip()
    )
    assert killed.parent == scratch
    assert killed.is_dir()
    sweep()
    assert killed.is_dir()  # it may be somebody's: it is young
    old = [killed, scratch / "csp-publish-abc", scratch / "csp-publish-load-x"]
    stay = [
        scratch / "csp-publish-young",
        scratch / "other-abc",
        scratch / "csp-publish-link",
        scratch / "csp-publish-file",
        scratch / f"csp-publish-{os.getpid()}-x",
    ]
    outside = tmp_path / "outside"
    for path in (*old, stay[0], stay[1], stay[4], outside):
        (path / "repo").mkdir(parents=True, exist_ok=True)
        (path / "repo" / "model.safetensors").write_text("x")
        (path / "inner").symlink_to(outside)
    stay[2].symlink_to(outside)
    stay[3].write_text("x")
    for path in (*old, *stay[1:]):
        aged(path, 2)
    with monkeypatch.context() as other:
        other.setattr(os, "getuid", lambda: 4_000_000)  # another user's
        sweep()
    assert all(path.exists() for path in (*old, *stay))
    sweep()
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in stay)
    assert (outside / "repo" / "model.safetensors").read_text() == "x"


def test_publishing_sweeps_and_leaves_nothing(scratch):
    (scratch / "csp-publish-old").mkdir()
    aged(scratch / "csp-publish-old", 2)
    with pytest.raises(FileNotFoundError):
        publish(scratch / "csp-publish-old" / "none", "user/name", dry_run=True)
    with scratch_folder() as place:
        assert re.fullmatch(rf"csp-publish-{os.getpid()}-\w+", Path(place).name)
    assert list(scratch.iterdir()) == []


def test_the_message_of_the_commit_is_searched(folder):
    with pytest.raises(ValueError, match=r"^The message of the commit has a path of this machine; take it out"):
        publish(folder, "user/name", message="From /mnt/nas/x", dry_run=True)


def test_a_missing_scanner_is_said_before_any_work(folder, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from sparse_circuits.cli.app import app
    from sparse_circuits.hub import MissingExtra

    monkeypatch.setitem(sys.modules, "detect_secrets", None)
    with pytest.raises(MissingExtra, match=r'pip install "sparse-circuits\[publish\]"'):
        publish(tmp_path / "none", "user/name")
    done = CliRunner().invoke(app, ["convert", str(tmp_path / "none"), str(tmp_path / "out"), "--publish", "user/name"])
    assert done.exit_code != 0
    assert 'pip install "sparse-circuits[publish]"' in done.output + str(done.exception)
    assert not (tmp_path / "out").exists()
