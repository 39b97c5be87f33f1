"""A server of files with range requests, latency and faults, as an object store has them."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class RangeServer:
    """A running server.

    Attributes:
        url: address of the folder.
        requests: path and range of each request so far.
        latency: seconds before each response.
        fault: status by the path of a request, or 0: none. ``ignores_ranges``: whole files;
            ``hides_length``: in chunks. ``compresses``: if the client accepts gzip.
    """

    url: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    latency: float = 0.0
    fault: Callable[[str, str], int] = lambda _path, _range: 0
    ignores_ranges: bool = False
    hides_length: bool = False
    compresses: bool = False


@contextlib.contextmanager
def serve(folder: Path, latency: float = 0.0) -> Iterator[RangeServer]:
    """Serve a folder until the end of the block."""
    server: RangeServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_HEAD(self) -> None:
            self._respond(with_body=False)

        def do_GET(self) -> None:
            self._respond(with_body=True)

        def _respond(self, with_body: bool) -> None:
            wanted = self.headers.get("Range", "")
            if with_body:
                server.requests.append((self.path, wanted))
                time.sleep(server.latency)
            status = server.fault(self.path, wanted)
            path = folder / self.path.lstrip("/")
            if not status and not path.is_file():
                status = 404
            if status:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = path.read_bytes()
            is_gzip = server.compresses and "gzip" in self.headers.get("Accept-Encoding", "")
            if is_gzip:
                content = gzip.compress(content)
            size = len(content)
            first, last = 0, size - 1
            if wanted and not server.ignores_ranges:
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                first, last = int(start), min(int(end or last), last)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            if is_gzip:
                self.send_header("Content-Encoding", "gzip")
            part = content[first : last + 1]
            if server.hides_length:
                self.send_header("Transfer-Encoding", "chunked")
                part = b"%x\r\n%s\r\n0\r\n\r\n" % (len(part), part)
            else:
                self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if with_body:
                self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass  # a client that closes its connection

    http = Server(("127.0.0.1", 0), Handler)
    server = RangeServer(f"http://127.0.0.1:{http.server_address[1]}", latency=latency)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
