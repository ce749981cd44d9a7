import pytest

from pipelines.pairs.name_rule import check_rule, second_name


@pytest.mark.parametrize(
    ("place", "rule", "second"),
    [
        ("/data/rgb/0001.jpg", "../depth/{stem}.png", "/data/depth/0001.png"),
        ("/data/rgb/0001.jpg", "{stem}_ir.jpg", "/data/rgb/0001_ir.jpg"),
        ("/data/a.b.jpg", "{name}.png", "/data/a.b.jpg.png"),
        ("s3://bucket/rgb/7.jpg", "../depth/{stem}.png", "s3://bucket/depth/7.png"),
        ("0001.rgb.jpg", "./{stem}.png", "0001.rgb.png"),
        ("./scene/0001.jpg", "{stem}.depth.png", "scene/0001.depth.png"),
        ("/data/{odd}/{x}.jpg", "{stem}.png", "/data/{odd}/{x}.png"),
    ],
)
def test_a_second_image_is_named_from_the_sample_on(place: str, rule: str, second: str) -> None:
    assert second_name(place, check_rule(rule)) == second


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("depth.png", "one file for all samples"),
        ("{key}.png", "{key} is no field"),
        ("/depth/{stem}.png", "must begin beside each sample"),
        ("s3://other/{stem}.png", "must begin beside each sample"),
        ("{stem.png", "write a name like"),
    ],
)
def test_a_rule_that_names_nothing_is_refused(rule: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_rule(rule)
