"""The union of two jars of message definitions, on definitions small enough to read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gateway.protocols.kafka.generate_schemas import render_stubs, render_tables
from gateway.protocols.kafka.schema_union import Union, merge, read_jar, snake_case

Definition = dict[str, Any]


def message(name: str, valid: str, flexible: str, fields: list[Definition], **more: Any) -> Definition:
    direction = "request" if name.endswith("Request") else "response"
    head = {"apiKey": 5, "type": direction, "name": name, "validVersions": valid, "flexibleVersions": flexible}
    return {**head, "fields": fields, **more}


def union_of(tmp_path: Path, old: Definition, new: Definition) -> Union | None:
    definitions = []
    for number, definition in enumerate((old, new)):
        path = tmp_path / f"{number}.jar"
        with zipfile.ZipFile(path, "w") as jar:
            for name in ("Request", "Response"):
                twin = {**definition, "name": definition["name"].replace("Request", name), "type": name.lower()}
                jar.writestr(f"common/message/{twin['name']}.json", "// a comment\n" + json.dumps(twin))
        definitions.append(read_jar(path)[5, "request"])
    return merge(*definitions)


def tables(union: Union | None) -> str:
    assert union is not None
    return "".join(render_tables([union], "two jars"))


NAME = {"name": "Name", "type": "string", "versions": "0+"}


def test_versions_that_the_newer_jar_dropped_come_from_the_older(tmp_path: Path) -> None:
    gone = {"name": "OldField", "type": "int32", "versions": "0-1", "default": "-1"}
    added = {"name": "NewField", "type": "[]int64", "versions": "4+", "nullableVersions": "4+", "default": "null"}
    old = message("ThingRequest", "0-3", "3+", [gone, NAME])
    new = message("ThingRequest", "2-4", "3+", [NAME, added])
    text = tables(union_of(tmp_path, old, new))
    assert "'ThingRequest': (5, 'request', 0, 4, 3, " in text
    assert "\n old_field int32 0-1 -1\n name string 0-4 ''\n new_field []int64 4-4 None 4-4\n" in text


def test_a_renamed_api_takes_the_newer_name_and_nested_structs_are_flat(tmp_path: Path) -> None:
    rows = [{"name": "Rows", "type": "[]Row", "versions": "0+", "fields": [NAME]}]
    tag = {"name": "Extra", "type": "Row", "versions": "1+", "taggedVersions": "1+", "tag": 0}
    old = message("BeforeRequest", "0", "none", rows)
    new = message("AfterRequest", "0-1", "1+", [*rows, tag])
    union = union_of(tmp_path, old, new)
    text = tables(union)
    assert "'AfterRequest': (5, 'request', 0, 1, 1, " in text
    assert "\nAfterRequest\n rows []Row 0-1 ()\n extra Row 1-1 ... - 0\nRow\n name string 0-1 ''\n" in text
    assert union is not None
    stubs = "".join(render_stubs([union]))
    assert "    rows: list[AfterRequest.Row] = ...\n    extra: AfterRequest.Row | None = ...\n" in stubs


def test_a_field_that_changes_its_type_has_a_row_for_each(tmp_path: Path) -> None:
    before = {"name": "Value", "type": "int32", "versions": "0-1"}
    after = {"name": "Value", "type": "int64", "versions": "2+"}
    new = message("ThingRequest", "1-2", "none", [before, after])
    text = tables(union_of(tmp_path, message("ThingRequest", "0-1", "none", [before]), new))
    assert "\n value int32 0-1 0\n value int64 2-2 0\n" in text


def test_jars_that_disagree_stop_the_generator(tmp_path: Path) -> None:
    other = {**NAME, "type": "bytes"}
    with pytest.raises(SystemExit, match="v1: the two jars disagree"):
        union_of(
            tmp_path, message("ThingRequest", "0-1", "none", [NAME]), message("ThingRequest", "1-2", "none", [other])
        )
    with pytest.raises(SystemExit, match="v1: the two jars disagree"):
        union_of(tmp_path, message("ThingRequest", "0-1", "none", [NAME]), message("ThingRequest", "1", "1+", [NAME]))


def test_a_gap_between_the_jars_stops_the_generator(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="gap"):
        union_of(
            tmp_path, message("ThingRequest", "0-1", "none", [NAME]), message("ThingRequest", "3-4", "none", [NAME])
        )


def test_unstable_versions_do_not_count(tmp_path: Path) -> None:
    other = {**NAME, "type": "bytes"}
    old = message("ThingRequest", "0-1", "none", [NAME, {**other, "versions": "1+", "name": "X"}])
    new = message("ThingRequest", "1-2", "none", [NAME])
    with pytest.raises(SystemExit):
        union_of(tmp_path, old, new)
    assert ", 0, 2, " in tables(union_of(tmp_path, {**old, "latestVersionUnstable": True}, new))


def test_an_api_that_the_newer_jar_gave_up_stays(tmp_path: Path) -> None:
    new = {"apiKey": 5, "type": "request", "name": "ThingRequest", "validVersions": "none"}
    assert ", 0, 7, 4, " in tables(union_of(tmp_path, message("ThingRequest", "0-7", "4+", [NAME]), new))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TopicId", "topic_id"),
        ("topicName", "topic_name"),
        ("KRaftVersion", "k_raft_version"),
        ("LastOffsetURL", "last_offset_url"),
        ("From", "from_"),
    ],
)
def test_names_are_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected
