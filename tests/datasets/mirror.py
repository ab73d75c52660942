"""A web server on this machine that gives what a test sets, or does wrong what it sets."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Mirror:
    """A web server whose answers a test sets: path -> body, and what to do wrong."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.declared: dict[str, int] = {}  # path -> a Content-Length that is not the body's
        self.status: dict[str, int] = {}
        self.asked: list[str] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                mirror.asked.append(path)
                body = mirror.bodies.get(path)
                status = mirror.status.get(path, 404 if body is None else 200)
                if body is None or status != 200:
                    self.send_error(status)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(mirror.declared.get(path, len(body))))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the client may have heard enough
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
