import pytest
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from jobs.cluster.waiting import lacking, still_lacking


@pytest.mark.usefixtures("ray_session")
def test_a_job_that_holds_its_room_waits_for_none() -> None:
    more = [{"CPU": 1000.0}]
    group = placement_group([{"CPU": 1.0}])
    try:
        assert group.wait(60)
        assert still_lacking(more) is None
        assert "room for 1 x (1000 CPU)" in str(lacking(more))
    finally:
        remove_placement_group(group)
    while any(each["state"] == "CREATED" for each in placement_group_table().values()):
        pass  # Ray removes it a moment later, and what a test before has left
    pending = placement_group(more)
    try:
        assert "room for 1 x (1000 CPU)" in str(still_lacking(more))
    finally:
        remove_placement_group(pending)
