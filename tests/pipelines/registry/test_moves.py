"""Aliases of a registered model: moved by one at a time, recorded in the order of the moves."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.registry import moves
from pipelines.registry.model_versions import register
from pipelines.registry.moves import history, promote, rollback, standing
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature, without_secrets
from pipelines.storage import uris
from pipelines.storage.conditional import CannotReplace

BY = Signature("2026-11-29 09:00:00 UTC", "ada", "head", "python -m jobs.registry promote")


def fill(model: RegisteredModel, source: str, count: int) -> None:
    for number in range(count):
        register(model, source, lineage={"parent": number}, metrics={}, by=BY)


def alias_file(model: RegisteredModel, alias: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(uris.read_bytes(model.alias(alias)))
    return found


def test_rollbacks_go_further_back_and_a_promotion_goes_on_from_there(
    model: RegisteredModel, small_artifact: str
) -> None:
    fill(model, small_artifact, 4)
    for version in (1, 2, 3):
        promote(model, "champion", version, by=BY, reason=f"run {version}")
    promote(model, "candidate", 4, by=BY)
    assert rollback(model, "champion", by=BY, reason="worse").after == 2
    promote(model, "champion", 4, by=BY)
    assert promote(model, "champion", 4, by=BY) is None
    assert rollback(model, "champion", by=BY).after == 2
    assert rollback(model, "champion", by=BY).after == 1
    with pytest.raises(ValueError, match="has stood at no version before 1"):
        rollback(model, "champion", by=BY)
    found = history(model)
    assert [move.number for move in found] == list(range(1, 9))
    assert [(move.before, move.after) for move in found if move.alias == "champion"] == [
        *((None, 1), (1, 2), (2, 3), (3, 2), (2, 4), (4, 2), (2, 1)),
    ]
    assert (found[4].action, found[4].reason, found[4].by) == ("rollback", "worse", BY)
    assert standing(model, "candidate").version == 4
    assert alias_file(model, "champion") == {
        "version": 1,
        "artifact": "versions/0000001/artifact",
        "entry": 8,
    }


def test_a_move_that_expects_another_version_says_what_it_found(
    model: RegisteredModel, small_artifact: str
) -> None:
    fill(model, small_artifact, 2)
    with pytest.raises(ValueError, match=r"champion of .* is not there, not at expect=1"):
        promote(model, "champion", 1, by=BY, expect=1)
    promote(model, "champion", 1, by=BY, expect=0)
    found = r"stands at version 1 \(promote by ada on head, 2026.*\), not at expect=2"
    with pytest.raises(ValueError, match=found):
        promote(model, "champion", 2, by=BY, expect=2)
    with pytest.raises(ValueError, match=found):
        rollback(model, "champion", by=BY, expect=2)
    with pytest.raises(ValueError, match=r"alias other is none of .*: there are champion"):
        standing(model, "other")
    with pytest.raises(ValueError, match="alias '7' cannot be one"):
        promote(model, "7", 1, by=BY)
    assert len(history(model)) == 1


def test_of_many_who_promote_at_once_all_are_in_the_ledger_in_the_order_of_the_moves(
    model: RegisteredModel, small_artifact: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(model, small_artifact, 6)
    with ThreadPoolExecutor(6) as threads:
        moved = list(
            threads.map(lambda version: promote(model, "champion", version, by=BY), range(1, 7))
        )
    found = history(model)
    assert [move.number for move in found] == list(range(1, 7))
    assert sorted(move.number for move in moved if move) == list(range(1, 7))
    befores = [move.before for move in found]
    assert befores == [None, *(move.after for move in found[:-1])]
    last = found[-1]
    assert standing(model, "champion").version == last.after
    assert alias_file(model, "champion")["entry"] == last.number
    if "meanwhile" in (said := capfd.readouterr().err):
        assert "alias champion was moved to version" in said


def test_of_two_who_expect_the_same_one_is_told_what_the_other_did(
    model: RegisteredModel, small_artifact: str
) -> None:
    fill(model, small_artifact, 3)
    promote(model, "champion", 1, by=BY)

    def move(version: int) -> str:
        try:
            promote(model, "champion", version, by=BY, expect=1)
        except ValueError as error:
            return str(error)
        return "moved"

    with ThreadPoolExecutor(2) as threads:
        said = sorted(threads.map(move, (2, 3)))
    assert said[1] == "moved"
    assert "champion" in said[0] and "not at expect=1: nothing was moved" in said[0]
    assert len(history(model)) == 2


def test_of_two_who_roll_back_at_once_one_step_is_made(
    model: RegisteredModel, small_artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(model, small_artifact, 3)
    for version in (1, 2, 3):
        promote(model, "champion", version, by=BY)
    prepare = RegisteredModel.prepare

    def overtaken(self: RegisteredModel) -> None:
        monkeypatch.setattr(RegisteredModel, "prepare", prepare)
        rollback(self, "champion", by=BY)

    monkeypatch.setattr(RegisteredModel, "prepare", overtaken)
    with pytest.raises(ValueError, match="was moved meanwhile, from version 3 to 2"):
        rollback(model, "champion", by=BY)
    assert standing(model, "champion").version == 2


def test_a_store_without_if_match_serves_as_well(
    model: RegisteredModel, small_artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(uri: str, data: bytes, etag: str) -> bool:
        raise CannotReplace(uri, "this store cannot replace an object by its etag")

    monkeypatch.setattr(uris, "replace_if", refuse)
    fill(model, small_artifact, 4)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda version: promote(model, "champion", version, by=BY), range(1, 5)))
    last = history(model)[-1]
    assert last.number == 4
    assert alias_file(model, "champion")["entry"] == 4
    assert standing(model, "champion").version == last.after


def test_no_secret_gets_into_the_ledger(
    model: RegisteredModel, small_artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "sesame-open")
    assert without_secrets("s3://id:key@bucket/x") == "s3://***@bucket/x"
    assert without_secrets("https://h/x?sig=abc&y=1") == "https://h/x?sig=***&y=1"
    fill(model, small_artifact, 1)
    reason = "as in s3://id:key@bucket/x?X-Amz-Signature=12ab, with sesame-open"
    promote(model, "champion", 1, by=Signature.now(f"run {reason}"), reason=reason)
    written = uris.read_bytes(model.move(1)).decode()
    for secret in ("id:key", "12ab", "sesame-open"):
        assert secret not in written
    assert moves.read(model, 1).reason.startswith("as in s3://***@bucket/x")
