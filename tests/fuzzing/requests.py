"""HTTP requests to a server that runs in a process of its own: damaged and hostile ones, several at a time.

A case is the bytes that a client sends on a connection, in one or more pieces with short pauses between them. It fails
if the server answers with a status of 500 or above, other than 503 and 504, takes more than `runner.MAX_SECONDS`, logs
a traceback, ends, needs too much memory, or does not answer `/health` meanwhile.
"""

from __future__ import annotations

import gzip
import http.client
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Tuple

from tests.fuzzing.mutations import damaged
from tests.fuzzing.runner import MAX_MEMORY, MAX_SECONDS, Failure, Files, Result, case, smaller
from tests.png_bomb import png_bomb

TOGETHER = 32  # clients
HEADER_SECONDS, UPLOAD_SECONDS = 0.5, 1  # limits of the server, small so that cases of slow clients end soon
PAUSE = 0.02  # seconds between pieces
START_SECONDS = 120

METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "M-SEARCH", "A" * 300]
PATHS = [
    "/", "/health", "/page.js", "/page.css", "/api/model", "/api/detect", "/openapi.json", "/api/detect/", "//", "*",
    "/api/detect?threshold=0", "/api/detect?threshold=nan", "/api/detect?threshold=1e999", "/api/detect?threshold=%ff",
    "/api/detect?threshold=0&threshold=x", "/api/detect?" + "a=b&" * 1500, "/%00", "/%2e%2e/%2e%2e/etc/passwd",
    "/../../etc/passwd", "/page.js/../app.py", "/" + "a" * 9000, "/" + "%ff" * 100, "http://evil.example/health",
    "//evil.example/", "/\\..\\", "/;a=b", "/api/detect#x",
]  # fmt: skip
HEADERS = [
    "Host: evil.example", "Host: ", "Host: [::1", "Host: localhost:99999999", "Origin: http://evil.example",
    "Origin: null", "Origin: http://[", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: \xff", "Connection: keep-alive",
    "Connection: close", "Connection: upgrade\r\nUpgrade: websocket", "Upgrade: h2c", "Expect: 100-continue",
    "Expect: x", "Content-Length: 5", "Content-Length: 99999999999", "Content-Length: -1", "Content-Length: 1e3",
    "Content-Length: " + "9" * 20, "Content-Length: " + "9" * 5000, "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: x", "Content-Encoding: gzip", "Content-Encoding: \xe9",
    "Content-Type: multipart/form-data; boundary=b", "Content-Type: application/json", "Content-Type: \xff/\xff",
    "Range: bytes=0-1,5-9", "Cookie: " + "a=b; " * 1000, "X-Forwarded-For: ::1", "X-Forwarded-Proto: \xff",
    "Authorization: Basic !", "Accept-Encoding: gzip", "X: " + "a" * 20_000, "X : a", " X: a", "X\0: a", "X: a\rb",
    "X" * 5000 + ": a", ":", "x",
]  # fmt: skip


# Cases -------------------------------------------------------------------------------------------------------------


def generate(rng: random.Random) -> Files:
    """The pieces of a connection's bytes, by their order."""
    data = rng.choice([*[request] * 4, *[upload] * 8, pipelined, pipelined, noise])(rng)
    if rng.random() < 0.25:
        data = damaged(rng, data, [request(rng), upload(rng)])
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 0, 0, 1, 2, 5])))
    return {str(i): data[start:end] for i, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(data)]))}


def head(rng: random.Random, method: str, path: str, headers: List[str]) -> bytes:
    version = rng.choice(["1.1"] * 20 + ["1.0", "2.0", "9"])
    lines = [f"{method} {path} HTTP/{version}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def request(rng: random.Random) -> bytes:
    """A request of any kind, without a body or with a few bytes."""
    headers = rng.sample(HEADERS, rng.choice([0, 0, 0, 1, 1, 2, 3]))
    if rng.random() < 0.9:
        headers.insert(0, "Host: 127.0.0.1")
    if rng.random() < 0.05:
        headers += ["X: a"] * rng.choice([50, 500, 5000])
    if rng.random() < 0.7:
        headers.append("Connection: close")
    method = rng.choice(["GET"] * 15 + METHODS)
    return head(rng, method, rng.choice(PATHS[:7] * 3 + PATHS), headers) + rng.choice(
        [*[b""] * 10, b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n", b"0\r\nX: a\r\n\r\n"]
    )


def upload(rng: random.Random) -> bytes:
    """A request for detection with a picture, or with something else."""
    body = rng.choice(bodies())
    if rng.random() < 0.3:
        body = damaged(rng, body, bodies())
    headers = ["Host: localhost", "Connection: close"]
    if rng.random() < 0.2:
        headers += [rng.choice(HEADERS)]
    path = rng.choice(["/api/detect"] * 100 + PATHS)
    if rng.random() < 0.3:
        size = rng.choice([1, 7, 100, 5000, len(body) + 1])
        pieces = [body[at : at + size] for at in range(0, min(len(body), 300 * size), size)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return head(rng, "POST", path, [*headers, "Transfer-Encoding: chunked"]) + chunks + b"0\r\n\r\n"
    lie = rng.choice([0] * 20 + [-1, 1, 1000, 10**9])
    return head(rng, "POST", path, [*headers, f"Content-Length: {max(0, len(body) + lie)}"]) + body


def pipelined(rng: random.Random) -> bytes:
    """Several requests on a connection, some with an end of it in between."""
    requests = [rng.choice([request, upload])(rng) for _ in range(rng.choice([2, 3, 10]))]
    kept = [item.replace(b"Connection: close", b"X: keep") if rng.random() < 0.9 else item for item in requests]
    return b"".join(kept)


def noise(rng: random.Random) -> bytes:
    return rng.choice(
        [
            rng.randbytes(rng.choice([1, 100, 10_000])),
            b"\r\n" * rng.choice([1, 100, 20_000]),
            b"\x16\x03\x01\x02\x00" + rng.randbytes(500),  # TLS
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET " + b"a" * rng.choice([100, 30_000, 300_000]),
            b"",
        ]
    )


@cache
def bodies() -> List[bytes]:
    """Pictures of all formats, and bodies that are none."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
    smooth = cv2.resize(pixels[:4, :4], (300, 200))
    suffixes = (".jpg", ".png", ".bmp", ".webp", ".tif")
    pictures = [cv2.imencode(suffix, picture)[1].tobytes() for suffix in suffixes for picture in (pixels, smooth)]
    progressive = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    part = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\nx\r\n'
    return [
        *pictures, progressive, progressive + b"\xff\xda" * 5000, png_bomb(60_000, 60_000), png_bomb(5000, 4999),
        png_bomb(1, 2**31 - 1), part * 3000 + b"--b--", gzip.compress(bytes(5_000_000)), b"", b"text", b"{}",
        bytes(1_100_000),
    ]  # fmt: skip


# The server ----------------------------------------------------------------------------------------------------------

PROGRAM = f"""
import sys
from ppdet_repro.serve import connections
connections.Patience.__new__.__defaults__ = ({HEADER_SECONDS}, 20.0, 0.5, 0.5)
from ppdet_repro.cli.main import main
flags = ["--max_mb=1", "--timeout={UPLOAD_SECONDS}", "--connections_per_address=64"]
sys.argv[1:1] = ["serve", *flags]
main()
"""


class Server:
    """The command `serve` in a process, with a small model. A call sends one case and judges what happened."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="fuzz")
        self.model = export_tiny_model(Path(self.folder.name))
        self.log = Path(self.folder.name) / "log"
        self.largest = 0  # bytes of memory more than at the start
        self.start()

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-c", PROGRAM, f"--model_dir={self.model}", f"--port={self.port}"]
        self.log.unlink(missing_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while self.health() is not None:
            assert time.monotonic() < deadline and self.process.poll() is None, self.log.read_text()[-2000:]
            time.sleep(0.1)
        for body in bodies()[:10]:  # each format's decoder is loaded, and the network has run
            assert self.send({"": head(random.Random(0), "POST", "/api/detect", upload_headers(body)) + body})[0]
        self.base = memory(self.process.pid)

    def health(self) -> str | None:
        """Ask `/health`. Returns what is wrong.

        Where the processor is busy, this client may itself take longer than the server waits for a header here. Then it
        asks again.
        """
        start = time.monotonic()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=MAX_SECONDS)
            connection.request("GET", "/health")
            sent = time.monotonic() - start
            status = connection.getresponse().status
            connection.close()
        except http.client.RemoteDisconnected as error:
            return self.health() if sent >= HEADER_SECONDS else f"/health: {error!r}"
        except OSError as error:
            return f"/health: {error!r}"
        return None if status == 200 else f"/health: {status}"

    def send(self, files: Files) -> Tuple[List[int], float]:
        """Send a case. Returns the statuses of the answers, and the longest time in seconds until one or the end."""
        received, start = b"", time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), timeout=2 * MAX_SECONDS) as connection:
            try:
                for i, piece in enumerate(files.values()):
                    time.sleep(PAUSE if i else 0)
                    connection.sendall(piece)
                start = time.monotonic()
                while data := connection.recv(1 << 16):
                    received += data
            except ConnectionError:
                pass
            except socket.timeout:
                return statuses(received), 2 * MAX_SECONDS
        return statuses(received), time.monotonic() - start

    def __call__(self, files: Files) -> Result:
        """Send one case alone."""
        result = judge(*self.send(files))
        return self.state() or result

    def state(self) -> Result | None:
        """What is wrong with the process, which is then started anew if need be."""
        log = self.log.read_text(errors="replace")[-3000:]
        if self.process.poll() is not None:
            code = self.process.returncode
            self.start()
            return Result("signal" if code < 0 else "exit", f"exit code {code}; {log}")
        if "rror" in log or "Traceback" in log:
            os.truncate(self.log, 0)
            return Result("traceback", log)
        more = memory(self.process.pid) - self.base
        self.largest = max(self.largest, more)
        if more > MAX_MEMORY:
            self.close()
            self.start()
            return Result("memory", f"{more >> 20} MB more than at the start", memory=more)
        wrong = self.health()
        return Result("health", wrong) if wrong else None

    def together(self, batch: List[Files], clients: ThreadPoolExecutor) -> List[Result]:
        """Send cases at the same time. If something is wrong with the process then, they are sent again one by one."""
        pending = [clients.submit(self.send, files) for files in batch]
        wrong = self.health()
        results = [judge(*sent.result()) for sent in pending]
        state = Result("health", wrong) if wrong else self.state()
        if state is None:
            return results
        alone = [self(files) for files in batch]
        return alone if any(result.outcome == state.outcome for result in alone) else [state, *results[1:]]

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def judge(found: List[int], seconds: float) -> Result:
    """The result of a case with these statuses of answers."""
    detail = f"answers: {found}"
    if any(status >= 500 and status not in (503, 504) for status in found):
        return Result("status", detail, seconds)
    if seconds > MAX_SECONDS:
        return Result("slow", detail, seconds)
    return Result("loaded" if found and found[-1] < 300 else "refused", detail, seconds)


def upload_headers(body: bytes) -> List[str]:
    return ["Host: localhost", "Connection: close", f"Content-Length: {len(body)}"]


def statuses(received: bytes) -> List[int]:
    """The statuses of the answers in a stream. Bodies are JSON and the page, which have no such lines."""
    return [int(found) for found in re.findall(rb"^HTTP/1\.1 (\d{3}) [^\n]*\r$", received, re.MULTILINE)]


def memory(pid: int) -> int:
    """The bytes in memory of a process and its children."""
    total = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit():
                text = Path(f"/proc/{name}/status").read_text()
                parent = int(re.search(r"PPid:\s+(\d+)", text)[1])  # type: ignore[index]
                found = re.search(r"VmRSS:\s+(\d+) kB", text)
                if pid in (int(name), parent) and found:
                    total += 1024 * int(found[1])
        except (OSError, TypeError):  # it has ended
            pass
    return total


def export_tiny_model(folder: Path) -> Path:
    """Export a small YOLOF in a process of its own, so that this one does not load Paddle."""
    code = (
        "import sys; from pathlib import Path; from tests.tiny_yolof import *\n"
        "from ppdet_repro.engine.export.export_model import export_model\n"
        "folder = Path(sys.argv[1]); write_config(folder, write_images(folder / 'data', count=1))\n"
        "print(export_model(tiny_model(folder / 'tiny.yml'), load_config(folder / 'tiny.yml'), folder / 'export'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    return Path(done.stdout.splitlines()[-1])


# The run -------------------------------------------------------------------------------------------------------------


def fuzz(cases: int, seed: int, report: Callable[[str], None] = print) -> Iterator[Failure]:
    """Send so many cases, `TOGETHER` at a time. Yields those that fail, and reports the counts at the end."""
    server, longest = Server(), 0.0
    counts: Dict[str, int] = {}
    try:
        with ThreadPoolExecutor(TOGETHER) as clients:
            for start in range(0, cases, TOGETHER):
                numbers = range(start, min(start + TOGETHER, cases))
                batch = [case("requests", seed, number) for number in numbers]
                for number, files, result in zip(numbers, batch, server.together(batch, clients)):
                    counts[result.outcome] = counts.get(result.outcome, 0) + 1
                    longest = max(longest, result.seconds)
                    if result.outcome not in ("loaded", "refused"):
                        yield Failure(number, result, smaller(server, files, result.outcome))
    finally:
        server.close()
    text = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(counts.items()))
    report(f"requests: {text}; at most {longest:.1f} s for a case, and {server.largest / 2**20:.0f} MB more memory")
