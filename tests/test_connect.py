"""How we connect to Temporal: as the `temporal` command line does, with TLS and keys; trouble is one clear line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from temporalio.client import Client
from typer.testing import CliRunner

import starter
from service.connect import CannotConnect, connect, connect_config, use

ROOT = Path(__file__).parent.parent
NOWHERE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """None of the machine's; those that a test sets are gone after it."""
    for name in [name for name in os.environ if name.startswith("TEMPORAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def certificate(folder: Path) -> tuple[Path, Path]:
    """For 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("server.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "server.pem", folder / "server.key"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


@contextlib.asynccontextmanager
async def with_tls(address: str, cert: Path, key: Path) -> AsyncIterator[str]:
    """The server at `address`, behind TLS; it wants our certificate too."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert))
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    host, _, port = address.partition(":")

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def why_not(address: str) -> str:
    with pytest.raises(CannotConnect) as caught:
        await connect(address)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    return said.removeprefix(f"no Temporal server at {address}: ")


async def test_over_tls_with_certificates(client: Client, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = certificate(tmp_path / "other")
    async with with_tls(client.service_client.config.target_host, cert, key) as address:
        use(None, "a-key", True, cert, cert, key, "server.test")
        connected = await connect(address)
        assert (await connected.count_workflows("WorkflowId = 'nobody'")).count == 0
        os.environ["TEMPORAL_TLS_SERVER_CA_CERT_PATH"] = str(other)
        assert "its certificate is not trusted: name its CA with --tls-ca-path" in await why_not(address)
        plain = await connect(client.service_client.config.target_host, plain=True)
        assert (await plain.count_workflows("WorkflowId = 'nobody'")).count == 0
    assert "does not speak TLS: use --no-tls" in await why_not(client.service_client.config.target_host)


async def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense\n")
    assert await why_not(NOWHERE) == "nobody answers: start one with `python worker.py --dev`"
    os.environ["TEMPORAL_TLS_CLIENT_CERT_PATH"] = str(nonsense)
    assert "TEMPORAL_TLS_CLIENT_KEY_PATH belong together" in await why_not(NOWHERE)
    os.environ["TEMPORAL_TLS_CLIENT_KEY_PATH"] = str(nonsense)
    assert "the client certificate or its key cannot be used" in await why_not(NOWHERE)
    os.environ["TEMPORAL_TLS_SERVER_CA_CERT_PATH"] = str(nonsense)
    assert "no certificate in TEMPORAL_TLS_SERVER_CA_CERT_PATH" in await why_not(NOWHERE)
    os.environ["TEMPORAL_TLS_CLIENT_KEY_PATH"] = "/nowhere/key.pem"
    assert await why_not(NOWHERE) == "cannot connect to Temporal: /nowhere/key.pem: No such file or directory"
    os.environ["TEMPORAL_PROFILE"] = "nobody"
    assert await why_not(NOWHERE) == "cannot connect to Temporal: Profile 'nobody' not found"


def test_flags_outweigh_variables_and_variables_a_profile(tmp_path: Path) -> None:
    (tmp_path / "temporal.toml").write_text(
        '[profile.default]\naddress = "one:1"\n'
        '[profile.cloud]\naddress = "two:2"\nnamespace = "mine.abc"\napi_key = "profile-key"\n'
    )
    assert connect_config() == {"target_host": "one:1"}
    use("cloud", None, None, None, None, None, None)
    assert connect_config() == {
        "target_host": "two:2", "namespace": "mine.abc", "api_key": "profile-key", "tls": True
    }  # fmt: skip
    os.environ["TEMPORAL_API_KEY"] = "variables-key"
    assert connect_config()["api_key"] == "variables-key"
    use(None, "flags-key", False, None, None, None, None)
    assert connect_config("three:3", "other") == {
        "target_host": "three:3", "namespace": "other", "api_key": "flags-key", "tls": False
    }  # fmt: skip
    assert connect_config("three:3", "other", plain=True) == {
        "target_host": "three:3", "namespace": "other", "tls": False
    }  # fmt: skip


def test_the_operator_is_told_in_one_line() -> None:
    done = CliRunner().invoke(starter.app, ["--tls-ca-path", "/nowhere/ca.pem", "list"])
    assert done.exit_code == 1
    assert done.output == "starter: cannot connect to Temporal: /nowhere/ca.pem: No such file or directory\n"


async def test_a_worker_says_it_in_one_line() -> None:
    done = await asyncio.create_subprocess_exec(
        sys.executable, "worker.py", "--tls-ca-path", "/nowhere/ca.pem", cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await done.communicate()
    assert done.returncode == 1
    assert errors.decode() == "worker: cannot connect to Temporal: /nowhere/ca.pem: No such file or directory\n"
