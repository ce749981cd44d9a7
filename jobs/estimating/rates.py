"""What a run costs by the sample, by the step and once: measured, or given by the user."""

from typing import Any, Literal

from pydantic import Field

from augment.frozen import Frozen
from jobs.estimating.checked_file import read_checked
from pipelines.storage import uris


class Rates(Frozen):
    """Rates of a run on one kind of device."""

    device: Literal["cpu", "gpu"] = Field(description="what a training process computes on")
    train_samples_per_s: float = Field(
        gt=0, description="training alone, of one GPU; on the CPU of one core"
    )
    data_samples_per_s: float = Field(
        gt=0, description="fetching, decoding and cropping, of one core"
    )
    list_samples_per_s: float | None = Field(
        None, gt=0, description="listing the source; null: a manifest is there"
    )
    bytes_per_sample: float | None = Field(
        None, ge=0, description="read from storage; null: by the manifest"
    )
    start_s: float = Field(30.0, ge=0, description="from the command to the first batch")
    warm_up_s: float = Field(0.0, ge=0, description="what the first steps take longer")
    end_s: float = Field(10.0, ge=0, description="from the last step to the end of the command")
    first_look_s: float = Field(0.0, ge=0, description="the first look at the encoder's health")
    look_s: float = Field(0.0, ge=0, description="each further one")
    save_s: float = Field(0.0, ge=0, description="training stands still for a checkpoint")
    checkpoint_bytes: int = Field(0, ge=0, description="of one checkpoint")
    gradient_bytes: int = Field(0, ge=0, description="what training processes exchange a step")
    exchange_bytes_per_s: float = Field(
        1e9, gt=0, description="at which a training process exchanges gradients"
    )
    stages: dict[str, float] = Field(
        {}, description="seconds of one core a sample: fetch_s, decode_s, crop_s"
    )
    measured_with: dict[str, Any] = Field({}, description="settings of the run that was measured")


def read_rates(uri: str) -> Rates:
    """Read rates.

    Raises:
        InputError: something in it is wrong.
    """
    return read_checked("estimate.rates", uri, Rates)


def write_rates(rates: Rates, uri: str) -> None:
    """Write rates so that `read_rates` gives them back."""
    uris.write_bytes(uri, rates.model_dump_json(indent=2).encode())
