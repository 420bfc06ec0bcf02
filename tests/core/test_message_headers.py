"""Properties <-> record headers, without loss."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.message_headers import Attributes, Headers, from_headers, key_property, plain_headers, to_headers

TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
ATTRIBUTES = st.builds(
    Attributes,
    st.integers(0, 2),
    st.booleans(),
    st.none() | st.integers(0, 1),
    st.none() | st.integers(0, 0xFFFFFFFF),
    st.none() | TEXT,
    st.none() | TEXT.filter(lambda text: bool(text) and not set("+#") & set(text)),
    st.none() | st.binary(max_size=8),
    st.none() | TEXT,
    st.lists(st.tuples(TEXT.filter(lambda name: not name.startswith("trivium.")), TEXT), max_size=5),
)


@given(ATTRIBUTES)
def test_what_devices_say_comes_back_in_order_and_with_duplicates(attributes: Attributes) -> None:
    attributes.user += attributes.user[:1]
    assert from_headers(to_headers(attributes)) == attributes


@given(st.lists(st.tuples(TEXT, st.none() | st.binary(max_size=9)), max_size=6))
def test_foreign_headers_reach_devices_and_come_back(headers: Headers) -> None:
    headers = [(name, value) for name, value in headers if not name.startswith("trivium.")]
    attributes = from_headers(headers)
    assert len(attributes.user) == len(headers)
    assert to_headers(attributes) == plain_headers(2, False) + headers


def test_non_text_values_are_marked_base64() -> None:
    assert from_headers([("a", b"\xff\xfe"), ("b", None), ("c", b"x\0")]).user == [
        ("trivium.base64.a", "//4="),
        ("trivium.null.b", ""),
        ("trivium.base64.c", "eAA="),
    ]


def test_the_reserved_prefix_is_stripped_from_what_devices_send() -> None:
    user = [("trivium.qos", "0"), ("trivium.base64.trivium.qos", "MA=="), ("trivium.base64.a", "no!"), ("x", "y")]
    assert to_headers(Attributes(qos=1, user=user)) == [("trivium.qos", b"1"), ("x", b"y")]


def test_a_device_sets_and_sees_the_tag() -> None:
    attributes = Attributes(user=[("trivium.tag", "hot"), ("a", "b")])
    assert to_headers(attributes)[-2:] == [("trivium.tag", b"hot"), ("a", b"b")]
    assert from_headers(to_headers(attributes)) == attributes


@given(st.lists(st.tuples(TEXT.map("trivium.".__add__), st.none() | st.binary(max_size=9)), max_size=6))
def test_no_header_can_break_delivery(headers: Headers) -> None:
    assert from_headers(headers).qos in (0, 1, 2)


def test_hostile_reserved_values_are_ignored() -> None:
    found = from_headers(
        [("trivium.qos", b"3"), ("trivium.expiry-s", b"99999999999999"), ("trivium.response-topic", b"a/#")]
    )
    assert found == Attributes()


def test_keys_that_are_no_name_travel_in_a_property() -> None:
    assert key_property(b"a/+") == ("trivium.key", "a/+")
    assert key_property(b"\xff") == ("trivium.key-base64", "/w==")
