"""Secrets that were given are told nowhere; and `$NAME` keeps them out of a task's input."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError

from activities.config import BadConfig, Config, Environment
from activities.masking import MASKS, Masks
from activities.transcript import Transcript
from service.converter import data_converter
from service.logs import configure_logging
from tests.kit import Kit

TOKEN = 'npm_8f3"kQ\\zå7'


def knowing(**given: str) -> Masks:
    masks = Masks()
    masks.learn(given)
    return masks


secrets = st.lists(st.text("ab", min_size=8, max_size=14), min_size=1, max_size=3)


@settings(max_examples=50)
@given(secrets, st.lists(st.one_of(st.integers(0, 2), st.text("abc\n", max_size=20))), st.data())
def test_no_secret_survives_any_chunking(values: list[str], parts: list[int | str], data: st.DataObject) -> None:
    """Also secrets that overlap, that hold each other, or that begin as the other ends."""
    masks = knowing(**{f"KEY_{number}_TOKEN": value for number, value in enumerate(values)})
    text = "".join(values[part % len(values)] if isinstance(part, int) else part for part in parts).encode()
    told, done, there = b"", 0, 0
    while there < len(text):
        there += data.draw(st.integers(1, len(text) - there))
        told += masks.in_place(text[done:there], whole=there == len(text))
        done = len(told)
    assert len(told) == len(text)
    assert told == masks.in_place(text, whole=True)
    assert not any(value.encode() in told for value in values)
    assert not any(value in masks.text(text.decode()) for value in values)


@settings(max_examples=50)
@given(st.binary(max_size=60))
def test_what_holds_no_secret_stays_as_it_is(content: bytes) -> None:
    masks = knowing(API_KEY="0123456789")
    if b"0123456789" not in content:
        assert masks.in_place(content, whole=True) == content
        text = content.decode("utf-8", "surrogateescape")
        assert masks.text(text) == text


def test_what_is_taken_for_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.touch()
    masks = knowing(
        NPM_TOKEN="npm-secret", PGPASSWORD="pg-secret", DATABASE_URL="postgres://me:url-secret@db/x",
        HTTPS_PROXY="http://me:proxy%20secret@proxy:1", PIN_TOKEN="1234567", SSH_KEY_FILE=str(file),
        CLIENT_KEY=str(file), MAX_TOKENS="100000000", GREETING="good morning",
    )  # fmt: skip
    said = f"npm-secret pg-secret url-secret proxy%20secret 1234567 {file} 100000000 good morning"
    assert masks.text(said) == (
        f"***NPM_TOKEN*** ***PGPASSWORD*** ***DATABASE_URL*** ***HTTPS_PROXY*** 1234567 {file} 100000000 good morning"
    )
    assert masks.in_place(b"npm-secret!", whole=True) == b"***NPM_TOK!"
    masks.learn({"plain": "all of it"}, all_of_it=True)
    assert masks.text("all of it") == "***plain***"


async def test_a_transcript_is_masked_on_the_disk_while_it_grows(tmp_path: Path) -> None:
    MASKS.learn({"GROWING_TOKEN": "growing-secret"})
    lines: list[str] = []
    out, err = tmp_path / "out", tmp_path / "err"
    with Transcript(out, err, lines.append) as transcript:
        for piece in ("one growing-", "secret two\nthree growi", "ng-secre\nfour growing-secret"):
            for path in (out, err):
                with path.open("a") as file:
                    file.write(piece)
            await transcript.follow()
        assert "growing-secret" not in out.read_text() + err.read_text()
        assert lines == ["one ***GROWING_TOK two", "three growing-secre"]
        with err.open("a") as file:
            file.write(" growing-secret")
        transcript.finish()
    assert lines[-1] == "four ***GROWING_TOK"
    assert out.read_text() == "one ***GROWING_TOK two\nthree growing-secre\nfour ***GROWING_TOK"
    assert err.read_text() == f"{out.read_text()} ***GROWING_TOK"
    kept = tmp_path / "kept"
    kept.write_text("growing-secret")
    link, hard = tmp_path / "link", tmp_path / "hard"
    link.symlink_to(kept)
    MASKS.file(link)
    hard.hardlink_to(kept)
    MASKS.file(hard)
    assert kept.read_text() == "growing-secret"
    hard.unlink()
    MASKS.file(kept)
    assert kept.read_text() == "***GROWING_TOK"


def test_logs_are_masked(capfd: pytest.CaptureFixture[str]) -> None:
    MASKS.learn({"LOGGED_TOKEN": TOKEN})
    before = logging.getLogger().handlers[:]
    try:
        configure_logging()
        structlog.get_logger().warning("x", said=[f"it is {TOKEN}"])
        logging.getLogger("other").error("it is %s", TOKEN)
    finally:
        structlog.reset_defaults()
        logging.basicConfig(handlers=before, force=True)
    said = capfd.readouterr().err
    assert said.count("***LOGGED_TOKEN***") == 2
    assert "npm_8f3" not in said


async def test_failures_are_masked() -> None:
    MASKS.learn({"FAILED_TOKEN": "failed-secret"})
    failure = Failure()
    try:
        try:
            raise ValueError("it was failed-secret")
        except ValueError as error:
            raise ApplicationError("not failed-secret") from error
    except ApplicationError as error:
        await data_converter.encode_failure(error, failure)
    assert failure.message == "not ***FAILED_TOKEN***"
    assert failure.cause.message == "it was ***FAILED_TOKEN***"
    assert b"failed-secret" not in failure.SerializeToString()


def test_a_variable_of_the_worker_is_given_when_the_operator_lists_it() -> None:
    config = Config(environment=Environment(allow=["NPM_TOKEN", "GONE"]))
    given = {"A": "$NPM_TOKEN", "B": "$HOME/bin", "C": "$$NPM_TOKEN", "D": "$", "E": "$5", "F": "a$NPM_TOKEN"}
    assert config.filled_in(given, {"NPM_TOKEN": "x"}) == {**given, "A": "x", "C": "$NPM_TOKEN"}
    with pytest.raises(BadConfig, match=r"^env\.A: the worker gives nobody \$HOME: list it in config\.toml"):
        config.filled_in({"A": "$HOME"}, {"HOME": "/root"})
    with pytest.raises(BadConfig, match=r"^env\.A: the variable GONE is not set"):
        config.filled_in({"A": "$GONE"}, {})


async def test_no_secret_of_a_task_is_kept_or_gets_into_its_history(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent prints its whole environment, a gate what the agent wrote down; both are told to the next agent."""
    secret = f"tasks_{TOKEN}"
    monkeypatch.setenv("TASKS_NPM_TOKEN", secret)
    kit.home.create()
    kit.configure('[environment]\nallow = ["TASKS_NPM_TOKEN"]\n')
    show = "import json, os; print(os.environ['IT']); print(json.dumps(dict(os.environ)))"
    first = {
        "shell": f"{sys.executable} -c {json.dumps(show)} | tee a.txt >&2; cat a.txt",
        "say": "COMPLETE_AND_READY_FOR_MERGE",
    }
    script = kit.agent(executor=[first], fixer=[{"shell": "cat a.txt; echo good >a.txt"}])
    agent = {**script, "env": {"IT": "$TASKS_NPM_TOKEN"}}
    gate = {"name": "good", "command": "cat a.txt; grep -qx good a.txt"}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, gates=[gate]))
        assert (await asyncio.wait_for(handle.result(), 60)).outcome == "merged"
        history = (await handle.fetch_history()).to_json()
    written = {
        path: path.read_bytes().decode("utf-8", "replace") for path in kit.home.root.rglob("*") if path.is_file()
    }
    assert [path for path, text in written.items() if "tasks_npm_8f3" in text] == []
    assert any("***TASKS_NPM" in text for path, text in written.items() if path.name == "prompt.md")
    assert "tasks_npm_8f3" not in history


async def test_a_variable_that_is_not_listed_is_refused_in_one_line(kit: Kit) -> None:
    async with kit.worker():
        handle = await kit.start(kit.input(agent={**kit.agent(executor=[{}]), "env": {"IT": "$TASKS_NPM_TOKEN"}}))
        with pytest.raises(Exception) as caught:
            await handle.result()
    assert str(caught.value.__cause__).startswith(
        "InvalidTask: agent: env.IT: the worker gives nobody $TASKS_NPM_TOKEN: list it in config.toml under"
    )
