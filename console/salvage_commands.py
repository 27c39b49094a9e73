"""`starter.py salvage …`: work that did not land, saved under refs of the repository."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from activities.git import salvaged
from activities.git.repository import open_repository
from activities.git.salvaged import Contents, Salvage
from console.door import Repo, console, run

app = typer.Typer(no_args_is_help=True, help="Work that did not land, saved under refs of the repository.")

Name = Annotated[str, typer.Argument(metavar="TASK|REF", help="A task's id (its newest), or a ref of `salvage list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON list.")]


@app.command("list")
def show_list(
    where: Annotated[Path | None, typer.Argument(metavar="REPO", help="The repository, as --repo.")] = None,
    repo: Repo = Path(),
    task_id: Annotated[str | None, typer.Option("--task", help="Of this task only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was saved. Example: starter.py salvage list /src/app"""

    async def go() -> list[Salvage]:
        return salvaged.listing(open_repository(str((where or repo).resolve())), task_id)

    found = run(go())
    if as_json:
        console.print_json(json.dumps([asdict(item) for item in found], default=str))
        return
    table = Table(box=None, header_style="dim")
    for column in ("ref", "saved", "files", "subject"):
        table.add_column(column, no_wrap=column != "subject")
    for item in found:
        table.add_row(item.ref, f"{item.when:%Y-%m-%d %H:%M}", str(item.files), item.subject.replace("[", "\\["))
    console.print(table if found else "nothing was saved")


@app.command("show")
def show(name: Name, repo: Repo = Path(), as_json: AsJson = False) -> None:
    """What a salvage holds: commits, files, what was staged; why and when. Example: starter.py salvage show task-42"""

    async def go() -> list[Contents]:
        repository = open_repository(str(repo.resolve()))
        return [salvaged.contents(repository, one) for one in salvaged.find(repository, name)]

    found = run(go())
    if as_json:
        console.print_json(json.dumps([asdict(item) for item in found], default=str))
        return
    for item in found:
        console.print("\n".join(_lines(item)), markup=False, soft_wrap=True)


def _lines(item: Contents) -> list[str]:
    ref = item.salvage.ref
    sections = {
        "commits": item.commits,
        "not committed": item.uncommitted,
        f"staged, and not as in the files ({ref}^2)": item.staged,
        "other commits": item.others,
        "ignored, not kept": item.ignored,
    }
    lines = [ref, f"task {item.salvage.task}: {item.salvage.outcome}, saved {item.salvage.when:%Y-%m-%d %H:%M} UTC"]
    for title, entries in sections.items():
        lines += [f"  {title}:", *(f"    {entry}" for entry in entries)] if entries else []
    return [*lines, f"  to have it back: starter.py salvage restore {ref}", f"  to look at it: git diff {ref}^1 {ref}"]


@app.command("restore")
def restore(
    name: Name,
    repo: Repo = Path(),
    branch: Annotated[str | None, typer.Option(help="Name of the new branch (default: salvage/…).")] = None,
    into: Annotated[Path | None, typer.Option(help="Write the files into this new folder, and make no branch.")] = None,
) -> None:
    """Make a branch, or a folder, of saved work; no checkout is touched. Example: starter.py salvage restore task-42"""
    if branch and into:
        raise typer.BadParameter("is either a branch or a folder: give one of them", param_hint="--into")

    async def go() -> str:
        repository = open_repository(str(repo.resolve()))
        if into is not None:
            return str(salvaged.unpack(repository, name, into.resolve()))
        return salvaged.restore(repository, name, branch)

    console.print(run(go()), markup=False, soft_wrap=True)


@app.command("drop")
def drop(
    name: Name, repo: Repo = Path(), yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Delete a salvage, or all of a task. Example: starter.py salvage drop task-42"""

    async def go() -> list[Salvage]:
        repository = open_repository(str(repo.resolve()))
        found = salvaged.find(repository, name)
        if not yes:
            for item in found:
                console.print(f"{item.ref}: {item.subject}, {item.files} files", markup=False, soft_wrap=True)
            typer.confirm(f"delete {'it' if len(found) == 1 else 'these'}?", abort=True)
        salvaged.drop(repository, found)
        return found

    for item in run(go()):
        console.print(f"dropped {item.ref}; until git prunes it: git branch NAME {item.commit}", soft_wrap=True)
