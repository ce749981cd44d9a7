"""Tells what is wrong with TLS, in words: none of it passes by waiting."""

import re

_TRUST = "give the authority's certificate in AWS_CA_BUNDLE (S3) or SSL_CERT_FILE, a PEM file"
_FAULTS = (
    (
        "WRONG_VERSION_NUMBER|InvalidContentType|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST",
        "the server speaks no TLS there: write http:// in the endpoint, or give its TLS port",
    ),
    (
        "NotValidForName|[Hh]ostname mismatch|IP address mismatch|doesn't match",
        "the certificate is for another name than the endpoint's: use the name it was made for",
    ),
    (
        "Expired|has expired|NotValidYet|not yet valid",
        "the certificate has expired or is not valid yet: renew it, or set this machine's clock",
    ),
    (
        "UnknownIssuer|self[- ]signed certificate|unable to get (local )?issuer|CaUsedAsEndEntity",
        f"the certificate comes from an authority that is not trusted here: {_TRUST}",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED|InvalidCertificate|certificate verify failed",
        f"the certificate is not accepted: {_TRUST}",
    ),
    (
        "alert handshake failure|AlertReceived|UNSUPPORTED_PROTOCOL|certificate required",
        "the server ends the handshake: it may want a client's certificate, or another version",
    ),
)


def tls_fault(error: BaseException) -> str | None:
    """Say in one line what is wrong with TLS and the remedy; None where it is something else."""
    said = "\n".join(str(one) for one in _chain(error))
    if not re.search("ssl|tls|certificate|InvalidMessage", said, re.IGNORECASE):
        return None
    return next((f"TLS: {what}" for sign, what in _FAULTS if re.search(sign, said)), None)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
