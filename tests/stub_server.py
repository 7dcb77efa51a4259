"""A server with OpenAI's chat and plain completions that can be late, send errors or garbage, or hang up."""

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HARMFUL = "The request is harmful because people could be hurt."
HARMLESS = "The request is harmless because nobody is hurt by it."


@dataclass(frozen=True)
class Say:
    """A reply after `delay` seconds: a chat completion, or `status`, `body` or a reset. `drip` is seconds per byte."""

    text: str | None = HARMLESS
    finish: str = "stop"
    delay: float = 0.0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    missing_bytes: int = 0
    drip: float = 0.0
    reset: bool = False


RESET = Say(reset=True)


def right(prompt: str) -> Say:
    return Say(HARMFUL if "is harmful: say why" in prompt else HARMLESS)


class Stub(ThreadingHTTPServer):
    """Answers with `behave(prompt, number of earlier requests with this prompt)`, and counts requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behave: Callable[[str, int], Say]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave = behave
        self.asked: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.models: list[str] = []
        self.gets: list[str] = []
        self.list_status = 200
        self.on_load: Callable[[dict[str, Any]], int] = lambda request: 404
        self.keys: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.active = self.most_active = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; tests do this on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stub = self.server
        if self.path.endswith("/load_lora_adapter"):
            self.send_response(stub.on_load(request))
            self.end_headers()
            return
        plain = "messages" not in request
        prompt = json.dumps(request["prompt"]) if plain else request["messages"][0]["content"]
        with stub.lock:
            stub.requests.append(request)
            say = stub.behave(prompt, stub.asked[prompt])
            stub.asked[prompt] += 1
            stub.times.append(time.monotonic())
            stub.keys.add(self.headers["Authorization"])
            stub.headers.append({name.lower(): value for name, value in self.headers.items()})
            stub.active += 1
            stub.most_active = max(stub.most_active, stub.active)
        time.sleep(say.delay)
        with stub.lock:
            stub.active -= 1
        if say.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        choice: dict[str, Any] = {"index": 0, "finish_reason": say.finish}
        choice |= {"text": say.text} if plain else {"message": {"role": "assistant", "content": say.text}}
        body = (
            json.dumps({"id": "x", "model": "stub-1", "choices": [choice]}).encode() if say.body is None else say.body
        )
        self.send_response(say.status)
        for name, value in {"Content-Type": "application/json", **say.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) + say.missing_bytes))
        self.end_headers()
        for part in (bytes([byte]) for byte in body) if say.drip else [body]:
            self.wfile.write(part)
            time.sleep(say.drip)

    def do_GET(self) -> None:
        self.server.gets.append(self.path)
        body = json.dumps({"data": [{"id": name} for name in self.server.models]}).encode()
        self.send_response(self.server.list_status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing to stderr."""


Serve = Callable[[Callable[[str, int], Say]], Stub]
