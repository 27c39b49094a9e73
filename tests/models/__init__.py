from tests.models.server import ModelServer, clients
from tests.models.steps import Request, Scenario, Step, bash, call, edit, refuse, say, script, use, write

__all__ = [
    "ModelServer", "Request", "Scenario", "Step", "bash", "call", "clients", "edit", "refuse", "say", "script", "use",
    "write",
]  # fmt: skip
