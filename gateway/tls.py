"""The certificate that listeners with TLS show. `reload` reads its files again, for connections made from then on."""

from __future__ import annotations

import ssl
from pathlib import Path


class Certificate:
    """A PEM certificate (with its chain) and its key. Raises ValueError that names the files when they are no pair."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.reload()

    def reload(self) -> None:
        """Raises ValueError; the context goes on with what it had."""
        # Loading half of a pair into a context that serves would leave it without a usable one.
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._certificate, self._key)
        _load(self.context, self._certificate, self._key)


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_passphrase() -> str:
        raise ValueError(f"the key {key} has a passphrase: it cannot be used")

    try:
        context.load_cert_chain(certificate, key, password=no_passphrase)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"certificate {certificate} with key {key}: {error.strerror or error}") from error
