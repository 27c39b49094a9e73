"""Connecting to Temporal as the `temporal` CLI does: flags, then TEMPORAL_* variables, then temporal.toml's profile."""

from __future__ import annotations

from typing import Any

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig

from activities.contracts import TASK_QUEUE
from service.converter import data_converter

__all__ = ["DEFAULT_ADDRESS", "TASK_QUEUE", "connect", "connect_config", "quiet_runtime"]

DEFAULT_ADDRESS = "127.0.0.1:7233"


def connect_config(address: str | None = None, namespace: str | None = None) -> dict[str, Any]:
    config: dict[str, Any] = dict(ClientConfig.load_client_connect_config())
    config.setdefault("target_host", DEFAULT_ADDRESS)
    if address:
        config["target_host"] = address
    if namespace:
        config["namespace"] = namespace
    return config


def quiet_runtime() -> Runtime:
    """The SDK's core without its warnings: a server that is away for a moment is said once, by us."""
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="error")))


async def connect(address: str | None = None, namespace: str | None = None, **more: Any) -> Client:
    """Raises RuntimeError when there is no server."""
    return await Client.connect(data_converter=data_converter, **connect_config(address, namespace), **more)
