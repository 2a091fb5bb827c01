"""TLS to the master: which certificates are trusted, and why a connection failed, in words."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ..errors import SettingError

if TYPE_CHECKING:
    from pathlib import Path

CA_FILE_SETTING = "--ca-file, TRIONODE_CA_FILE or ca_file in the TOML file"


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the authorities of the system and those in `ca_file`.

    OpenSSL takes `SSL_CERT_FILE` and `SSL_CERT_DIR` for those of the system. Raises `SettingError` if `ca_file` cannot
    be used.
    """
    context = ssl.create_default_context()
    # Python 3.13 alone requires extensions that private authorities often leave out, and only it accepts a certificate
    # in `ca_file` that is not an authority's. Every version of Python is to accept the same files.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # also `ssl.SSLError`
            why = "no certificate is in it" if isinstance(error, ssl.SSLError) else error.strerror
            allowed = f"a file with certificates of authorities (PEM); this one cannot be used: {why}"
            raise SettingError("ca_file", ca_file, allowed, CA_FILE_SETTING) from error
    return context


CLOSED_UNANSWERED = ("Server disconnected without", "Remote end closed connection without")
"""How httpcore and the standard library report a connection that was closed before an answer, as a server of https
closes one of http."""


def reason_of(error: BaseException) -> str:
    """Return why a connection failed: the text of the deepest cause that has one, or the name of `error`."""
    text = str(error)
    cause: BaseException | None = error
    while cause is not None:
        text = _text(cause) or text
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        else:
            # httpcore raises an error "from None" that has no text; its context still has the reason.
            cause = cause.__cause__ or cause.__context__
    return text or type(error).__name__


def _text(error: BaseException) -> str:
    """Return the text of one error, without the names and places of OpenSSL's source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS at this port: is the URL http, or the port another?"
    if str(error).startswith(CLOSED_UNANSWERED):
        return "the server closed the connection without an answer: if it speaks https at this port, say so in the URL"
    return str(error)
