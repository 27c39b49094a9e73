"""Structured logs: one JSON object a line (or colours on a terminal), with task, turn and attempt; quiet in replays."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from temporalio import activity, workflow

from activities.masking import MASKS
from activities.plain import plain


def configure_logging() -> None:
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _context,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[_drop_replays, *shared, structlog.processors.format_exc_info, _as_text, renderer, _masked],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    # The SDK and our workflows log through the standard library: the same shape, the same place.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _as_text, renderer, _masked],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("temporalio").setLevel(logging.WARNING)
    logging.getLogger("temporalio.workflow").setLevel(logging.INFO)
    workflow.logger.workflow_info_on_message = False
    activity.logger.activity_info_on_message = False


def _drop_replays(_: Any, __: str, event: Any) -> Any:
    if workflow.in_workflow() and workflow.unsafe.is_replaying_history_events():
        raise structlog.DropEvent
    return event


def _as_text(_: Any, __: str, event: Any) -> Any:
    """What agents say is in it, and a terminal shows it: no escape sequences."""
    return {name: plain(value) if isinstance(value, str) else value for name, value in event.items()}


def _masked(_: Any, __: str, line: Any) -> str:
    """The line as it is rendered: a secret may stand anywhere in it."""
    return MASKS.text(str(line))


def _context(_: Any, __: str, event: Any) -> Any:
    if workflow.in_workflow():
        event.setdefault("task", workflow.info().workflow_id)
    elif activity.in_activity():
        info = activity.info()
        event.setdefault("task", info.workflow_id)
        event.setdefault("activity", info.activity_type)
        event.setdefault("attempt", info.attempt)
    return event
