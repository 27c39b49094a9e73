import pytest

SLOW = {
    "test_long_instructions_reach_the_model",
    "test_a_session_of_another_directory_is_lost",
    "test_a_budget_ends_the_running_turn_at_its_next_message",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of these the two CLIs that take longest to start are tried with ALL=1 only: the others show the same."""
    for item in items:
        name, _, agent = item.name.partition("[")
        if name in SLOW and agent in ("opencode]", "qwen]"):
            item.add_marker(pytest.mark.long)
