"""Connecting to Temporal as the `temporal` CLI does: flags, then TEMPORAL_* variables, then temporal.toml's profile."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig
from temporalio.service import TLSConfig

from activities.contracts import TASK_QUEUE
from service.codec import BadKey, converter

__all__ = ["DEFAULT_ADDRESS", "TASK_QUEUE", "CannotConnect", "connect", "connect_config", "quiet_runtime"]

DEFAULT_ADDRESS = "127.0.0.1:7233"

Profile = Annotated[str | None, typer.Option(help="Profile of temporal.toml (TEMPORAL_PROFILE).")]
ApiKey = Annotated[str | None, typer.Option(help="API key; others see it in `ps`: better TEMPORAL_API_KEY.")]
Tls = Annotated[bool | None, typer.Option("--tls/--no-tls", help="With TLS, or without (TEMPORAL_TLS).")]
TlsCaPath = Annotated[Path | None, typer.Option(help="The server's CA (TEMPORAL_TLS_SERVER_CA_CERT_PATH).")]
TlsCertPath = Annotated[Path | None, typer.Option(help="Our certificate (TEMPORAL_TLS_CLIENT_CERT_PATH).")]
TlsKeyPath = Annotated[Path | None, typer.Option(help="Its key (TEMPORAL_TLS_CLIENT_KEY_PATH).")]
TlsServerName = Annotated[str | None, typer.Option(help="The server's name (TEMPORAL_TLS_SERVER_NAME).")]


def use(
    profile: str | None, api_key: str | None, tls: bool | None, ca: Path | None, cert: Path | None, key: Path | None,
    server_name: str | None,
) -> None:  # fmt: skip
    """The flags of this process: each outweighs its variable."""
    given = {
        "PROFILE": profile,
        "API_KEY": api_key,
        "TLS": None if tls is None else str(tls).lower(),
        "TLS_SERVER_CA_CERT_PATH": ca,
        "TLS_CLIENT_CERT_PATH": cert,
        "TLS_CLIENT_KEY_PATH": key,
        "TLS_SERVER_NAME": server_name,
    }
    os.environ.update({f"TEMPORAL_{name}": str(value) for name, value in given.items() if value is not None})


class CannotConnect(RuntimeError):
    """No connection to Temporal, and why; one line with the remedy."""


def connect_config(address: str | None = None, namespace: str | None = None, plain: bool = False) -> dict[str, Any]:
    """`plain`: for a development server on this host, whatever variables and profiles say. Raises CannotConnect."""
    try:
        config: dict[str, Any] = {"tls": False} if plain else dict(ClientConfig.load_client_connect_config())
    except OSError as error:
        raise CannotConnect(f"cannot connect to Temporal: {error.filename}: {error.strerror}") from None
    except Exception as error:  # the SDK's own ConfigError is no public class
        raise CannotConnect(f"cannot connect to Temporal: {' '.join(str(error).split())[:300]}") from None
    config.setdefault("target_host", DEFAULT_ADDRESS)
    if address:
        config["target_host"] = address
    if namespace:
        config["namespace"] = namespace
    return config


def quiet_runtime() -> Runtime:
    """The SDK's core without its warnings: a server that is away for a moment is said once, by us."""
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="error")))


async def connect(
    address: str | None = None, namespace: str | None = None, *, plain: bool = False, **more: Any
) -> Client:
    """Raises CannotConnect, also when there is no server."""
    config = connect_config(address, namespace, plain)
    _check(config.get("tls"))
    try:
        return await Client.connect(data_converter=converter(), **config, **more)
    except BadKey as problem:
        raise CannotConnect(str(problem)) from None
    except (RuntimeError, ValueError) as error:
        raise CannotConnect(_why(config["target_host"], str(error))) from None


def _check(tls: object) -> None:
    """The SDK takes a CA file without a certificate for one that trusts nobody."""
    if not isinstance(tls, TLSConfig):
        return
    if tls.server_root_ca_cert is not None and b"BEGIN CERTIFICATE" not in tls.server_root_ca_cert:
        raise CannotConnect("cannot connect to Temporal: there is no certificate in TEMPORAL_TLS_SERVER_CA_CERT_PATH")
    if (tls.client_cert is None) != (tls.client_private_key is None):
        raise CannotConnect(
            "cannot connect to Temporal: TEMPORAL_TLS_CLIENT_CERT_PATH and TEMPORAL_TLS_CLIENT_KEY_PATH belong together"
        )


_CAUSES = (
    (r"(PrivateKey|Certificate)ParseError|KeyMismatch",
     "the client certificate or its key cannot be used: see TEMPORAL_TLS_CLIENT_CERT_PATH and …_KEY_PATH"),
    (r"UnknownIssuer|NotValidForName|InvalidCertificate|invalid peer certificate",
     "its certificate is not trusted: name its CA with --tls-ca-path, or its name with --tls-server-name"),
    (r"CertificateRequired|HandshakeFailure|alert", "it refuses the client certificate, or wants one"),
    (r"Unauthenticated|PermissionDenied", "it refuses the API key or the client certificate"),
    (r"InvalidContentType|CorruptMessage", "it does not speak TLS: use --no-tls"),
    (r"ConnectionRefused|dns error|TimedOut|Unreachable", "nobody answers: start one with `python worker.py --dev`"),
)  # fmt: skip


def _why(address: str, said: str) -> str:
    told = next((text for pattern, text in _CAUSES if re.search(pattern, said)), "")
    detail = " ".join(said.replace("Failed client connect: ", "").split())[:300]
    return f"no Temporal server at {address}: {told or detail}"
