"""Calls tools as a CLI does, by the program that its environment names: `mcp_client.py OUT CALLS.json`.

Prints nothing: the answers, and the names of all tools first, are lines of OUT. Run inside of an agent's sandbox, so
it has only the standard library.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any


def main(out: Path, calls: list[tuple[str, dict[str, Any]]]) -> None:
    server = subprocess.Popen(shlex.split(os.environ["MERGEWRIGHT_MCP"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None

    def send(method: str, params: dict[str, Any], number: int | None = None) -> Any:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        server.stdin.write(json.dumps(message if number is None else {**message, "id": number}).encode() + b"\n")
        server.stdin.flush()
        while number is not None:
            answer = json.loads(server.stdout.readline())
            if answer.get("id") == number:
                return answer["result"]
        return None

    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    send("initialize", client, 0)
    send("notifications/initialized", {})
    with out.open("a") as file:
        file.write(" ".join(tool["name"] for tool in send("tools/list", {}, 1)["tools"]) + "\n")
        for number, (name, arguments) in enumerate(calls, 2):
            answer = send("tools/call", {"name": name, "arguments": arguments}, number)
            text = answer["content"][0]["text"]
            file.write(json.dumps(f"REFUSED: {text}" if answer.get("isError") else text) + "\n")
    server.stdin.close()
    assert server.wait(20) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
