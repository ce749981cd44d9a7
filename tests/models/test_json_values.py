"""models.json_values: numbers that JSON has no word for."""

import json
import math

from models.json_values import finite


def test_what_is_no_number_becomes_null_at_any_depth() -> None:
    value = {"a": math.nan, "b": [1.5, math.inf, ("x", -math.inf)], "c": {"d": math.nan}, "e": 3}
    plain = {"a": None, "b": [1.5, None, ["x", None]], "c": {"d": None}, "e": 3}
    assert finite(value) == plain
    assert json.loads(json.dumps(finite(value), allow_nan=False)) == plain
