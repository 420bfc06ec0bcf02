"""mosquitto's password file: hashes made here the way mosquitto_passwd makes them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from gateway.protocols.mqtt.passwords import Passwords


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _file() -> str:
    salt = bytes(range(12))
    new = hashlib.pbkdf2_hmac("sha512", b"secret", salt, 101)
    old = hashlib.sha512(b"older" + salt).digest()
    return f"# users\nnew:$7$101${_b64(salt)}${_b64(new)}\n\nold:$6${_b64(salt)}${_b64(old)}\n"


def test_the_right_password_opens_every_other_does_not(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_text(_file())
    passwords = Passwords(path)
    assert passwords.check("new", b"secret")
    assert passwords.check("old", b"older")
    for user, password in (("new", b"older"), ("old", b""), ("nobody", b"secret"), (None, None), ("new", None)):
        assert not passwords.check(user, password)


WHOLE = _b64(bytes(64))


@pytest.mark.parametrize(
    "line",
    [
        "user",
        f":$7$1$aaaa${WHOLE}",
        "user:plain",
        f"user:$7$0$aaaa${WHOLE}",
        f"user:$7$101$!${WHOLE}",
        f"user:$7$101$${WHOLE}",
        "user:$7$101$aaaa$",
        "user:$7$101$aaaa$aaaa",
        "user:$6$aaaa$",
        "user:$6$aaaa$aaaa",
    ],
)
def test_a_line_that_is_none_is_refused_with_its_number_and_changes_nothing(tmp_path: Path, line: str) -> None:
    path = tmp_path / "passwords"
    path.write_text(line)
    with pytest.raises(ValueError, match="passwords, line 1"):
        Passwords(path)
    path.write_text(_file())
    passwords = Passwords(path)
    path.write_text(line)
    with pytest.raises(ValueError, match="line 1"):
        passwords.reload()
    assert passwords.check("new", b"secret")
