"""The worker's own configuration: what it may say, who pays for a turn, and what a CLI sees of the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from activities.agents import RUNTIMES, runtime
from activities.agents.base import Runtime
from activities.config import CONFIG_FILE, Account, BadConfig, Config, account_of, agent_environment, load
from activities.settings import AgentSpec

KEY = "sk-of-another-account"
WITH_KEY = [name for name, known in RUNTIMES.items() if known.key]
PAID_BY_KEY = Account(billing="key", key="WORK_KEY")


def write(home: Path, text: str) -> Path:
    path = home / CONFIG_FILE
    path.write_text(text)
    return path


def refusal(home: Path, text: str) -> str:
    path = write(home, text)
    with pytest.raises(BadConfig) as caught:
        load(home)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert len(said.splitlines()) == 1
    return said.removeprefix(f"{path}: ")


# --- the file ----------------------------------------------------------------------------------------


def test_without_a_file_there_are_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path) == load(tmp_path / "nowhere") == Config()
    assert Config().account("anthropic/default").model_dump() == {
        "billing": "auto",
        "key": None,
        "key_as": None,
        "slots": 8,
        "max_cost_usd_per_day": None,
    }


def test_the_file_says_who_pays(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        [accounts.anthropic]
        billing = "subscription"

        [accounts."anthropic/work"]
        billing = "key"
        key = "WORK_ANTHROPIC_KEY"
        slots = 4
        max_cost_usd_per_day = 50
        """,
    )
    config = load(tmp_path)
    assert config.account("anthropic/default") == Account(billing="subscription")
    assert config.account("anthropic/work") == Account(
        billing="key", key="WORK_ANTHROPIC_KEY", slots=4, max_cost_usd_per_day=50
    )


def test_the_file_is_read_anew_each_time(tmp_path: Path) -> None:
    for slots in (1, 2):
        write(tmp_path, f"[accounts.openai]\nslots = {slots}")
        assert load(tmp_path).account("openai/default").slots == slots


@pytest.mark.parametrize("text", ["", "# nothing\n", "[accounts]\n", '[accounts."größe/a"]\n'])
def test_a_file_may_say_little(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert load(tmp_path).account("anthropic/default") == Account()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[account.anthropic]\nslots = 4", "account: unknown field"),
        ("[accounts.anthropic]\nslot = 4", "accounts.anthropic.slot: unknown field"),
        ("[accounts.anthropic.work]\nslots = 4", "accounts.anthropic.work: unknown field"),
        ("accounts = 5", "accounts: Input should be"),
        ('[accounts.anthropic]\nbilling = "sometimes"', "accounts.anthropic.billing: Input should be 'auto'"),
        ("[accounts.anthropic]\nslots = 0", "accounts.anthropic.slots: Input should be greater"),
        ('[accounts.anthropic]\nslots = "4"', "accounts.anthropic.slots: Input should be a valid integer"),
        ("[accounts.anthropic]\nslots = 1001", "accounts.anthropic.slots: Input should be less"),
        ("[accounts.anthropic]\nmax_cost_usd_per_day = 0", "accounts.anthropic.max_cost_usd_per_day: Input"),
        ('[accounts.anthropic]\nbilling = "key"', 'accounts.anthropic: billing = "key" needs `key`'),
        ('[accounts."anthropic/work"]\nkey = "WORK"', 'accounts.anthropic/work: billing = "key" needs `key`'),
        ('[accounts.a]\nbilling = "subscription"\nkey = "WORK"', 'accounts.a: billing = "key" needs `key`'),
        ("[accounts.anthropic/work]\nslots = 4", "Expected ']' at the end of a table declaration (at line 1"),
        ("slots", "Expected '=' after a key"),
        ('[sandbox]\nmode = "maybe"', "sandbox.mode: Input should be 'auto'"),
        ('[sandbox]\nread = [".ssh"]', "sandbox.read: .ssh must begin with / or ~/"),
        ('[sandbox]\nnetwork = ["https://a.example/"]', "sandbox.network"),
        ("[sandbox.limits]\nnice = 20", "sandbox.limits.nice: Input should be less than or equal to 19"),
        ("[sandbox.limits]\nmemory = 5", "sandbox.limits.memory: unknown field"),
        ("a = 1\na = 2\n\n", "Cannot overwrite a value"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_the_field(tmp_path: Path, text: str, said: str) -> None:
    assert refusal(tmp_path, text).startswith(said)


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    assert refusal(tmp_path, "[accounts.a]\nslot = 4\n[accounts.b]\nslots = 0").split("; ") == [
        "accounts.a.slot: unknown field",
        "accounts.b.slots: Input should be greater than or equal to 1",
    ]


def test_a_key_that_was_put_into_the_file_is_not_repeated(tmp_path: Path) -> None:
    assert KEY not in refusal(tmp_path, f'[accounts.a]\nbilling = "{KEY}"\nkey = ["{KEY}"]')


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).mkdir()
    with pytest.raises(BadConfig, match="Is a directory"):
        load(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadConfig, match=CONFIG_FILE) as caught:
        load(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


# --- accounts ----------------------------------------------------------------------------------------


def accounts(**slots: int) -> Config:
    return Config(accounts={name.replace("__", "/"): Account(slots=count) for name, count in slots.items()})


@pytest.mark.parametrize(
    ("config", "name", "slots"),
    [
        (accounts(anthropic=1), "anthropic/default", 1),
        (accounts(anthropic__default=2), "anthropic/default", 2),
        (accounts(anthropic=1, anthropic__default=2), "anthropic/default", 2),
        (accounts(anthropic=1, anthropic__work=3), "anthropic/work", 3),
        (accounts(anthropic=1), "anthropic/work", 8),
        (accounts(anthropic=1), "openai/default", 8),
        (accounts(anthropic=1), "", 8),
        (accounts(anthropic__work=3), "anthropic/default", 8),
    ],
)
def test_a_vendor_alone_stands_for_its_default_account(config: Config, name: str, slots: int) -> None:
    assert config.account(name).slots == slots


def agent(name: str, account: str | None = None, model: str | None = None) -> AgentSpec:
    command = ["./agent.sh"] if name == "command" else []
    return AgentSpec(runtime=name, account=account, model=model, command=command)


@pytest.mark.parametrize(
    ("name", "account", "whole"),
    [
        ("claude-code", None, "anthropic/default"),
        ("claude-code", "work", "anthropic/work"),
        ("claude-code", "anthropic/work", "anthropic/work"),
        ("codex", None, "openai/default"),
        ("codex", "work", "openai/work"),
        ("command", None, ""),
        ("command", "work", "command/work"),
        ("command", "command/work", "command/work"),
    ],
)
def test_whose_limits_an_agents_turn_counts_against(name: str, account: str | None, whole: str) -> None:
    assert account_of(runtime(name), agent(name, account)) == whole


@pytest.mark.parametrize("name", sorted(RUNTIMES))
@pytest.mark.parametrize("account", [None, "work"])
@pytest.mark.parametrize("model", [None, "a/b"])
def test_the_whole_name_of_an_account_names_the_same_account(name: str, account: str | None, model: str | None) -> None:
    found = runtime(name)
    whole = account_of(found, agent(name, account, model))
    assert account_of(found, agent(name, whole or None, model)) == whole


# --- what a CLI sees of the environment --------------------------------------------------------------


@pytest.fixture(params=["claude-code", "codex", "command"])
def cli(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """A runtime, on a worker with every credential that there can be."""
    for found in RUNTIMES.values():
        for name in filter(None, [found.key, *found.outranking]):
            monkeypatch.setenv(name, f"the worker's {name}")
    monkeypatch.setenv("WORK_KEY", KEY)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of a cloud")
    monkeypatch.setenv("TEMPORAL_API_KEY", "of ours")
    return runtime(request.param)


def seen(cli: Runtime, account: Account) -> dict[str, str]:
    return agent_environment(cli, account, os.environ)


def credentials(environment: dict[str, str]) -> dict[str, str]:
    known = {name for found in RUNTIMES.values() for name in (found.key, *found.outranking)}
    return {name: value for name, value in environment.items() if name in known or value == KEY}


def test_in_the_mode_auto_a_cli_finds_what_it_would_in_a_terminal(cli: Runtime) -> None:
    environment = seen(cli, Account())
    assert set(cli.outranking) <= set(environment)
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["LC_ALL"] == "C.UTF-8"


def test_no_mode_passes_on_what_the_cli_has_no_use_for(cli: Runtime) -> None:
    modes = [Account(), Account(billing="subscription")]
    for environment in [seen(cli, mode) for mode in modes]:
        assert not {"AWS_SECRET_ACCESS_KEY", "TEMPORAL_API_KEY", "WORK_KEY"} & set(environment)
        assert all(name.startswith(cli.environment) for name in credentials(environment))


def test_a_subscription_is_outranked_by_nothing(cli: Runtime) -> None:
    environment = seen(cli, Account(billing="subscription"))
    assert not set(cli.outranking) & set(environment)
    assert credentials(environment) == {}
    assert environment["PATH"] == os.environ["PATH"]


def test_a_subscriptions_own_login_and_other_settings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR", "ANTHROPIC_BASE_URL", "CODEX_HOME"):
        monkeypatch.setenv(name, "set")
    for account in (Account(), Account(billing="subscription")):
        claude, codex = seen(runtime("claude-code"), account), seen(runtime("codex"), account)
        assert {"CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR", "ANTHROPIC_BASE_URL"} <= set(claude)
        assert "CODEX_HOME" in codex
        assert "CODEX_HOME" not in claude


def test_a_key_is_the_only_one(cli: Runtime) -> None:
    if cli.key:
        assert credentials(seen(cli, PAID_BY_KEY)) == {cli.key: KEY}
        assert "WORK_KEY" not in seen(cli, PAID_BY_KEY)


def test_a_key_leaves_no_subscription_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORK_KEY", KEY)
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", "set")
    assert "CLAUDE_CODE_OAUTH_TOKEN" not in seen(runtime("claude-code"), PAID_BY_KEY)


def test_the_key_of_one_account_is_not_seen_by_agents_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(accounts={"anthropic/work": Account(billing="key", key="ANTHROPIC_WORK_KEY")})
    monkeypatch.setenv("ANTHROPIC_WORK_KEY", KEY)
    claude = runtime("claude-code")
    assert KEY not in agent_environment(claude, Account(), os.environ, config.keys()).values()
    work = agent_environment(claude, config.account("anthropic/work"), os.environ, config.keys())
    assert work["ANTHROPIC_API_KEY"] == KEY
    assert "ANTHROPIC_WORK_KEY" not in work


def test_a_key_can_go_by_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORK_KEY", KEY)
    account = Account(billing="key", key="WORK_KEY", key_as="DEEPSEEK_API_KEY")
    assert credentials(seen(runtime("opencode"), account)) == {"DEEPSEEK_API_KEY": KEY}


def test_a_cli_without_a_key_cannot_be_billed_by_one(cli: Runtime) -> None:
    if not cli.key:
        with pytest.raises(BadConfig, match=r'^command takes no API key: remove billing = "key" from its account$'):
            seen(cli, PAID_BY_KEY)


@pytest.mark.parametrize("name", WITH_KEY)
def test_a_key_may_be_the_clis_own_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = runtime(name)
    monkeypatch.setenv(cli.key, KEY)
    assert credentials(seen(cli, Account(billing="key", key=cli.key)))[cli.key] == KEY


@pytest.mark.parametrize("name", WITH_KEY)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_variable_is_told_with_its_name(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORK_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("WORK_KEY", value)
    with pytest.raises(BadConfig) as caught:
        seen(runtime(name), PAID_BY_KEY)
    assert str(caught.value) == "the variable WORK_KEY is not set in the worker's environment: set it and restart"


def test_the_workers_environment_is_left_as_it_is(cli: Runtime) -> None:
    before: dict[str, Any] = dict(os.environ)
    seen(cli, Account(billing="subscription"))
    assert dict(os.environ) == before
