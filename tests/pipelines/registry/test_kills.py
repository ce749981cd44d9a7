"""A command on a registry that is killed before any of its writes leaves a state that the next one
understands."""

import json

import pytest

from models import artifact
from pipelines.registry import model_versions, moves
from pipelines.registry.model_versions import Version, register
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature
from pipelines.storage import uris
from tests import commands

BY = Signature("2026-11-29 09:00:00 UTC", "ada", "head", "python -m jobs.registry")

# One child for each write: it kills itself before that one. Prints what became of each. One
# process for all commands, as importing takes longest.
KILLED = """
import os, shutil, signal, sys
from models import artifact
from pipelines.registry import model_versions, moves
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature
from pipelines.storage import uris

folder, source = sys.argv[1:]
by = Signature("t", "ada", "head", "killed")
artifact.load(source)  # what it imports is then there for every child

def dying(module, name):
    write = getattr(module, name)
    def counted(*given):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return write(*given)
    setattr(module, name, counted)

def work(what, model):
    if what == "register":
        model_versions.register(model, source, lineage={"parent": "new"}, metrics={}, by=by)
    elif what == "promote":
        moves.promote(model, "champion", 2, by=by, reason="killed")
    else:
        moves.rollback(model, "champion", by=by, reason="killed")

for what in ("promote", "rollback", "register"):
    for write in range(30):
        place = os.path.join(folder, f"{what}-{write}")
        shutil.copytree(os.path.join(folder, "start"), place)
        child = os.fork()
        if not child:
            left = write
            for name in ("create", "replace_if", "write_bytes", "remove"):
                dying(uris, name)
            dying(model_versions, "copy_file")
            work(what, RegisteredModel(place, "encoder"))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        print(what, os.waitstatus_to_exitcode(status), flush=True)
        if not status:
            break
"""


Left = dict[str, list[RegisteredModel]]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, small_artifact: str) -> Left:
    """What each command leaves that is killed before each of its writes, and last when it is not.

    It begins with three versions; the champion stood at the first and stands at the third.
    """
    folder = tmp_path_factory.mktemp("killed")
    model = RegisteredModel(str(folder / "start"), "encoder")
    for number in range(3):
        register(model, small_artifact, lineage={"parent": number}, metrics={}, by=BY)
    moves.promote(model, "champion", 1, by=BY)
    moves.promote(model, "champion", 3, by=BY)
    done = commands.script(KILLED, str(folder), small_artifact)
    assert done.returncode == 0, done.stderr
    codes: dict[str, list[int]] = {}
    for line in done.stdout.splitlines():
        what, code = line.split()
        codes.setdefault(what, []).append(int(code))
    assert all(each[-1] == 0 and set(each[:-1]) == {-9} for each in codes.values())
    return {
        what: [
            RegisteredModel(str(folder / f"{what}-{write}"), "encoder")
            for write in range(len(each))
        ]
        for what, each in codes.items()
    }


@pytest.mark.parametrize(("what", "after"), [("promote", 2), ("rollback", 1)])
def test_a_move_that_is_killed_anywhere_is_made_or_not_and_the_next_one_goes_on(
    what: str, after: int, left: Left
) -> None:
    models = left[what]
    stands = [moves.standing(model, "champion").version for model in models]
    # two writes try the storage, the next one is the move, the last one the alias's file
    assert stands == [3, 3, 3, after, after]
    behind = json.loads(uris.read_bytes(models[3].alias("champion")))
    assert behind["version"] == 3
    for model, version in zip(models, stands, strict=True):
        found = moves.history(model)
        assert [move.number for move in found] == list(range(1, len(found) + 1))
        assert found[-1].after == version
        assert len(found) == (2 if version == 3 else 3)
        moves.promote(model, "candidate", 2, by=BY)
        last = moves.history(model)[-1]
        assert (last.alias, last.number) == ("candidate", len(found) + 1)
        file = json.loads(uris.read_bytes(model.alias("champion")))
        assert (file["version"], file["entry"]) == (version, len(found))


def test_a_registration_that_is_killed_anywhere_is_listed_whole_or_not_at_all(
    left: Left, small_artifact: str
) -> None:
    # two writes try the storage; claim, two files, identity, version; the last was not killed
    assert len(left["register"]) == 8
    for model in left["register"]:
        listed = model_versions.all_of(model)
        assert [one.number for one in listed] in ([1, 2, 3], [1, 2, 3, 4])
        assert artifact.load(listed[-1].artifact).digest == listed[-1].digest
        taken = max(model.version_folders())
        other = new_version(model, small_artifact, "other")
        assert other.number == taken + 1
        again = new_version(model, small_artifact, "new")
        assert again.number in (taken, other.number + 1)
        assert new_version(model, small_artifact, "new") == again
        of_this = [one for one in model_versions.all_of(model) if one.lineage == again.lineage]
        assert of_this == [again]
        assert artifact.load(again.artifact).digest == again.digest


def new_version(model: RegisteredModel, source: str, parent: str) -> Version:
    return register(model, source, lineage={"parent": parent}, metrics={}, by=BY)[0]
