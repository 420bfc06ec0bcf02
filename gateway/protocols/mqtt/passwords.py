"""mosquitto's `password_file`: `user:$7$iterations$salt$hash` (PBKDF2 with SHA-512) or `user:$6$salt$hash` (SHA-512).

Read at start and at SIGHUP.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path
from typing import Final, NamedTuple

ITERATIONS_MAX: Final = 100_000  # one check must not hold up the loop


class Hashed(NamedTuple):
    """`iterations` 0: plain SHA-512 of password and salt."""

    iterations: int
    salt: bytes
    digest: bytes


class Passwords:
    """Users and their hashed passwords. Raises OSError or ValueError, for a line that is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._users: dict[str, Hashed] = {}
        self.reload()

    def reload(self) -> frozenset[str]:
        """Returns the users that are gone or have another password. Raises as the constructor does, and then changes
        nothing.
        """
        users: dict[str, Hashed] = {}
        for number, line in enumerate(self._path.read_text().splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                user, colon, hashed = line.strip().partition(":")
                if not colon or not user:
                    raise ValueError(f"{self._path}, line {number}: must be USER:HASH")
                try:
                    users[user] = _parse(hashed)
                except ValueError as error:
                    raise ValueError(f"{self._path}, line {number}: {error}") from None
        old, self._users = self._users, users
        return frozenset(user for user, hashed in old.items() if users.get(user) != hashed)

    def check(self, user: str | None, password: bytes | None) -> bool:
        hashed = self._users.get(user) if user is not None else None
        if hashed is None or password is None:
            return False
        if hashed.iterations:
            digest = hashlib.pbkdf2_hmac("sha512", password, hashed.salt, hashed.iterations, len(hashed.digest))
        else:
            digest = hashlib.sha512(password + hashed.salt).digest()
        return hmac.compare_digest(digest, hashed.digest)


def _parse(text: str) -> Hashed:
    fields = text.split("$")
    try:
        if len(fields) == 5 and fields[1] == "7" and 1 <= int(fields[2]) <= ITERATIONS_MAX:
            return _whole(Hashed(int(fields[2]), _bytes(fields[3]), _bytes(fields[4])))
        if len(fields) == 4 and fields[1] == "6":
            return _whole(Hashed(0, _bytes(fields[2]), _bytes(fields[3])))
    except (ValueError, binascii.Error):
        pass
    raise ValueError("the hash is none of mosquitto_passwd's")


def _whole(hashed: Hashed) -> Hashed:
    """A hash that was cut short would be easy to hit, or could not be checked at all."""
    if not hashed.salt or len(hashed.digest) != hashlib.sha512().digest_size:
        raise ValueError
    return hashed


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
