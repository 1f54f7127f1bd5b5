"""`csp publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def publish_folder(
    folder: Annotated[Path, typer.Argument(help="Model folder; circuits under circuits/<task>/ go along.")],
    repo_id: Annotated[str, typer.Option(help="user/name on the Hub; created if it is not there.")],
    private: Annotated[bool, typer.Option(help="If it is created: visible to you only.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to; it must exist.")] = None,
    space: Annotated[str | None, typer.Option(help="Also a static Space, user/name, with the circuits' pages.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Check everything and list what would go; send nothing.")] = False,
) -> None:
    """Publish a model with its circuits and their pages, checked before the first byte leaves. Run it again if it breaks off.

    Example: csp publish runs/tiny --repo-id me/tiny --dry-run
    """
    from ..convert import publish

    plan = publish(folder, repo_id, private=private or None, revision=revision, space=space, dry_run=dry_run, say=typer.echo)
    typer.echo(str(plan))
    typer.echo("Nothing was sent." if dry_run else f"Published: {plan.url}")
