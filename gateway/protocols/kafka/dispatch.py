"""From a frame to its handler and back: which APIs and versions are served, and what becomes of those that are not.

A handler is `async handler(context, request) -> Message`, awaited before the connection's next request is begun.
Produce alone is a plain function that answers by `request.reply` itself, at once or later. An API that is not served,
or a version of one that is not, closes the connection, as in Kafka; only ApiVersions answers an unknown version, in v0
with error 35 (KIP-511).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from gateway.protocols.kafka.api_versions import ApiKey, answer_api_versions, is_served
from gateway.protocols.kafka.codec import API_VERSIONS, decode_request, decode_request_header, encode_response
from gateway.protocols.kafka.codec_model import Message
from gateway.protocols.kafka.errors import RemoteProtocolError

if TYPE_CHECKING:
    from gateway.protocols.kafka.connection import Connection, Slot
    from gateway.protocols.kafka.context import Context


class Request:
    """One request of one connection. `body` is the decoded message; `reply` must be called once."""

    __slots__ = ("api_key", "body", "client_id", "connection", "correlation_id", "slot", "version")

    def __init__(self, connection: Connection, slot: Slot, api_key: int, version: int, correlation_id: int) -> None:
        self.connection = connection
        self.slot = slot
        self.api_key = api_key
        self.version = version
        self.correlation_id = correlation_id
        self.client_id = ""
        self.body: Message

    @property
    def client_host(self) -> str:
        """The client's address as Kafka shows it in group descriptions."""
        return "/" + self.connection.peer.rpartition(":")[0].strip("[]")

    def reply(self, message: Message | None) -> None:
        """Sends the response in its turn; None sends nothing (acks=0)."""
        buffers = () if message is None else encode_response(self.api_key, self.version, self.correlation_id, message)
        self.connection.fill(self.slot, buffers)


Handler = Callable[["Context", Request], Awaitable[Message]]
PipelinedHandler = Callable[["Context", Request], Awaitable[None] | None]


class Dispatcher:
    """Finds and calls the handler of a frame."""

    def __init__(
        self, context: Context, handlers: dict[ApiKey, Handler], pipelined: dict[ApiKey, PipelinedHandler]
    ) -> None:
        self._context = context
        self._handlers: Mapping[ApiKey, Handler] = handlers
        self._pipelined: Mapping[ApiKey, PipelinedHandler] = pipelined

    def handle(self, connection: Connection, frame: memoryview) -> Awaitable[None] | None:
        """Begins a request. The awaitable, if any, ends when the next one may begin. Raises RemoteProtocolError."""
        header, body_at = decode_request_header(frame)
        version = header.api_version
        served = is_served(header.api_key, version)
        if not served and header.api_key != API_VERSIONS:
            raise RemoteProtocolError(f"API {header.api_key} version {version} is not served")
        request = Request(connection, connection.open_slot(), header.api_key, version, header.correlation_id)
        request.client_id = header.client_id or ""
        if header.api_key == API_VERSIONS:
            self._answer_api_versions(request, frame[body_at:], served)
            return None
        request.body = decode_request(header.api_key, version, frame, body_at)
        api = ApiKey(header.api_key)
        pipelined = self._pipelined.get(api)
        if pipelined is not None:
            connection.pipeline(request.slot, len(frame))
            return pipelined(self._context, request)
        return self._answer(self._handlers[api], request)

    def write_now(self) -> None:
        """The requests of one read have been begun: what they append goes to the disk in this step."""
        self._context.broker.engine.write_now()

    def _answer_api_versions(self, request: Request, body: memoryview, served: bool) -> None:
        asked = decode_request(API_VERSIONS, request.version, body) if served else None
        request.version, response = answer_api_versions(request.version, asked)  # type: ignore[arg-type]
        request.reply(response)

    async def _answer(self, handler: Handler, request: Request) -> None:
        request.reply(await handler(self._context, request))
