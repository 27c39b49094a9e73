"""What an operator says to a swarm that makes no sense: one line, with the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from workflows.swarm_desk import TAKES, BoardAsked, Verb, asked


@pytest.mark.parametrize(
    ("verb", "given"), [("pause", "x"), ("stop", "later"), ("requeue", 5), ("add", "x"), ("set_count", 3)]
)
def test_what_a_verb_takes_is_told(verb: Verb, given: Any) -> None:
    with pytest.raises(ValueError, match=r"^not understood; what it does: ") as caught:
        asked(verb, given)
    assert str(caught.value).endswith(TAKES[verb])


def test_a_board_has_nothing_before_its_first_task() -> None:
    with pytest.raises(ValidationError):
        BoardAsked(offset=-5)
