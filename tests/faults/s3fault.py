"""A proxy before an S3 server that injects faults: HTTP/1.1 on asyncio, in a thread of the test's
process.

Host and signed headers pass unchanged, so signatures stay valid. The first rule that matches a
request and is not used up decides its fate:

    reply         answered without the server: `status`, `code`, `message`
    reset         connection reset, the request never reaches the server
    ack_lost      the server executes the request, its answer is lost and the connection reset
    reset_body    reset after `after` bytes of the body; trunc_body: closed in good order there
    hang          nothing for `seconds` first; hang_body: that pause after `after` bytes
    slow          the body at `rate` bytes/s
    corrupt       the byte at `after` of the body flipped
    elsewhere     the bucket is in `region`: requests signed for another are sent on, as Amazon does
"""

import asyncio
import contextlib
import random
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from types import TracebackType

BUFFER = 1 << 20
CHUNK = 1 << 16
# Amazon's answers to wrong credentials hold the key, so ours all do
ECHOED_KEY = "AKIAECHOEDBYSERVER"


@dataclass
class Rule:
    """Which requests meet a fault, and which.

    Attributes:
        action: As above.
        method: Regular expression of the method.
        path: Regular expression found anywhere in path and query.
        prob: Share of the matching requests that it meets.
        skip: Matching requests let through before the first.
        count: Requests it meets at most.
        hits: Requests it has met.
    """

    action: str
    method: str = ".*"
    path: str = ""
    prob: float = 1.0
    skip: int = 0
    count: int = 1 << 30
    status: int = 503
    code: str = "SlowDown"
    message: str = "injected"
    after: int = 0
    seconds: float = 60.0
    rate: float = 65536.0
    region: str = ""
    hits: int = field(default=0, init=False)
    _seen: int = field(default=0, init=False)

    def meets(self, method: str, path: str, draw: random.Random) -> bool:
        """Decide about one request."""
        if (
            not re.fullmatch(self.method, method)
            or not re.search(self.path, path)
            or self.hits >= self.count
        ):
            return False
        self._seen += 1
        if self._seen <= self.skip or draw.random() >= self.prob:
            return False
        self.hits += 1
        return True


@dataclass(frozen=True)
class Head:
    """Request or status line and headers, as they came and parsed."""

    raw: bytes
    words: tuple[str, str, str]
    headers: dict[str, str]


class Reset(Exception):
    """The client's connection is to be reset."""


class FaultProxy:
    """Relays to a server while the context is open; `rules` may be replaced at any time.

    Args:
        upstream: URL of the server.
        seed: Of the draws.
        tls: Certificate and key, for clients that speak TLS.

    Attributes:
        rules: What goes wrong.
        endpoint: URL to use instead of the server's.
        requests: Requests by method.
        sent: Bytes of the bodies of answers, by method of the request.
    """

    def __init__(self, upstream: str, *, seed: int = 0, tls: ssl.SSLContext | None = None) -> None:
        host, port = upstream.removeprefix("http://").rsplit(":", 1)
        self._upstream = host, int(port)
        self._tls = tls
        self._draw = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.rules: list[Rule] = []
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.endpoint = ""

    def __enter__(self) -> "FaultProxy":
        self._thread = threading.Thread(target=self._run, name="s3fault", daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._serve())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._client, "127.0.0.1", 0, limit=BUFFER, backlog=512, ssl=self._tls
        )
        scheme = "https" if self._tls else "http"
        self.endpoint = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; a fault of the server's side is passed on as a reset."""
        upstream: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        try:
            while (request := await _head(reader)) is not None:
                method, path, _ = request.words
                self.requests[method] += 1
                rule = next(
                    (rule for rule in self.rules if rule.meets(method, path, self._draw)), None
                )
                if rule is not None and rule.action == "reset":
                    raise Reset
                if rule is not None and (rule.action == "reply" or _is_elsewhere(request, rule)):
                    if not await _reply(request, reader, writer, rule):
                        return
                    continue
                if not upstream:
                    upstream.append(await asyncio.open_connection(*self._upstream, limit=BUFFER))
                if not await _relay(request, reader, writer, *upstream[0], rule, self.sent):
                    return
        except (Reset, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            _reset(writer)
        except asyncio.CancelledError:  # the proxy is closing
            pass
        finally:
            for stream in (writer, *(there for _, there in upstream)):
                stream.close()


async def _head(reader: asyncio.StreamReader) -> Head | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = raw[:-4].decode("latin1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    one, two, three = first.split(" ", 2)
    return Head(
        raw, (one, two, three), {name.strip().lower(): value.strip() for name, _, value in pairs}
    )


async def _body(reader: asyncio.StreamReader, head: Head) -> AsyncIterator[bytes]:
    """Yield a body as it is on the wire."""
    if "chunked" in head.headers.get("transfer-encoding", "").lower():
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
        return
    left = int(head.headers.get("content-length", 0))
    while left:
        data = await reader.read(min(left, CHUNK))
        if not data:
            raise Reset
        left -= len(data)
        yield data


def _is_elsewhere(request: Head, rule: Rule) -> bool:
    signed_for = f"/{rule.region}/s3/aws4_request"
    return rule.action == "elsewhere" and signed_for not in request.headers["authorization"]


async def _reply(
    request: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rule: Rule
) -> bool:
    """Answer without the server; tells whether the connection can go on."""
    # then the body is not on its way yet
    waits = "100-continue" in request.headers.get("expect", "").lower()
    if not waits:
        async for _ in _body(reader, request):
            pass
    said = f"<Code>{rule.code}</Code><Message>{rule.message}</Message>"
    if rule.region:
        said += f"<Region>{rule.region}</Region>"
    text = f"<Error>{said}<AWSAccessKeyId>{ECHOED_KEY}</AWSAccessKeyId></Error>"
    body = b"" if request.words[0] == "HEAD" else text.encode()
    head = (
        f"HTTP/1.1 {rule.status} {rule.code}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    if rule.region:
        head += f"x-amz-bucket-region: {rule.region}\r\n"
    writer.write(
        head.encode() + f"Connection: {'close' if waits else 'keep-alive'}\r\n\r\n".encode() + body
    )
    await writer.drain()
    return not waits


async def _relay(
    request: Head,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    up_reader: asyncio.StreamReader,
    up_writer: asyncio.StreamWriter,
    rule: Rule | None,
    sent: Counter[str],
) -> bool:
    """Pass a request on and its answer back; tells whether the connection can go on."""

    async def send() -> None:
        async for data in _body(reader, request):
            up_writer.write(data)
            await up_writer.drain()

    up_writer.write(request.raw)
    sending = asyncio.ensure_future(send())
    try:
        answer = await _answer(up_reader, writer)
        action = rule.action if rule else ""
        bodiless = request.words[0] == "HEAD" or answer.words[1] in ("204", "304")
        if action == "ack_lost":
            await sending
            raise Reset
        if rule and action == "hang":
            await asyncio.sleep(rule.seconds)
        writer.write(answer.raw)
        if not bodiless:
            sent[request.words[0]] += await _pass_body(up_reader, writer, answer, rule)
        await writer.drain()
        closing = "close" in answer.headers.get("connection", "") + request.headers.get(
            "connection", ""
        )
        return sending.done() and not closing
    finally:
        sending.cancel()


async def _answer(up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Head:
    """Read the final answer's head; `100 Continue` goes to the client at once."""
    while True:
        answer = await _head(up_reader)
        if answer is None:
            raise Reset
        if int(answer.words[1]) >= 200:
            return answer
        writer.write(answer.raw)
        await writer.drain()


async def _pass_body(
    up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Head, rule: Rule | None
) -> int:
    """Pass a body on; returns its bytes on the wire."""
    action, done = rule.action if rule else "", 0
    async for data in _body(up_reader, answer):
        cut = rule.after - done if rule else 0
        if rule and 0 <= cut < len(data):
            data = await _spoil(writer, data, cut, rule)
        done += len(data)
        for piece in _pieces(data, rule) if rule and action == "slow" else [data]:
            writer.write(piece)
            await writer.drain()
            if rule and action == "slow":
                await asyncio.sleep(len(piece) / rule.rate)
    return done


async def _spoil(writer: asyncio.StreamWriter, data: bytes, cut: int, rule: Rule) -> bytes:
    """Do what a rule does to the body at one place; returns what goes on."""
    if rule.action == "corrupt":
        return data[:cut] + bytes([data[cut] ^ 0xFF]) + data[cut + 1 :]
    if rule.action not in ("reset_body", "trunc_body", "hang_body"):
        return data
    writer.write(data[:cut])
    await writer.drain()
    if rule.action == "hang_body":
        await asyncio.sleep(rule.seconds)
        return data[cut:]
    await asyncio.sleep(0.02)  # what was written reaches the client first
    if rule.action == "trunc_body":
        writer.close()
    raise Reset


def _pieces(data: bytes, rule: Rule) -> Iterable[bytes]:
    size = max(1, int(rule.rate / 10))
    return (data[start : start + size] for start in range(0, len(data), size))


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN; harmless where the connection is closed already."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
