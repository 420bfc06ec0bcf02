"""Every served API's handler, in one table. A test holds it against what ApiVersions advertises."""

from __future__ import annotations

from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.dispatch import Handler, PipelinedHandler
from gateway.protocols.kafka.handlers_fetch import fetch
from gateway.protocols.kafka.handlers_list_offsets import list_offsets, offset_for_leader_epoch
from gateway.protocols.kafka.handlers_metadata import metadata
from gateway.protocols.kafka.handlers_produce import produce

PIPELINED: dict[ApiKey, PipelinedHandler] = {ApiKey.PRODUCE: produce}

HANDLERS: dict[ApiKey, Handler] = {
    ApiKey.FETCH: fetch,
    ApiKey.LIST_OFFSETS: list_offsets,
    ApiKey.METADATA: metadata,
    ApiKey.OFFSET_FOR_LEADER_EPOCH: offset_for_leader_epoch,
}
