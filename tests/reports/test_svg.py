import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from diffrep.experiments.document import curves
from diffrep.reports import svg


@pytest.mark.parametrize(("low", "high"), [(0, 999), (0, 1), (-3, 7), (1e-5, 3e-5), (5, 5), (0, 0)])
def test_ticks_span_the_range_evenly(low, high):
    found = svg.ticks(low, high, 6)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 8
    steps = [b - a for a, b in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_thinning_keeps_the_mean():
    points = [(float(k), math.sin(k)) for k in range(1000)]
    thin = svg.thin(points)
    assert len(thin) <= svg.MAX_POINTS
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(sum(y for _, y in points) / 1000, abs=1e-9)
    assert svg.thin(points[:5]) == points[:5]


@pytest.mark.parametrize("log_y", [False, True])
def test_curves_are_well_formed_and_inside_the_picture(log_y):
    series = {"a & b": ([0, 500, 999], [1e-4, 3e-3, 2e-2]), "<c>": ([0, 999], [2e-4, float("nan")])}
    drawn = svg.curves(curves(series, x_label="t", y_label="gap", alt='"quoted" <alt>', log_y=log_y))
    root = ElementTree.fromstring(drawn)
    assert root.attrib["role"] == "img"
    assert root[0].text == '"quoted" <alt>'
    numbers = [tuple(map(float, pair.split(","))) for p in re.findall(r'points="([^"]*)"', drawn) for pair in p.split()]
    assert all(0 <= x <= svg.WIDTH and 0 <= y <= svg.HEIGHT for x, y in numbers)


def test_nothing_to_draw_is_nothing():
    assert svg.curves(curves({"a": ([], [])}, x_label="", y_label="", alt="")) == ""
    assert svg.curves(curves({"a": ([1], [-1.0])}, x_label="", y_label="", alt="", log_y=True)) == ""
