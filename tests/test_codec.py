"""With a key nothing of a task is readable in Temporal; keys can be rotated; the codec server opens it for the UI."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer

from console.codec_server import UI, CodecServer
from service.codec import KEY, KEY_FILE, BadKey, EncryptionCodec, Undecodable, codec, converter
from service.converter import InputGuard
from service.run import WORKFLOWS, workflow_runner
from tests.kit import Kit, status_when

ENCODED = b"binary/encrypted"


def key(name: str, byte: int = 1) -> str:
    return f"{name}:{base64.b64encode(bytes([byte]) * 32).decode()}"


def of(text: str) -> EncryptionCodec:
    return codec({KEY: text})


def payload(data: bytes = b'"x"') -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=data)


@given(st.binary(max_size=200))
async def test_what_is_encrypted_is_read_with_its_key_alone(data: bytes) -> None:
    plain = payload(b"the secret " + data)
    [hidden] = await of(key("new", 2)).encode([plain])
    assert b"the secret" not in hidden.SerializeToString()
    assert await of(f"{key('old')},{key('new', 2)}").decode([hidden]) == [plain]
    assert await of(key("new", 2)).encode([hidden]) == [hidden]
    for other, why in ((key("new", 3), "does not open with the key 'new'"), ("", "with the key 'new': add it to")):
        with pytest.raises(Undecodable, match=why):
            await of(other).decode([hidden])
    hidden.data = hidden.data[:-1]
    with pytest.raises(Undecodable):
        await of(key("new", 2)).decode([hidden])


async def test_what_is_not_encrypted_is_read_as_it_is() -> None:
    assert await of(key("a")).decode([payload()]) == await of("").encode([payload()]) == [payload()]


def test_where_keys_come_from(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{key('b', 2)}\n{key('c', 3)}\n")
    assert list(codec({KEY: key("a"), KEY_FILE: str(file)}).keys) == ["a", "b", "c"]
    assert codec({}).keys == {}


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({KEY: "AAAA"}, "key 1 is not `id:` and 32 bytes in base64"),
        ({KEY: f"{key('a')},b:AAAA"}, "key 2 is not"),
        ({KEY: f"{key('a')},{key('a', 2)}"}, "two keys have the id 'a'"),
        ({KEY_FILE: "/nowhere"}, "/nowhere cannot be read: No such file"),
        ({KEY_FILE: "/dev/null"}, "there is no key in /dev/null"),
    ],
)
def test_a_bad_key_is_one_line(variables: dict[str, str], why: str) -> None:
    with pytest.raises(BadKey) as caught:
        codec(variables)
    assert why in str(caught.value)
    assert "AAAA" not in str(caught.value)


async def test_nothing_of_a_task_is_readable_and_a_new_key_reads_on(client: Client, tmp_path: Path) -> None:
    def with_keys(text: str) -> Client:
        return Client(client.service_client, data_converter=converter({KEY: text}))

    kit = Kit(with_keys(key("old")), tmp_path)
    agent = kit.agent(planner=[{"say": "unheard-of plan"}], executor=[{"write": {"a.txt": "x\n"}}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, title="unheard-of title", interactive=True))
        await status_when(handle, lambda now: now.plan != "")
    kit.client = with_keys(f"{key('new', 2)},{key('old')}")
    async with kit.worker():
        handle = kit.client.get_workflow_handle(handle.id)
        await handle.signal("approve_plan")
        assert (await asyncio.wait_for(handle.result(), 60))["outcome"] == "merged"
        with pytest.raises(Undecodable, match="with the key 'new'"):
            await with_keys(key("old")).get_workflow_handle(handle.id).result()
        failed = await kit.start({"title": "unheard-of"})
        with pytest.raises(Exception) as caught:
            await failed.result()
        assert "repo: required" in str(caught.value.__cause__)
        histories = [await run.fetch_history() for run in (handle, failed)]
    for history in histories:
        events = b"".join(event.SerializeToString() for event in history.events)
        assert b"unheard-of" not in events
        assert b"repo: required" not in events
        assert ENCODED in events
        replayer = Replayer(
            workflows=WORKFLOWS, data_converter=kit.client.data_converter, interceptors=[InputGuard()],
            workflow_runner=workflow_runner(),
        )  # fmt: skip
        await replayer.replay_workflow(WorkflowHistory.from_json(history.workflow_id, history.to_json()))


@pytest.fixture
def server() -> Iterator[CodecServer]:
    with CodecServer(0, [UI], of(key("a"))) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: CodecServer, path: str, content: bytes | None, **headers: str) -> tuple[int, bytes, str | None]:
    method = "OPTIONS" if content is None else "POST"
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}", content, headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.status, answer.read(), answer.headers["Access-Control-Allow-Origin"]
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["Access-Control-Allow-Origin"]


def test_the_codec_server_serves_the_web_ui_and_nobody_elses_page(server: CodecServer) -> None:
    plain = json_format.MessageToJson(Payloads(payloads=[payload()])).encode()
    status, hidden, allowed = ask(server, "/encode", plain)
    assert (status, allowed) == (200, None)
    assert base64.b64decode(json.loads(hidden)["payloads"][0]["metadata"]["encoding"]) == ENCODED
    status, shown, allowed = ask(server, "/decode", hidden, Origin=UI)
    assert (status, json.loads(shown), allowed) == (200, json.loads(plain), UI)
    assert ask(server, "/decode", None, Origin=UI)[::2] == (204, UI)
    assert ask(server, "/decode", hidden, Origin="http://evil.test") == (403, b"", None)
    assert ask(server, "/decode", hidden, Host="evil.test:80")[0] == 403
    assert ask(server, "/", plain)[0] == 404
    assert ask(server, "/decode", b"{")[0] == 400
    other = json_format.MessageToJson(Payloads(payloads=asyncio.run(of(key("b")).encode([payload()])))).encode()
    assert ask(server, "/decode", other)[:2] == (
        400, b"a payload is encrypted with the key 'b': add it to MERGEWRIGHT_ENCRYPTION_KEY"
    )  # fmt: skip


def test_without_a_key_there_is_no_codec_server() -> None:
    with pytest.raises(BadKey, match="set MERGEWRIGHT_ENCRYPTION_KEY"):
        CodecServer(0, [UI], of(""))
