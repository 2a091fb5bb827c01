"""Why a certificate and its key cannot be used, in a sentence that says what to do."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CERTIFICATE, KEY, ENCRYPTED = "-----BEGIN CERTIFICATE-----", "PRIVATE KEY-----", "ENCRYPTED"


class CertificateInvalid(Exception):
    """A certificate cannot be used with its key. The message says why, and what to do."""


def check_certificate(certfile: Path, keyfile: Path) -> None:
    """Load a certificate and its key. Raises `CertificateInvalid`.

    A key with a passphrase is found before OpenSSL, which would ask for it at the terminal.
    """
    cert, key = _read(certfile), _read(keyfile)
    if CERTIFICATE not in cert and KEY in cert and CERTIFICATE in key:
        raise CertificateInvalid(f"certfile and keyfile are exchanged: {certfile} is a key, {keyfile} a certificate")
    if CERTIFICATE not in cert:
        raise CertificateInvalid(
            f"certfile {certfile} has no certificate in PEM, which is text with the line {CERTIFICATE}: name another "
            f"file, or convert this one (openssl x509 -inform der -in {certfile})"
        )
    if KEY not in key:
        raise CertificateInvalid(
            f"keyfile {keyfile} has no private key in PEM, which is text with a line -----BEGIN PRIVATE KEY-----: name "
            f"another file, or convert this one (openssl pkey -inform der -in {keyfile})"
        )
    if ENCRYPTED in key:
        raise CertificateInvalid(
            f"keyfile {keyfile} has a passphrase, which nobody can enter here: write the key without it, to a file "
            f"that only this user can read (openssl pkey -in {keyfile})"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateInvalid(
                f"keyfile {keyfile} is not the key of the first certificate in {certfile}: name the key that the "
                "certificate was made for, and put the certificate of the server before those of authorities"
            ) from error
        raise CertificateInvalid(
            f"cannot use {certfile} with {keyfile}: a file is damaged or incomplete ({error.reason or error}); write "
            "both again"
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("latin-1")
    except OSError as error:
        raise CertificateInvalid(f"{path} cannot be read: {error.strerror}") from error
