"""A receiver for `gor --output-http`: adds up the sizes of requests and responses by path.

    python size_receiver.py 8099
    gor --input-raw :80 --output-http http://127.0.0.1:8099      # every request, as it was
    curl -s 127.0.0.1:8099/sums                                  # the largest path first

Other programs can post {"path": …, "request": …, "response": …} to /analyze, both as text: then responses
count, too.
"""

import json
import sys
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import urlsplit

sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
lock = Lock()


def add(path: str, request: int, response: int) -> None:
    with lock:
        for n, more in enumerate((1, request, response)):
            sums[path][n] += more


def ordered() -> list[dict[str, object]]:
    with lock:
        found = sorted(sums.items(), key=lambda item: -item[1][1] - item[1][2])
    return [
        {"path": path, "requests": count, "request_bytes": request, "response_bytes": response}
        for path, (count, request, response) in found
    ]


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def received(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "GET" and path == "/sums":
            self.respond(200, json.dumps(ordered(), indent=1).encode())
        elif self.command == "POST" and path == "/analyze":
            try:
                post = json.loads(body)
                add(str(post["path"]), *(len(str(post[side]).encode()) for side in ("request", "response")))
            except (KeyError, TypeError, ValueError) as error:
                self.respond(400, f"give path, request and response as JSON: {error!r}\n".encode())
            else:
                self.respond(204)
        else:
            head = len(self.raw_requestline) + len(self.headers.as_bytes())
            add(path, head + len(body), 0)
            self.respond(204)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = received

    def respond(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A line for each request would be too many."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver) as server:
        print(f"http://127.0.0.1:{server.server_port}/sums", flush=True)
        server.serve_forever()
