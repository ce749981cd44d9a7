"""Who changes a registry, from where and by which command; never with a credential."""

import getpass
import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime

_USER_INFO = re.compile(r"://[^/@\s]*@")
_SIGNED = re.compile(r"([?&](?:sig|X-Amz-[\w-]+|X-Goog-[\w-]+)=)[^&\s]+", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(
    r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|ACCOUNT_KEY|API_KEY|CONNECTION_STRING|CREDENTIAL"
)
_SHORTEST_SECRET = 8


@dataclass(frozen=True)
class Signature:
    """Who does something, as it is recorded.

    Attributes:
        time: By the clock of that machine, in UTC; for people, nothing is ordered by it.
        user: Name there.
        host: Name of the machine.
        command: Command line.
    """

    time: str
    user: str
    host: str
    command: str

    @classmethod
    def now(cls, command: str) -> "Signature":
        """Sign for the user of this process.

        Args:
            command: What was given.
        """
        time = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(time, _user(), platform.node(), without_secrets(command))

    def __str__(self) -> str:
        return f"{self.user} on {self.host}, {self.time}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container whose user has no name
        return f"uid {os.getuid()}"


def without_secrets(text: str) -> str:
    """Return a text without what lets somebody in: passwords and signatures in URIs, and the values
    of this process's variables that hold secrets."""
    text = _USER_INFO.sub("://***@", text)
    text = _SIGNED.sub(r"\1***", text)
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name.upper()) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text
