"""What `jobs.registry` is told."""

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from jobs.setup.sections import JobConfig

Action = Literal["list", "show", "resolve", "register", "promote", "rollback", "mirror"]
ACTIONS: tuple[Action, ...] = get_args(Action)
CHAMPION = "champion"
CANDIDATE = "candidate"  # what a retraining has made last, before the gate has judged it
# by action: the keys that it takes beside registry and name, the needed ones first
_TAKES: dict[Action, tuple[str, ...]] = {
    "list": (),
    "show": ("version", "alias"),
    "resolve": ("version", "alias"),
    "register": ("artifact", "parent", "probes"),
    "promote": ("version", "alias", "reason", "expect"),
    "rollback": ("alias", "reason", "expect"),
    "mirror": ("mlflow",),
}
_NEEDS: dict[Action, tuple[str, ...]] = {
    "list": (),
    "show": ("name",),
    "resolve": ("name",),
    "register": ("name", "artifact"),
    "promote": ("name", "version"),
    "rollback": ("name",),
    "mirror": ("name", "mlflow"),
}


def _listed(value: object) -> object:
    """Take one word, or several between commas, as a list of them."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


class RegistryConfig(JobConfig):
    """A look into a registry, or a change of it."""

    example: ClassVar[str] = (
        "promote registry=s3://bucket/registry name=encoder version=7 reason=better"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        *("action", "registry", "name", "artifact"),
        *("version", "alias", "reason"),
    )

    action: Action = Field(
        description=(
            "the first word. list: names, or the versions of one; show: a version or an alias;"
            " resolve: where its artifact lies; register: an artifact becomes the next version;"
            " promote: an alias moves to a version; rollback: it moves back; mirror: MLflow's"
            " registry shows the same"
        )
    )
    registry: str = Field(min_length=1, description="a path or s3:// prefix, of many models")
    name: str | None = Field(
        None,
        min_length=1,
        description="of the model; null: list shows all",
        coerce_numbers_to_str=True,
    )
    version: int | None = Field(None, ge=1, description="which; null: that of the alias")
    alias: str = Field(CHAMPION, min_length=1, description="such as champion or candidate")
    reason: str = Field("", description="why an alias moves, for the ledger")
    expect: int | None = Field(
        None,
        ge=0,
        description="move the alias only if it stands at this version, 0: at none; null: anyway",
    )
    artifact: str | None = Field(
        None, min_length=1, description="what is registered: an artifact, or a run that has one"
    )
    parent: str | None = Field(
        None,
        min_length=1,
        description=(
            "what it was trained on from: a version of this model, or an artifact; null: what it"
            " says itself"
        ),
        coerce_numbers_to_str=True,
    )
    probes: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (),
        description="results of jobs.adapt --json, files or folders; []: the run's own",
        examples=["[URI,...]"],
    )

    mlflow: str | None = Field(
        None,
        min_length=1,
        description="a server of MLflow, as http://host:5000; needs pip install 'afield[mlflow]'",
    )

    def idle(self) -> dict[str, str]:
        """Return the keys of other actions."""
        every = dict.fromkeys(key for keys in _TAKES.values() for key in keys)
        takes = _TAKES[self.action]
        idle = {key: "action" for key in every if key not in takes}
        if self.action in ("show", "resolve") and self.version is not None:
            idle["alias"] = "version"
        return idle

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        for key in _NEEDS[self.action]:
            if getattr(self, key) is None:
                raise ValueError(f"{key} is missing: {self.action} needs {key}=...")
        return self
