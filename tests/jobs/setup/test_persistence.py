import pytest
from ray.exceptions import NodeDiedError

from jobs.setup.persistence import MAX_FRUITLESS, persist


class Cluster:
    """Writes parts, and loses a node so often after so many of them."""

    def __init__(self, losses: list[int]) -> None:
        self.missing = list(range(10))
        self.losses = losses
        self.tries = 0

    def write(self, parts: list[int]) -> None:
        self.tries += 1
        assert parts == self.missing
        if self.losses:
            del self.missing[: self.losses.pop(0)]
            raise NodeDiedError("a node is gone")
        self.missing.clear()

    def look(self) -> list[int]:
        return list(self.missing)


def test_losses_between_new_parts_are_no_reason_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster([1, 0, 0, 0, 2, 0, 0, 0, 1])
    persist(cluster.look, cluster.write)
    assert cluster.missing == [] and cluster.tries == 10
    said = "the cluster lost processes (NodeDiedError): going on with what is missing\n"
    assert capsys.readouterr().err == 9 * said


def test_losses_without_a_new_part_end_the_job() -> None:
    cluster = Cluster([1, *[0] * 50])
    with pytest.raises(NodeDiedError):
        persist(cluster.look, cluster.write)
    assert cluster.tries == 2 + MAX_FRUITLESS and len(cluster.missing) == 9


def test_what_is_no_loss_ends_at_once_and_nothing_is_written_where_nothing_is_missing() -> None:
    tries = []

    def fails(parts: list[int]) -> None:
        tries.append(parts)
        raise OSError("full disk")

    with pytest.raises(OSError, match="full disk"):
        persist(lambda: [1], fails)
    persist(list, fails)
    assert tries == [[1]]
