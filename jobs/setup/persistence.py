"""Goes on with parts that are missing where the cluster loses processes or nodes.

Ray gives what a lost node was at to others only once it knows that it is lost, and the retries of a
block are used up before. As long as parts are added, that is no reason to end.
"""

import sys
from collections.abc import Callable, Sized
from typing import TypeVar

from jobs.setup.failures import is_lost_process

Parts = TypeVar("Parts", bound=Sized)
MAX_FRUITLESS = 3  # losses of processes in a row without a new part that are forgiven


def persist(missing: Callable[[], Parts], write: Callable[[Parts], None]) -> None:
    """Write parts until none is missing.

    Args:
        missing: Lists the parts that are.
        write: Writes them, each whole or not at all.
    """
    fruitless = 0
    while wanted := missing():
        try:
            write(wanted)
            break
        except Exception as error:
            if not is_lost_process(error):
                raise
            fruitless = 0 if len(missing()) < len(wanted) else fruitless + 1
            if fruitless > MAX_FRUITLESS:
                raise
            lost = f"the cluster lost processes ({type(error).__name__})"
            print(f"{lost}: going on with what is missing", file=sys.stderr)
