"""Environment variables that say where storage is and whom to trust: they go to the workers of a
joined cluster.

Never keys, tokens or connection strings, for job information shows them; nodes have credentials of
their own.
"""

import os
from urllib.parse import urlsplit

SKIP_SIGNATURE = "AWS_SKIP_SIGNATURE"  # as the client of samples, obstore, calls it
CA_BUNDLE = "AWS_CA_BUNDLE"
TRUSTED = "SSL_CERT_FILE"  # whom Python and Rust trust

# The driver's AWS profile. It is taken where a node knows one of that name: elsewhere the name
# alone would make every request fail, also where the node has a role.
PROFILE = "AFIELD_AWS_PROFILE"

FORWARDED = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"),
    *(SKIP_SIGNATURE, CA_BUNDLE, TRUSTED),
    *("STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT"),
    *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ANON"),
)


def forwarded() -> dict[str, str]:
    """Return the settings of this process that its workers on other nodes need."""
    found = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    if profile := os.environ.get("AWS_PROFILE"):
        found[PROFILE] = profile
    return {name: value for name, value in found.items() if not _holds_a_password(value)}


def is_set(name: str) -> bool:
    """Tell whether a variable says yes."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def _holds_a_password(value: str) -> bool:
    return "://" in value and "@" in urlsplit(value).netloc
