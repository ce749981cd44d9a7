"""Small files: read side by side, and read while somebody puts them together."""

import threading
from pathlib import Path

import pytest

from pipelines.storage import small_files, uris
from pipelines.storage.small_files import read_many, read_small, read_while_joined, remove_many
from tests.object_store import ObjectStore


def test_what_waits_for_the_storage_waits_side_by_side_and_comes_in_order() -> None:
    together = threading.Barrier(8)  # one after another, nobody would pass it

    def read(number: int) -> int:
        together.wait(timeout=30)
        return number

    assert list(small_files.side_by_side(read, range(16))) == list(range(16))


def test_files_that_are_gone_already_are_deleted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    remove_many(str(tmp_path), ["a", "gone"])
    assert uris.list_names(str(tmp_path)) == ["b"]


def test_files_in_object_storage_are_read_whole_and_deleted(object_store: ObjectStore) -> None:
    object_store.make_bucket("small")
    for name, data in (("a", b"1"), ("b", b""), ("c", b"333")):
        uris.write_bytes(f"s3://small/{name}", data)
    assert list(read_many("s3://small", ["c", "b", "a"], read_small)) == [b"333", b"", b"1"]
    with pytest.raises(FileNotFoundError):
        read_small("s3://small/gone")
    remove_many("s3://small", ["a", "b", "gone"])
    assert uris.list_names("s3://small") == ["c"]


class Folder:
    """A folder in which parts are put together between a listing and the reading.

    Args:
        seen: What the first listing sees: all there was, or what a listing saw that began before
            and ended after.
    """

    def __init__(self, seen: list[str]) -> None:
        self._seen: list[str] | None = seen
        self.there = {"joined": [1, 2, 3]}

    def listed(self) -> list[str]:
        seen = self._seen or list(self.there)
        self._seen = None
        return seen

    def read(self, names: list[str]) -> list[int]:
        try:
            return [number for name in names for number in self.there[name]]
        except KeyError as error:
            raise FileNotFoundError(str(error)) from None


@pytest.mark.parametrize("seen", [["1", "2", "3"], ["1"]])
def test_parts_that_go_while_they_are_read_are_found_in_the_joined_one(seen: list[str]) -> None:
    folder = Folder(seen)
    found = read_while_joined(folder.listed, lambda name: name == "joined", folder.read)
    assert found == [1, 2, 3]


def test_a_joined_part_that_a_listing_missed_is_read() -> None:
    folder = Folder(["4"])
    folder.there["4"] = [4]
    found = read_while_joined(folder.listed, lambda name: name == "joined", folder.read)
    assert sorted(found) == [1, 2, 3, 4]


def test_a_part_that_is_never_found_is_an_error_in_the_end() -> None:
    def read(names: list[str]) -> list[int]:
        raise FileNotFoundError(names[0])

    with pytest.raises(FileNotFoundError, match="lost"):
        read_while_joined(lambda: ["lost"], lambda name: False, read)
