"""The worker's own configuration: `config.toml` in the data folder. It says what a repository must not: who pays.

[accounts.anthropic]            # of every agent that names no account
billing = "subscription"

[accounts."anthropic/work"]     # of agents with `account = "work"`
billing = "key"
key = "WORK_ANTHROPIC_KEY"      # a variable of the worker's environment
slots = 4
max_cost_usd_per_day = 50

[keep]                          # how long: see Keep
salvage_days = 90

[disk]                          # before a worktree is made: see Disk
floor_gb = 5

[environment]
allow = ["NPM_TOKEN"]           # variables that a task's agents may be given: `env = { NPM_TOKEN = "$NPM_TOKEN" }`

[sandbox]                       # of all agents and gates
read = ["~/.m2"]

[mcp]                           # tools of agents: see Mcp
enabled = true

[ports]                         # for the blocks that tasks ask for
first = 20000
last = 29999

[[notify]]                      # may be repeated: see Destination
url = "$TELEGRAM_URL"           # a variable of the worker's environment
events = ["blocked", "approval"]
repositories = ["/src/app"]

[notify_digest]
at = "08:00"
timezone = "Europe/Berlin"
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationError, field_validator, model_validator

from activities.agents.base import Runtime
from activities.contracts import NoticeEvent
from activities.masking import MASKS
from activities.process import base_environment
from activities.sandbox import Limits, Network
from activities.settings import AgentSpec, Model, explain

CONFIG_FILE = "config.toml"
DEFAULT = "default"


class BadConfig(Exception):
    """One line that names the file, the field and the remedy."""


class Account(Model):
    """One account at a vendor of models: what its limits are, and how a turn on it is paid."""

    billing: Literal["auto", "subscription", "key"] = "auto"
    """`auto`: whatever the CLI finds, as in a terminal. `subscription`: its own login, whatever keys there are."""
    key: str | None = Field(None, min_length=1)
    """Of `key`: the variable of the worker's environment that holds the API key. No other credential is passed on, and
    agents on other accounts do not see it."""
    key_as: str | None = Field(None, min_length=1)
    """The variable that the CLI gets it in; none: the CLI's usual one. OpenCode has one for each provider."""
    slots: int = Field(8, ge=1, le=1_000, strict=True)
    """Turns at once, on all hosts."""
    max_cost_usd_per_day: float | None = Field(None, gt=0)
    """A day begins at midnight UTC."""

    @model_validator(mode="after")
    def _key_billing(self) -> Account:
        if (self.billing == "key") != (self.key is not None):
            raise ValueError('billing = "key" needs `key`, the name of a variable, and only that does')
        return self


class Keep(Model):
    """What is kept of tasks that have ended. Days count from when something was saved, or seen to be over; slots and
    run folders go earlier only where the disk is full."""

    salvage_days: float = Field(30, ge=0)
    salvage_count: int = Field(20, ge=0, strict=True)
    """So many salvages of a repository, its newest, are kept however old they are."""
    runs_days: float = Field(30, ge=0)
    """Run folders (prompts, transcripts, logs), and what is kept for repositories that are gone."""
    slots_days: float = Field(7, ge=0)
    """Warm checkouts for gates, and what set-up commands have made, that nobody has used."""
    results_days: float = Field(30, ge=0)
    """That gates have passed on a tree."""


class Disk(Model):
    """A task waits, before its worktree is made, while there is less room than this."""

    floor_gb: float = Field(1, ge=0)
    """Free space on the data folder's disk."""
    cap_gb: float | None = Field(None, gt=0)
    """What the data folder may hold for one repository."""


class Environment(Model):
    """What a task may have of the worker's environment."""

    allow: list[str] = []
    """Variables that `env` of an agent may name as `$NAME`: so a secret is in no task's input, and in no history."""


_REFERENCE = re.compile(r"\$(\$?)([A-Za-z_]\w*)", re.ASCII)
Host = Annotated[str, Field(pattern=r"^(\*|(\*\.)?[A-Za-z0-9._-]+(:\d{1,5})?)$")]
Reach = Literal["full", "none"] | list[Host]


def _network(given: Reach) -> Network:
    return given if isinstance(given, str) else tuple(given)


class Resources(Model):
    """What one agent or one gate may use, with all that it starts; 0: as much as it likes."""

    memory_gb: float | None = Field(None, ge=0)
    """None: three quarters of what the machine has."""
    processes: int = Field(4_096, ge=0, strict=True)
    output_gb: float = Field(1, ge=0)
    disk_gb: float = Field(20, ge=0)
    open_files: int = Field(65_536, ge=0, strict=True)
    nice: int = Field(5, ge=0, le=19, strict=True)

    def limits(self) -> Limits:
        all_memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Limits(
            memory=(all_memory * 3 // 4 if self.memory_gb is None else round(self.memory_gb * 1e9)) or None,
            processes=self.processes or None,
            output=round(self.output_gb * 1e9) or None,
            disk=round(self.disk_gb * 1e9) or None,
            open_files=self.open_files or None,
            nice=self.nice,
        )


class SandboxSettings(Model):
    """What agents and gates see of the host. A repository can only narrow it."""

    mode: Literal["auto", "on", "off"] = "auto"
    """`auto`: a sandbox where bubblewrap works. `on`: nothing runs without one."""
    read: list[str] = []
    """Paths that are to be seen, absolute or from `~/`: a home is empty otherwise."""
    write: list[str] = []
    """Paths that may be written."""
    hide: list[str] = []
    """Paths that must not be seen."""
    network: Reach = ["*"]
    """`full`, `none`, or a list of hosts: `api.openai.com`, `*.openai.com`, `example.org:8443`, `127.0.0.1:5432`; `*`
    is every host of the internet, but nothing that listens on this host or in its networks."""
    gate_network: Reach | None = None
    """Of gates; none: as `network`."""
    limits: Resources = Resources()

    def network_of_agents(self) -> Network:
        return _network(self.network)

    def network_of_gates(self) -> Network:
        return _network(self.network if self.gate_network is None else self.gate_network)

    @field_validator("read", "write", "hide")
    @classmethod
    def _absolute(cls, paths: list[str]) -> list[str]:
        if bad := [path for path in paths if not path.startswith(("/", "~/"))]:
            raise ValueError(f"{bad[0]} must begin with / or ~/")
        return paths


class Mcp(Model):
    """The tools by which agents talk to operators and to each other while they work."""

    enabled: bool = Field(True, strict=True)


class PortRange(Model):
    """Of the ports that are given to tasks; nothing else on the host should listen there."""

    first: int = Field(20_000, ge=1_024, le=65_535, strict=True)
    last: int = Field(29_999, ge=1_024, le=65_535, strict=True)

    @model_validator(mode="after")
    def _in_order(self) -> PortRange:
        if self.last < self.first:
            raise ValueError("`last` is below `first`")
        return self


class Destination(Model):
    """Whom to tell what, by a URL of apprise (`tgram://…`, `slack://…`, `mailto://…`)."""

    url: str
    """`$NAME`, a variable of the worker's environment: such a URL is a secret."""
    events: list[NoticeEvent] = Field(list(get_args(NoticeEvent)), min_length=1)
    repositories: list[str] = []
    """Of these only; empty: of all."""

    @field_validator("url")
    @classmethod
    def _variable(cls, url: str) -> str:
        if not re.fullmatch(r"\$[A-Za-z_]\w*", url, re.ASCII):
            raise ValueError("must be $NAME, a variable of the worker's environment that holds the URL: it is a secret")
        return url

    @field_validator("repositories")
    @classmethod
    def _resolved(cls, paths: list[str]) -> list[str]:
        if bad := [path for path in paths if not path.startswith(("/", "~/"))]:
            raise ValueError(f"{bad[0]} must begin with / or ~/")
        return [str(Path(path).expanduser().resolve()) for path in paths]

    @property
    def name(self) -> str:
        return self.url[1:]

    def wants(self, event: NoticeEvent, repo: str) -> bool:
        """`repo`: its real path; empty: of no repository in particular."""
        return event in self.events and (not self.repositories or not repo or repo in self.repositories)


class Digest(Model):
    """Once a day, to the destinations that want the event `digest`."""

    at: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"{name!r} is no time zone such as Europe/Berlin") from None
        return name


class Config(Model):
    accounts: dict[str, Account] = {}
    keep: Keep = Keep()
    disk: Disk = Disk()
    environment: Environment = Environment()
    sandbox: SandboxSettings = SandboxSettings()
    mcp: Mcp = Mcp()
    ports: PortRange = PortRange()
    notify: list[Destination] = []
    notify_digest: Digest | None = None

    def wanted(self, repo: str) -> list[NoticeEvent]:
        """What anybody is told of a repository."""
        return [event for event in get_args(NoticeEvent) if any(each.wants(event, repo) for each in self.notify)]

    def account(self, name: str) -> Account:
        """`anthropic/work`; `anthropic` stands for `anthropic/default`."""
        found = self.accounts.get(name)
        if found is None and name.endswith(f"/{DEFAULT}"):
            found = self.accounts.get(name.removesuffix(f"/{DEFAULT}"))
        return found or Account()

    def keys(self) -> set[str]:
        """The variables of the worker that hold accounts' keys."""
        return {account.key for account in self.accounts.values() if account.key}

    def filled_in(self, env: Mapping[str, str], worker: Mapping[str, str]) -> dict[str, str]:
        """`env` of an agent, with the worker's values for `$NAME`; `$$NAME` is the text `$NAME`. Raises BadConfig."""
        return {name: self._value(name, text, worker) for name, text in env.items()}

    def _value(self, name: str, text: str, worker: Mapping[str, str]) -> str:
        found = _REFERENCE.fullmatch(text)
        if found is None:
            return text
        escaped, wanted = found.groups()
        if escaped:
            return text[1:]
        if wanted not in self.environment.allow:
            raise BadConfig(
                f"env.{name}: the worker gives nobody ${wanted}: list it in {CONFIG_FILE} under [environment] allow, "
                f"or write $${wanted} for the text itself"
            )
        if wanted not in worker:
            raise BadConfig(f"env.{name}: the variable {wanted} is not set in the worker's environment")
        return worker[wanted]


def load(home: Path) -> Config:
    """As the file is now; without one, the defaults. The secrets that it names are masked from now on.

    Raises BadConfig.
    """
    path = home / CONFIG_FILE
    try:
        config = Config.model_validate(tomllib.loads(path.read_text()))
        MASKS.learn({name: os.environ[name] for name in config.keys() & os.environ.keys()}, all_of_it=True)
        MASKS.learn({name: os.environ[name] for name in {*config.environment.allow} & os.environ.keys()})
        for destination in config.notify:
            MASKS.learn_url(destination.name, os.environ.get(destination.name, ""))
        return config
    except FileNotFoundError:
        return Config()
    except ValidationError as error:
        raise BadConfig(f"{path}: {explain(error)}") from None
    except (OSError, ValueError) as error:
        raise BadConfig(f"{path}: {error}") from None


def account_of(runtime: Runtime, agent: AgentSpec) -> str:
    """`vendor/name`, for quotas and bills; empty for an agent that counts against nobody's limits."""
    vendor = runtime.vendor(agent)
    if not vendor or (agent.account and "/" in agent.account):
        return (vendor and agent.account) or ""
    return f"{vendor}/{agent.account or DEFAULT}"


def agent_environment(
    runtime: Runtime, account: Account, worker: Mapping[str, str], keys: Collection[str] = ()
) -> dict[str, str]:
    """The worker's variables that a CLI may see: an allow-list, less what would be paid otherwise than configured.

    `worker` is the worker's environment, `keys` what accounts name as theirs. Raises BadConfig for a key that is not
    set.
    """
    hidden = {*keys, *(() if account.billing == "auto" else runtime.outranking)}
    if account.billing == "key":
        hidden.update(runtime.logins)
    kept = {name: value for name, value in base_environment(runtime.environment).items() if name not in hidden}
    if account.key is not None:
        name = account.key_as or runtime.key
        if not name:
            raise BadConfig(f'{runtime.name} takes no API key: remove billing = "key" from its account')
        if not worker.get(account.key):
            raise BadConfig(f"the variable {account.key} is not set in the worker's environment: set it and restart")
        kept[name] = worker[account.key]
    return kept
