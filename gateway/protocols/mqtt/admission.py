"""Who may connect, and what they may do then: mosquitto's password and ACL files, and whether a name is needed."""

from __future__ import annotations

from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.acl import READ, WRITE, Acl
from gateway.protocols.mqtt.codec.packets import Connect
from gateway.protocols.mqtt.passwords import Passwords


class Access:
    """What one client may read and write, by the ACL file as it stands."""

    __slots__ = ("_acl", "_client_id", "_user")

    def __init__(self, acl: Acl, user: str | None, client_id: str) -> None:
        self._acl = acl
        self._user = user
        self._client_id = client_id

    def may_read(self, topic: bytes) -> bool:
        return self._acl.allows(self._user, self._client_id, READ, topic)

    def may_write(self, topic: bytes) -> bool:
        return self._acl.allows(self._user, self._client_id, WRITE, topic)


class Admission:
    """`passwords` None: names are not checked; `acl` None: everybody may do everything.

    Raises ValueError when nobody could connect.
    """

    def __init__(self, passwords: Passwords | None = None, acl: Acl | None = None, *, anonymous: bool = True) -> None:
        if passwords is None and not anonymous:
            raise ValueError("mqtt.allow_anonymous = false needs a password_file: nobody could connect")
        self._passwords = passwords
        self._acl = acl
        self._anonymous = anonymous

    def refusal(self, connect: Connect) -> tuple[int, str] | None:
        """Why a CONNECT is refused, as a reason code and its words, or None."""
        if connect.username is None and connect.password is None:
            return None if self._anonymous else (reasons.NOT_AUTHORIZED, "a user name is needed")
        if self._passwords is None or self._passwords.check(connect.username, connect.password):
            return None
        return reasons.BAD_CREDENTIALS, "user name or password is wrong"

    def access(self, user: str | None, client_id: str) -> Access | None:
        """None: everything is allowed."""
        return Access(self._acl, user, client_id) if self._acl is not None else None

    def reload(self) -> frozenset[str]:
        """Reads the files again; returns the users whose passwords have changed or who are gone.

        Raises OSError or ValueError for a file that cannot be used; what it said before holds.
        """
        if self._acl is not None:
            self._acl.reload()
        return self._passwords.reload() if self._passwords is not None else frozenset()
