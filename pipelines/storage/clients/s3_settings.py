"""What both clients of S3 are told: region, endpoint, whom to trust, and whether to sign.

botocore's standard chain (variables, profile, role) decides, and what it leaves to each client is
decided here, so that they never differ.
"""

import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import botocore.session
from botocore.exceptions import BotoCoreError

from pipelines.storage import variables
from pipelines.storage.retries import StorageError

NO_KEYS = "set AWS_ACCESS_KEY_ID or AWS_PROFILE, or use a role"


@dataclass(frozen=True)
class Settings:
    """The configuration of both clients.

    Attributes:
        signed: Whether requests are signed; else they are anybody's.
        credentials: botocore's, where they are.
        region: Of requests to buckets that do not say where they are; None: botocore's choice.
        ca_bundle: File with the certificates of trusted authorities; None: the client's own.
    """

    signed: bool
    credentials: Any
    region: str | None
    ca_bundle: str | None


@cache
def settings() -> Settings:
    """Read the settings of this process, once until `forget`.

    Raises:
        StorageError: a profile or a file that is not there.
    """
    try:
        _take_profile()
        session = botocore.session.Session()
        asked = variables.is_set(variables.SKIP_SIGNATURE)
        credentials = None if asked else session.get_credentials()
        bundle = session.get_config_variable("ca_bundle") or os.environ.get(variables.TRUSTED)
        region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    except BotoCoreError as error:
        raise StorageError("S3", f"{error}: check the AWS variables and ~/.aws") from None
    if bundle and not os.path.isfile(bundle):
        name = variables.CA_BUNDLE if os.environ.get(variables.CA_BUNDLE) else variables.TRUSTED
        raise StorageError("S3", f"{name}={bundle} is no file: every node needs it there")
    if credentials is None and not asked:
        line = f"no AWS credentials: requests to S3 are not signed ({NO_KEYS})"
        print(line, file=sys.stderr)
    return Settings(credentials is not None, credentials, region or None, bundle or None)


def _take_profile() -> None:
    """Take the driver's profile where this node knows one of that name, and has no other."""
    wanted = os.environ.get(variables.PROFILE)
    if wanted and wanted in botocore.session.Session().available_profiles:
        os.environ.setdefault("AWS_PROFILE", wanted)


def unsigned() -> str:
    """Say what to do where an unsigned request is refused."""
    asked = variables.is_set(variables.SKIP_SIGNATURE)
    return f"requests are not signed: {'unset AWS_SKIP_SIGNATURE' if asked else NO_KEYS}"


def forget() -> None:
    """Read the settings anew the next time."""
    settings.cache_clear()


def endpoint_in(region: str) -> str:
    """Return the URL that requests to buckets of a region go to."""
    session = botocore.session.Session()
    return str(session.create_client("s3", region_name=region).meta.endpoint_url)
