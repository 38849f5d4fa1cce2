"""Charts with a number on each axis: geometry."""

from __future__ import annotations

from plaudit.runs.charts import HEIGHT, WIDTH
from plaudit.runs.planes import Series, plane, steps


def test_corners_lie_in_the_corners() -> None:
    drawn = plane(
        "t",
        "m",
        [Series("train", "a", [(0.0, 0.0), (2.0, 4.0)], dots=True), Series("guide", "", [(0.0, 4.0), (2.0, 0.0)])],
        x_name="x",
        y_name="y",
        x_range=(0.0, 2.0),
        y_range=(0.0, 4.0),
    )
    assert [line.path for line in drawn.lines] == [
        f"M0.0 {HEIGHT:.2f}L{WIDTH:.1f} 0.00",
        f"M0.0 0.00L{WIDTH:.1f} {HEIGHT:.2f}",
    ]
    assert [(d.x, d.y) for d in drawn.dots] == [(0.0, 100.0), (100.0, 0.0)]
    assert drawn.key == [("train", "a")]
    assert [(t.at, t.text) for t in drawn.x_ticks][0::2] == [(0.0, "0.0"), (50.0, "1.0"), (100.0, "2.0")]
    assert [(t.at, t.text) for t in drawn.y_ticks] == [(100.0, "0"), (75.0, "1"), (50.0, "2"), (25.0, "3"), (0.0, "4")]


def test_whiskers_widen_the_axis_and_stop_at_a_given_one() -> None:
    series = [Series("train", "", [(1.0, 5.0)], whiskers=[(1.0, 0.0, 10.0)])]
    free = plane("t", "m", series, x_name="x", y_name="y", x_range=(0.0, 2.0))
    top, bottom = (float(p.split()[1]) for p in free.lines[0].path.removeprefix("M").split("L"))
    assert 0.9 * HEIGHT < top < HEIGHT
    assert 0 < bottom < 0.1 * HEIGHT
    cut = plane("t", "m", series, x_name="x", y_name="y", x_range=(0.0, 2.0), y_range=(4.0, 6.0))
    assert cut.lines[0].path == f"M500.0 {HEIGHT:.2f}L500.0 0.00"
    assert len(cut.dots) == 1  # a single point is marked, or nothing would be seen


def test_a_histogram_has_an_outline() -> None:
    assert steps([0.0, 1.0, 2.0], [3.0, 5.0]) == [
        (0.0, 0.0),
        (0.0, 3.0),
        (1.0, 3.0),
        (1.0, 5.0),
        (2.0, 5.0),
        (2.0, 0.0),
    ]


def test_a_flat_series_still_has_an_axis() -> None:
    drawn = plane("t", "m", [Series("train", "", [(0.0, 7.0), (1.0, 7.0)])], x_name="x", y_name="y")
    assert drawn.dots == []
    assert drawn.lines[0].path == f"M0.0 {HEIGHT / 2:.2f}L1000.0 {HEIGHT / 2:.2f}"
    assert any(t.text.startswith("7") for t in drawn.y_ticks)
