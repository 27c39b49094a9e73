"""docker-compose.yml and its files. No engine is needed, and none is used: what a container does is not shown here."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from temporalio.client import Client

from activities import process
from activities.agents import RUNTIMES
from service.devserver import temporal_cli
from service.run import GRACE

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "deploy").glob("*.sh"))
SHELL = next(iter(filter(shutil.which, ("dash", "sh"))))
"""dash knows no more than POSIX, as the shell of the images does."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def _compose_programs() -> list[list[str]]:
    """The first generation is one program, the second one a plugin of docker that may be missing."""
    programs = [["docker-compose"], ["docker", "compose"]]
    return [argv for argv in programs if shutil.which(argv[0]) and not _run([*argv, "version"]).returncode]


def _run(argv: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **env}
    return subprocess.run(argv, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60, check=False)


def _config(folder: Path, **env: str) -> dict[str, Any]:
    """What compose makes of the file with these variables and no others: a developer's own `.env` must not count."""
    (folder / "no.env").touch()
    if not (programs := _compose_programs()):
        pytest.skip("neither docker-compose nor the compose plugin of docker is installed")
    for argv in programs:
        done = _run([*argv, "--file", "docker-compose.yml", "--env-file", str(folder / "no.env"), "config"], **env)
        assert done.returncode == 0, done.stderr
        assert "variable is not set" not in done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found, f"{pattern} is not there"
    return str(found[1])


def _at(volumes: list[Any]) -> dict[str, str]:
    """Where in the container -> what is there; the generations print it differently."""
    found = {}
    for volume in volumes:
        source, target = volume.split(":")[:2] if isinstance(volume, str) else (volume["source"], volume["target"])
        found[target] = source
    return found


def test_compose_takes_the_file_as_it_is(tmp_path: Path) -> None:
    worker = _config(tmp_path)["services"]["worker"]
    assert _at(worker["volumes"])["/src"] == "/src"
    assert not worker["build"]["args"]["AGENT_CLIS"]
    assert worker["environment"]["ANTHROPIC_API_KEY"] is None


def test_compose_takes_what_can_be_set(tmp_path: Path) -> None:
    env = {"REPOSITORIES": "/home/me/my code", "AGENT_CLIS": "a@1 b@2", "AGENTS": "9", "ANTHROPIC_API_KEY": "mine"}
    worker = _config(tmp_path, **env)["services"]["worker"]
    assert _at(worker["volumes"])["/home/me/my code"] == "/home/me/my code"
    assert worker["build"]["args"]["AGENT_CLIS"] == "a@1 b@2"
    assert worker["command"] == ["--agents", "9"]
    assert worker["environment"]["ANTHROPIC_API_KEY"] == "mine"


def test_every_variable_has_a_default_and_is_explained() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    head = text[: text.index("\nx-")]
    for name, default in re.findall(r"\$\{?(\w+)(:-)?", text):
        assert default, f"{name}: compose warns when it is not set"
        assert name in head or name == "POSTGRES_PASSWORD", f"{name} is not explained"


def test_ports_are_for_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert sorted(ports) == ["127.0.0.1:7233:7233", "127.0.0.1:8080:8080"]
    assert not any("network_mode" in service or service.get("privileged") for service in compose["services"].values())


def test_images_are_pinned(compose: dict[str, Any], dockerfile: str) -> None:
    images = [service["image"] for service in compose["services"].values() if "image" in service]
    images += re.findall(r"^ARG \w+_IMAGE=(.+)$", dockerfile, re.MULTILINE)
    assert len(images) == 7
    for image in images:
        assert re.fullmatch(r"[a-z/-]+:\d+(\.\d+)*(-[a-z-]+)?", image), f"{image} names no version"


def test_server_and_ui_are_those_that_the_tests_run_with(compose: dict[str, Any]) -> None:
    said = _run([temporal_cli(), "--version"]).stdout
    server, ui = _find(r"Server ([\d.]+)", said), _find(r"UI ([\d.]+)", said)
    images = {name: service.get("image") for name, service in compose["services"].items()}
    assert images["temporal"] == f"temporalio/server:{server}"
    assert images["temporal-schema"] == images["temporal-namespace"] == f"temporalio/admin-tools:{server}"
    assert images["temporal-ui"] == f"temporalio/ui:{ui}"


def test_the_worker_has_time_to_end_its_agents(compose: dict[str, Any]) -> None:
    grace = inspect.signature(process.run).parameters["grace_seconds"].default
    seconds = int(_find(r"^(\d+)s$", compose["services"]["worker"]["stop_grace_period"]))
    assert seconds > 2 * (GRACE.total_seconds() + grace)


def test_a_new_container_finds_what_the_old_one_left(compose: dict[str, Any], dockerfile: str) -> None:
    worker = compose["services"]["worker"]
    home = _find(r"MERGEWRIGHT_HOME=(\S+)", dockerfile)
    volume = next(volume for volume in worker["volumes"] if home.startswith(volume.split(":")[1] + "/"))
    assert volume.split(":")[0] in compose["volumes"]
    assert worker["hostname"]  # in the names of its task queues
    assert worker["init"] is True


def test_keys_are_named_one_by_one_and_given_by_the_user(compose: dict[str, Any]) -> None:
    environment = compose["services"]["worker"]["environment"]
    given = {name for name, value in environment.items() if value is None}
    prefixes = ("GIT_", *(prefix for runtime in RUNTIMES.values() for prefix in runtime.environment))
    assert given
    assert [name for name in given if not name.startswith(prefixes)] == []
    assert set(environment) - given == {"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"}
    assert "env_file" not in compose["services"]["worker"]


def test_the_image_has_the_whole_program_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    program = {*project["packages"], *(f"{module}.py" for module in project["modules"])}
    assert {line[1:] for line in lines if line.startswith("!")} == {*program, "pyproject.toml", "uv.lock"}
    assert "*" in lines


def test_the_image_is_set_up_as_a_checkout_is(dockerfile: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert _find(r"ARG UV_VERSION=(.+)", dockerfile) == _find(r"UV_VERSION = (.+)", makefile)
    assert dockerfile.rindex("USER mergewright") > dockerfile.rindex("COPY")


def test_what_is_mounted_is_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    named = [services[name]["entrypoint"][-1] for name in ("temporal-schema", "temporal-namespace")]
    named.append(services["temporal"]["environment"]["DYNAMIC_CONFIG_FILE_PATH"])
    for path in named:
        assert (ROOT / path.removeprefix("/")).is_file(), path
    for name in ("temporal-schema", "temporal-namespace", "temporal"):
        assert services[name]["volumes"] == ["./deploy:/deploy:ro"]


def test_dynamic_configuration_has_the_form_that_the_server_reads() -> None:
    for file in (ROOT / "deploy" / "dynamicconfig").glob("*.yaml"):
        for key, values in yaml.safe_load(file.read_text()).items():
            assert all(set(value) <= {"value", "constraints"} and "value" in value for value in values), key


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n")
    done = _run([SHELL, "-n", str(script)])
    assert done.returncode == 0, done.stderr


async def test_the_namespace_is_made_once(client: Client) -> None:
    env = {
        "PATH": f"{Path(temporal_cli()).parent}:{os.environ['PATH']}",
        "TEMPORAL_ADDRESS": client.service_client.config.target_host,
        "TEMPORAL_NAMESPACE": f"made-{os.getpid()}",
    }
    assert _run(["temporal", "workflow", "count"], **env).returncode != 0
    for _ in range(2):
        done = _run([SHELL, "deploy/create-namespace.sh"], **env)
        assert done.returncode == 0, done.stderr
        assert _run(["temporal", "workflow", "count"], **env).returncode == 0
