"""Search attributes, by which tasks and merge queues are found. They are not encrypted: no private text is in them."""

from __future__ import annotations

from typing import Any

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

STAGE = SearchAttributeKey.for_keyword("TaskStage")
REPOSITORY = SearchAttributeKey.for_keyword("TaskRepository")
TARGET = SearchAttributeKey.for_keyword("TaskTarget")
RUNTIME = SearchAttributeKey.for_keyword("TaskRuntime")
BLOCKED = SearchAttributeKey.for_keyword("TaskBlocked")
OUTCOME = SearchAttributeKey.for_keyword("TaskOutcome")
LABELS = SearchAttributeKey.for_keyword_list("TaskLabels")
COST = SearchAttributeKey.for_float("TaskCost")
ATTRIBUTES: list[SearchAttributeKey[Any]] = [STAGE, REPOSITORY, TARGET, RUNTIME, BLOCKED, OUTCOME, LABELS, COST]

LONGEST_KEYWORD = 255
"""Characters; SQL servers take no more."""


def keyword(text: str) -> str:
    return text[:LONGEST_KEYWORD]


def of_queue(repo: str, target: str) -> TypedSearchAttributes:
    """`target`: the branch's short name."""
    pairs = ((REPOSITORY, repo), (TARGET, target))
    return TypedSearchAttributes([SearchAttributePair(key, keyword(value)) for key, value in pairs])
