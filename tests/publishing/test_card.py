"""Cards of what is published: true on the Hub, where only what was staged is."""

import re
import shutil

import pytest

from sparse_circuits.circuits import Circuit
from sparse_circuits.convert import publish
from sparse_circuits.publishing.card import dead_end, pictures
from sparse_circuits.publishing.publish import _put_together
from tiny import ROOT

PICTURE = (ROOT / "viewer" / "page.png").read_bytes()


def staged(folder, scratch):
    """What would go up, and what was said."""
    said = []
    (scratch / "space").mkdir(parents=True)
    _put_together(folder, scratch / "repo", scratch / "space", "you/model", None, set(), said.append)
    return scratch / "repo", " ".join(said)


def test_every_link_of_a_published_card_leads_somewhere(folder, tmp_path):
    repo, _ = staged(folder, tmp_path)
    card = (repo / "README.md").read_text(encoding="utf-8")
    found = [target for target in re.findall(r"\]\(([^)\s]+)\)", card) if "://" not in target]
    assert found  # the pages of its circuits
    for target in found:
        assert (repo / target).is_file(), target
    assert not dead_end(card, repo)
    assert "make " not in card
    assert ".venv" not in card


def test_this_repository_gets_a_card_of_its_own(tmp_path):
    """Its README speaks of a checkout; on the Hub that would be dead links and commands."""
    copy = tmp_path / "copy"
    files = [
        each for folder in (ROOT, ROOT / "circuits" / "single_double_quote") for each in folder.iterdir() if each.is_file()
    ]
    for path in files:
        (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy / path.relative_to(ROOT))
    repo, said = staged(copy, tmp_path / "scratch")
    card = (repo / "README.md").read_text(encoding="utf-8")
    assert "README.md stays here, and a card of its own goes up" in said
    assert 'from_pretrained("you/model", trust_remote_code=True)' in card
    assert f"| single_double_quote | {Circuit.from_pretrained(ROOT, 'single_double_quote').num_edges} |" in card
    assert "circuit sparsity" in card
    for target in re.findall(r"\]\(([^)\s]+)\)", card):
        assert "://" in target or (repo / target).is_file(), target
    assert not dead_end(card, repo)


def test_pictures_travel(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "figures").mkdir()
    (copy / "figures" / "page.png").write_bytes(PICTURE)
    (copy / "README.md").write_text("# Mine\n\n![A page](figures/page.png)\n\n[Elsewhere](https://arxiv.org/abs/2511.13653)\n")
    repo, said = staged(copy, tmp_path / "scratch")
    assert (repo / "figures" / "page.png").read_bytes() == PICTURE
    assert (repo / "README.md").read_text().startswith("# Mine")
    assert "stays here" not in said


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("[a](docs/a.md)", "docs/a.md"), ("[a](#top)", ""), ("[a](https://x.y)", ""), ("![p](../out.png)", "../out.png"),
        ("```bash\nmake demo\n```", "make demo"), ("```bash\n.venv/bin/csp info .\n```", ".venv/bin/csp info ."), ("make demo", ""),
        ("```bash\npip install sparse-circuits\n```", ""), ("<!-- circuits -->[a](b.html)<!-- /circuits -->", ""),
    ],
)  # fmt: skip
def test_what_would_be_dead_on_the_hub(text, dead, tmp_path):
    assert dead_end(text, tmp_path) == dead


def test_pictures_that_lie_elsewhere_do_not_travel(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (tmp_path / "outside.png").write_bytes(PICTURE)
    (copy / "README.md").write_text("![A page](../outside.png) ![B](https://x.y/z.png)\n")
    assert pictures((copy / "README.md").read_text()) == ["../outside.png"]
    plan = publish(copy, "user/model", dry_run=True)
    assert not [name for name, _ in plan.files if name.endswith("outside.png")]
