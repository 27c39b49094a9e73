"""`starter.py log`: what the agents of a task were told, said and did."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from activities.contracts import TurnResult, Usage
from activities.home import Home, task_key
from activities.plain import plain
from activities.settings import AgentSpec
from console.turn_log import NoLog, Wanted, show
from tests.agents.turns import SAMPLES
from tests.kit import PATIENCE, Kit
from tests.test_starter import TOP, starter

NOWHERE = ("--address", "127.0.0.1:1")
"""No server there."""


# --- folders as turns leave them -------------------------------------------------------------------


def a_turn(
    home: Home,
    number: int,
    stdout: str,
    agent: AgentSpec | None = None,
    result: TurnResult | None = None,
    run: str = "0123456789ab",
) -> Path:
    """A turn of `task-42`, as `take_turn` stores it."""
    key = task_key("task-42", run)
    folder = home.turn(key, number, "executor")
    folder.mkdir(parents=True)
    (home.run(key) / "task.json").write_text("{}")
    (folder / "prompt.md").write_text("".join(f"line {line}\n" for line in range(1, 31)))
    (folder / "stdout.log").write_text(stdout)
    (folder / "stderr.log").write_text("a warning\n")
    if agent:
        (folder / "agent.json").write_text(agent.model_dump_json())
    if result:
        (folder / "final.md").write_text("the final text\n")
        (folder / "result.json").write_text(result.model_dump_json())
    return folder


async def shown(home: Home, **wanted: Any) -> str:
    console = Console(file=io.StringIO(), highlight=False)
    await show(None, home, "task-42", console, Wanted(**wanted))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("runtime", "sample", "told"),
    [
        ("claude-code", "claude/happy", ["I will edit the file.", "Read /src/app/hello.txt", "Bash git add -A"]),
        ("codex", "codex/happy", ["$ /bin/bash -lc"]),
        ("codex", "codex/edit", ["edit /src/app/hello.txt"]),
        ("codex", "codex/429-waits", ["Reconnecting... 1/5"]),
    ],
)
async def test_a_transcript_is_read_as_its_runtime_tells_it(
    tmp_path: Path, runtime: str, sample: str, told: list[str]
) -> None:
    recorded = (SAMPLES / f"{sample}.jsonl").read_text()
    result = TurnResult(end="done", signal="complete", session="s-1", usage=Usage(cost_usd=0.25, input_tokens=70))
    a_turn(Home(tmp_path), 1, recorded, AgentSpec(runtime=runtime, model="large"), result)
    text = await shown(Home(tmp_path))
    transcript = text.partition("-- transcript\n")[2].partition("-- final text")[0]
    assert [line for line in told if line not in transcript] == []
    assert '"type"' not in transcript
    assert f"== turn 1: executor, {runtime} (large)" in text
    assert "done, complete; $0.2500, 70 tokens, 0.0 s; session s-1" in text


async def test_of_an_older_run_the_lines_are_shown_as_they_are(tmp_path: Path) -> None:
    recorded = (SAMPLES / "claude/happy.jsonl").read_text()
    a_turn(Home(tmp_path), 1, recorded)
    assert recorded in await shown(Home(tmp_path))


async def test_a_long_prompt_is_cut_unless_it_is_wanted(tmp_path: Path) -> None:
    folder = a_turn(Home(tmp_path), 1, "")
    short, long = await shown(Home(tmp_path)), await shown(Home(tmp_path), prompt=True)
    assert f"line 20\n… (10 more lines: {folder / 'prompt.md'})\n" in short
    assert "line 21" not in short
    assert "line 30\n" in long
    assert "more lines" not in long


async def test_the_newest_run_of_an_id_is_shown(tmp_path: Path) -> None:
    a_turn(Home(tmp_path), 1, "the old run", run="ffffffffffff")
    os.utime(Home(tmp_path).run(task_key("task-42", "ffffffffffff")) / "task.json", (1, 1))
    a_turn(Home(tmp_path), 1, "the new run", run="000000000000")
    assert "the new run" in await shown(Home(tmp_path))


async def test_a_run_without_turns_says_so(tmp_path: Path) -> None:
    a_turn(Home(tmp_path), 1, "")
    shutil.rmtree(Home(tmp_path).run(task_key("task-42", "0123456789ab")) / "turns")
    with pytest.raises(NoLog, match="no turn has begun yet"):
        await shown(Home(tmp_path))


async def test_a_result_of_another_version_is_no_traceback(tmp_path: Path) -> None:
    folder = a_turn(Home(tmp_path), 1, "it worked\n")
    (folder / "result.json").write_text('{"end": "done", "colour": "blue"}')
    assert "not of this version" in await shown(Home(tmp_path))


async def test_a_turn_taken_up_again_is_followed_from_its_new_beginning(tmp_path: Path) -> None:
    agent = AgentSpec(runtime="command", command=["x"])
    folder = a_turn(Home(tmp_path), 1, "first attempt: a long beginning\n", agent)
    console = Console(file=io.StringIO(), highlight=False)
    following = asyncio.create_task(show(None, Home(tmp_path), "task-42", console, Wanted(follow=True)))
    assert isinstance(console.file, io.StringIO)
    await _until(console.file, "a long beginning\n")
    (folder / "stdout.log").write_text("second attempt: longer than the first one ever was\n")
    await _until(console.file, "ever was\n")
    a_turn(Home(tmp_path), 2, "the next turn\n", agent)  # which shows that turn 1 is over
    await _until(console.file, "the next turn\n")
    assert not following.done()  # no server has said that the task is over
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    text = console.file.getvalue()
    assert text.count("a long beginning") == text.count("ever was") == text.count("the next turn") == 1
    assert "-- the turn was interrupted, and is taken up again\nsecond attempt" in text


async def test_older_logs_are_named_and_the_same_words_are_told_again(tmp_path: Path) -> None:
    agent = AgentSpec(runtime="command", command=["x"])
    folder = a_turn(Home(tmp_path), 1, "the same words\n", agent)
    console = Console(file=io.StringIO(), highlight=False)
    following = asyncio.create_task(show(None, Home(tmp_path), "task-42", console, Wanted(follow=True)))
    assert isinstance(console.file, io.StringIO)
    await _until(console.file, "the same words\n")
    (folder / "stdout.log").rename(folder / "stdout.1.log")
    (folder / "stdout.log").write_text("the same words\n")
    await _until(console.file, "taken up again\nthe same words\n")
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    for number in (2, 10):
        (folder / f"stdout.{number}.log").touch()
    (folder / "usage.json").write_text(Usage(cost_usd=0.75, input_tokens=80).model_dump_json())
    text = await shown(Home(tmp_path))
    older = [f"-- an earlier attempt was interrupted: {folder / f'stdout.{number}.log'}\n" for number in (1, 2, 10)]
    assert "".join(older) + "-- transcript\nthe same words\n" in text
    assert "so far: $0.7500, 80 tokens" in text


async def _until(file: io.StringIO, text: str) -> None:
    for _ in range(PATIENCE * 20):
        if text in file.getvalue():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"no {text!r} in {file.getvalue()!r}")


def test_nothing_but_plain_text_is_left() -> None:
    title, link = "\x1b]0;owned\x07", "\x1b]8;;http://x\x1b\\"
    assert plain(f"\x1b[1;31mred\x1b[0m{title}{link}link\r\n\ttab\x08\x00\x9b2J\x1b[") == "redlink\n\ttab["
    assert plain("\x1b]0;never ended\nnext") == "]0;never ended\nnext"
    assert plain("é 漢 🙂 [bold] :smile:") == "é 漢 🙂 [bold] :smile:"


# --- a real task -----------------------------------------------------------------------------------


@pytest.mark.long
async def test_the_turns_of_a_task_are_read_afterwards(kit: Kit) -> None:
    nasty = "\x1b[2J\x1b]0;owned\x07[bold red]first[/] :smile: " + "wide " * 60
    agent = kit.agent(executor=[{"say": nasty}, {"write": {"a.txt": "x\n"}, "shell": "echo a note"}])
    gates = [{"name": "look", "command": "printf '\\033[31mgate output\\n'"}]
    home = ("--home", str(kit.home.root))
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, gates=gates), "task-42")
        assert (await asyncio.wait_for(handle.result(), PATIENCE)).outcome == "merged"
        both = await starter(kit, "log", "task-42")
        first = await starter(kit, "log", "task-42", "--turn", "1")
        raw = await starter(kit, "log", "task-42", "--turn", "2", "--raw")
        assert "no turn 7; there are: 1, 2" in await starter(kit, "log", "task-42", "--turn", "7", code=1)
        gate = await starter(kit, "log", "task-42", "--gates")
        assert "give it alone" in await starter(kit, "log", "task-42", "--gates", "--raw", code=2)
        unknown = await starter(kit, "log", "no-such-task", *home, code=1)
    rows = [line.split() for line in both.splitlines()[:3]]
    assert rows[0] == ["turn", "role", "agent", "end", "cost", "tokens", "seconds", "reason"]
    assert [row[:4] for row in rows[1:]] == [
        ["1", "executor", "command", "done"],
        ["2", "executor", "command", "done,"],
    ]
    assert "== turn 2: executor, command\n" in both
    assert "== turn 1" not in both
    assert "-- final text\nCOMPLETE_AND_READY_FOR_MERGE\n-- result\ndone, complete; $0.0000, 0 tokens" in both
    assert "[bold red]first[/] :smile: " + "wide " * 60 in first.partition("-- final text")[2]
    assert "[bold red]first[/] :smile: " in first.partition("-- transcript")[2].partition("-- final text")[0]
    assert "\x1b" not in both + first + gate
    assert raw.startswith("COMPLETE_AND_READY_FOR_MERGE\n-- ")
    assert raw.endswith("002-executor/stderr.log\na note\n")
    assert "== look: " in gate
    assert "\ngate output\n" in gate
    assert unknown.startswith("starter: no turns of no-such-task")
    assert len(unknown.splitlines()) == 1
    assert await starter(kit, "log", "task-42", *home) == both  # no worker answers
    assert await starter(kit, "log", "task-42", *home, *NOWHERE) == both  # the server is away
    moved = kit.home.root.rename(kit.folder / "moved")
    assert await starter(kit, "log", "task-42", "--raw", "--home", str(moved), *NOWHERE) == raw.replace(
        str(kit.home.root), str(moved)
    )


async def test_turns_on_another_host_are_said_to_be_there(kit: Kit) -> None:
    agent = kit.agent(executor=[{"write": {"a.txt": "x\n"}}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        await asyncio.wait_for(handle.result(), PATIENCE)
        moved = kit.home.root.joinpath("runs").rename(kit.folder / "elsewhere")
        said = await starter(kit, "log", handle.id, code=1)
        moved.rename(kit.home.root / "runs")
    assert f"are in {kit.home.root}/runs/{handle.id}." in said
    assert "worker's host" in said
    assert len(said.splitlines()) == 1


def _slow_agent(kit: Kit) -> dict[str, Any]:
    """Each turn says one line, waits for a file, and says another; the second completes the task."""
    script = kit.folder / "slow.sh"
    script.write_text(f"""
        cat >/dev/null
        echo "begins $MERGEWRIGHT_TURN"
        until [ -e {kit.folder}/go-$MERGEWRIGHT_TURN ]; do sleep 0.1; done
        echo x >a.txt
        [ $MERGEWRIGHT_TURN = 1 ] && echo "not yet" || echo COMPLETE_AND_READY_FOR_MERGE
    """)
    return {"runtime": "command", "command": ["/bin/sh", str(script)]}


async def test_a_running_task_is_followed_from_turn_to_turn(kit: Kit) -> None:
    async with kit.worker():
        handle = await kit.start(kit.input(agent=_slow_agent(kit)))
        async with _following(kit, handle.id, "-f") as output:
            await _line(output, "begins 1\n")  # while the turn runs
            assert "-- running\nfolder: " in await starter(kit, "log", handle.id)
            (kit.folder / "go-1").touch()
            await _line(output, "not yet\n")
            await _line(output, "begins 2\n")
            (kit.folder / "go-2").touch()
            rest = (await asyncio.wait_for(output.communicate(), PATIENCE))[0].decode()
            assert output.returncode == 0
    assert "done, complete; " in rest
    assert rest.endswith("the task has ended: merged\n")


async def test_ctrl_c_leaves_without_a_word(kit: Kit) -> None:
    async with kit.worker():
        handle = await kit.start(kit.input(agent=_slow_agent(kit)))
        async with _following(kit, handle.id, "-f", "--raw") as output:
            await _line(output, "begins 1\n")
            output.send_signal(signal.SIGINT)
            rest = (await asyncio.wait_for(output.communicate(), PATIENCE))[0].decode()
            assert output.returncode == 130
        for number in (1, 2):
            (kit.folder / f"go-{number}").touch()
        await asyncio.wait_for(handle.result(), PATIENCE)
    assert rest == ""


@contextlib.asynccontextmanager
async def _following(kit: Kit, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`starter.py log`, whose output is read as it comes."""
    address = kit.client.service_client.config.target_host
    # A background job of a shell is deaf to SIGINT, and so would be its children.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        output = await asyncio.create_subprocess_exec(
            sys.executable,
            str(TOP / "starter.py"),
            "log",
            *args,
            cwd=kit.repo,
            env={**os.environ, "TEMPORAL_ADDRESS": address, "PYTHONPATH": str(TOP)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    finally:
        signal.signal(signal.SIGINT, former)
    try:
        yield output
    finally:
        if output.returncode is None:
            output.kill()
        await output.wait()


async def _line(output: asyncio.subprocess.Process, wanted: str) -> None:
    """Reads on until this line comes."""
    assert output.stdout is not None
    seen = []
    async with asyncio.timeout(PATIENCE):
        while line := (await output.stdout.readline()).decode():
            seen.append(line)
            if line == wanted:
                return
    raise AssertionError(f"no line {wanted!r} in {seen}")
