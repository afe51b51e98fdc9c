"""Where a server listens, and whom it answers."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from sigmafield.core.annotations import Range
from sigmafield.core.parameters import settle
from sigmafield.serve.limits import Limits

SHORTEST = 16
"""Characters that a token has at least."""


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """Where a server listens, whom it answers, and which files its clients may name.

    Args:
        host: Address to listen at; any that others can reach needs a token.
        port: Port to listen at; 0 is a free one.
        tls_keyfile: File of a private key without a password, in PEM; with its certificate the server speaks HTTPS.
        tls_certfile: File of the key's certificate, in PEM, followed by the certificates that it is signed with.
        allow_host: Further names that the server is reached by, as the Host header has them. Addresses and localhost
            are always allowed.
        allow_origin: Other sites whose pages may use the server, such as https://example.org.
        model_folder: Folder of models, LoRAs, control nets and embeddings that clients may use by their names in it.
        input_folder: Folder of images that clients may use by their names in it.
        request_seconds: Seconds that a request may take to arrive.
        wait_seconds: Seconds that a blocking request waits for its images.
        private_webhooks: Whether webhooks may go to private addresses, such as localhost.
        tokens: Tokens by the names of their owners; each sees its own jobs only. Empty: no token is needed.
        limits: How much a request may ask for.

    Raises:
        ValueError: A value is out of range, others can reach the address and there is no token, or the key and the
            certificate do not belong together.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 8188
    tls_keyfile: Path | None = None
    tls_certfile: Path | None = None
    allow_host: Sequence[str] = ()
    allow_origin: Sequence[str] = ()
    model_folder: Path | None = None
    input_folder: Path | None = None
    request_seconds: Annotated[float, Range(0, above=True)] = 30.0
    wait_seconds: Annotated[float, Range(0, above=True)] = 600.0
    private_webhooks: bool = False
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        settle(self, "the server")
        for folder in (self.model_folder, self.input_folder):
            if folder is not None and not folder.is_dir():
                raise ValueError(f"no folder {folder}")
        for owner, token in self.tokens.items():
            if len(token) < SHORTEST or not re.fullmatch(r"[\x21-\x7e]+", token):
                raise ValueError(f"a token must have {SHORTEST} or more visible characters; that of {owner!r} does not")
        if not self.tokens and not is_loopback(self.host):
            raise ValueError(
                f"others can reach host {self.host}, and there is no token: give --token-file FILE, or set "
                "SIGMAFIELD_TOKEN, or listen at 127.0.0.1"
            )
        self.tls()

    def tls(self) -> ssl.SSLContext | None:
        """What encrypts connections; None for plain HTTP.

        Raises:
            ValueError: The key and the certificate do not belong together, or a file is not one of PEM.
        """
        key, certificate = self.tls_keyfile, self.tls_certfile
        if key is None and certificate is None:
            return None
        if key is None or certificate is None:
            raise ValueError("tls_keyfile and tls_certfile have to be given together")
        for name, path in (("tls_keyfile", key), ("tls_certfile", certificate)):
            if not path.is_file():
                raise ValueError(f"{name} must be a file; got {path}")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            said = (error.reason or "no key, or no certificate") if isinstance(error, ssl.SSLError) else error
            raise ValueError(
                "tls_keyfile and tls_certfile must be a key without a password and its certificate, in PEM; "
                f"{key} and {certificate} are not ({said})"
            ) from None
        return context


def _no_password() -> str:
    """Refuses a key with a password, for which OpenSSL would otherwise ask at the terminal."""
    raise ValueError("the key has a password")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, or "", which is every address
        return False


def read_tokens(text: str) -> dict[str, str]:
    """Tokens by owner from lines "OWNER TOKEN", or one line "TOKEN", whose owner is "default"; # begins a comment.

    Raises:
        ValueError: A line has another form, or an owner or token is there twice.
    """
    found: dict[str, str] = {}
    for k, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) > 2:
            raise ValueError(f"line {k} of the tokens must be OWNER TOKEN, or TOKEN")
        owner, token = words if len(words) == 2 else ("default", words[0])
        if owner in found or token in found.values():
            raise ValueError(f"line {k} of the tokens has an owner or a token that an earlier line has")
        found[owner] = token
    if not found:
        raise ValueError("there are no tokens: give one per line, as OWNER TOKEN")
    return found
