"""jobs.registry as a user types it, and how other jobs name what it keeps."""

import json
import re
from pathlib import Path

import pytest

import afield
from jobs.registering.registry_config import ACTIONS, RegistryConfig
from jobs.registry import run
from jobs.setup import registered, run_artifact
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from models import artifact


class Registry:
    """Gives commands on one registry."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.uri = str(folder / "registry")
        self._capsys = capsys

    def give(self, *words: str) -> tuple[int, str, str]:
        """Give a command; returns exit code, stdout and stderr."""
        given = [*words, f"registry={self.uri}"]
        code = main(
            "registry", "", lambda values: (RegistryConfig, values), run, given, actions=ACTIONS
        )
        said = self._capsys.readouterr()
        return code, said.out.strip(), said.err.strip()


@pytest.fixture
def registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Registry:
    return Registry(tmp_path, capsys)


def test_every_action_answers_as_it_is_documented(registry: Registry, small_artifact: str) -> None:
    register = ("register", "name=encoder", f"artifact={small_artifact}")
    code, first, said = registry.give(*register)
    assert (code, said) == (0, "encoder has version 1 now")
    assert first == f"{registry.uri}/encoder/versions/0000001/artifact"
    assert registry.give(*register)[1] == first
    assert json.loads(registry.give(*register, "parent=1", "--json")[1])["version"] == 2
    assert registry.give("list") == (0, "encoder", "")

    code, place, said = registry.give("promote", "name=encoder", "version=1", "reason=so: 7 %")
    assert (code, place) == (0, first) and "champion from nowhere to 1" in said
    registry.give("promote", "name=encoder", "version=2", "expect=1")
    assert registry.give("resolve", "name=encoder")[1].endswith("versions/0000002/artifact")
    shown = json.loads(registry.give("show", "name=encoder", "--json")[1])
    assert (shown["version"], shown["aliases"]) == (2, ["champion"])
    assert shown["lineage"]["parent"]["registered"] == f"{registry.uri}/encoder@1"
    assert [(move["from"], move["to"]) for move in shown["history"]] == [(None, 1), (1, 2)]
    assert shown["history"][0]["reason"] == "so: 7 %"
    assert "registry promote registry=" in shown["history"][0]["command"]
    assert registry.give("rollback", "name=encoder", "reason=worse")[1] == first
    lines = registry.give("list", "name=encoder")[1].splitlines()
    assert len(lines) == 3 and lines[1].endswith("champion") and lines[2].endswith("-")
    assert "encoder version 1" in registry.give("show", "name=encoder", "version=1")[1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "nothing says what to do: give one of list, show, resolve, register, promote"),
        (["remove"], "remove is nothing that this job does: give list, show, resolve"),
        (["show", "list"], "list is no key=value, and show says what to do already"),
        (["promote", "name=encoder"], "version is missing: promote needs version=..."),
        (["list", "name=encoder", "version=1"], "version has no effect with action=list"),
        (["show", "name=other"], "name other is not in registry .*: names there are: encoder"),
        (["resolve", "name=encoder"], "alias champion is none of .*/encoder: there is none yet"),
        (["promote", "name=encoder", "version=4"], "version 4 is none of .*: there are 1$"),
        (["promote", "name=encoder", "version=1", "expect=3"], "is not there, not at expect=3"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    words: list[str], line: str, registry: Registry, small_artifact: str
) -> None:
    registry.give("register", "name=encoder", f"artifact={small_artifact}")
    code, out, said = registry.give(*words)
    assert (code, out) == (2, "")
    assert said.count("\n") == 0
    assert re.search(line, said), said


def test_an_artifact_is_found_by_alias_and_by_version_and_a_folder_so_named_goes_first(
    registry: Registry,
    small_artifact: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registry.give("register", "name=encoder", f"artifact={small_artifact}")
    _, second, _ = registry.give(
        "register", "name=encoder", f"artifact={small_artifact}", "parent=1"
    )
    registry.give("promote", "name=encoder", "version=2")
    named = f"{registry.uri}/encoder"
    assert run_artifact.find(f"{named}@champion") == second
    assert f"artifact {named}@champion is version 2: taking {second}" in capsys.readouterr().err
    assert run_artifact.find(f"{named}@1").endswith("versions/0000001/artifact")
    assert afield.load(f"{named}@champion").digest == artifact.load(small_artifact).digest
    with pytest.raises(InputError, match=r"compare .*@gone: alias gone is none of"):
        run_artifact.find(f"{named}@gone", key="compare")
    with pytest.raises(InputError, match=r"holds no artifact.json"):
        run_artifact.find(f"{registry.uri}/other@champion")

    literal = Path(f"{named}@champion")
    literal.mkdir()
    for file in Path(small_artifact).iterdir():
        (literal / file.name).write_bytes(file.read_bytes())
    assert run_artifact.find(str(literal)) == str(literal)
    assert registered.resolved(str(literal), "encoder.weights") == str(literal)
