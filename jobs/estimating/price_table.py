"""The price table that a user gives: nodes that there may be, and what storage takes."""

from pydantic import Field

from augment.frozen import Frozen
from jobs.estimating.checked_file import read_checked


class NodeType(Frozen):
    """A kind of node."""

    cpus: float = Field(gt=0, description="logical CPUs that Ray counts")
    gpus: int = Field(0, ge=0, description="GPUs")
    memory_gib: float = Field(gt=0, description="memory, GiB")
    dollars_per_hour: float = Field(ge=0, description="of one node")
    spot_dollars_per_hour: float | None = Field(
        None, ge=0, description="of one node that may be taken away"
    )
    network_gbit_per_s: float | None = Field(
        None, gt=0, description="what a node reads from storage; null: it does not limit"
    )
    speed: float = Field(
        1.0,
        gt=0,
        description=(
            "training on one of its GPUs, of nodes without on one of its cores, as a multiple of"
            " what was measured"
        ),
    )
    most: int = Field(8, ge=1, description="the most nodes of the kind")


class StoragePrices(Frozen):
    """What object storage takes for requests and for what is read."""

    dollars_per_1000_reads: float = Field(0.0, ge=0, description="GET requests")
    dollars_per_1000_writes: float = Field(0.0, ge=0, description="PUT and LIST requests")
    dollars_per_gib_read: float = Field(0.0, ge=0, description="leaving the region; 0 inside it")


class PriceTable(Frozen):
    """Prices in one currency, which is called dollars here."""

    source: str = Field(min_length=1, description="where the prices come from")
    date: str = Field(min_length=1, description="as of when they are")
    nodes: dict[str, NodeType] = Field(min_length=1, description="by name")
    storage: StoragePrices = StoragePrices()


def read_prices(uri: str) -> PriceTable:
    """Read a price table, with dates that YAML takes for one as text.

    Raises:
        InputError: something in it is wrong.
    """
    return read_checked("prices", uri, PriceTable)
