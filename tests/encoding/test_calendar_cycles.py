"""Calendar cycles against Python's own calendar."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.encoding.calendar_cycles import CYCLES, CycleName, cycle_codes

MOMENTS = st.datetimes(dt.datetime(1600, 1, 1), dt.datetime(2400, 12, 31))
EPOCH = dt.datetime(1970, 1, 1)


def _micros(moment: dt.datetime) -> int:
    return (moment - EPOCH) // dt.timedelta(microseconds=1)


@given(MOMENTS)
def test_codes_are_those_of_the_calendar(moment: dt.datetime) -> None:
    micros = _micros(moment)
    assert cycle_codes("time of day", micros) == moment.hour * 60 + moment.minute + 1
    assert cycle_codes("weekday", micros) == moment.weekday() + 1
    assert cycle_codes("day of month", micros) == moment.day
    march = dt.datetime(moment.year - (moment.month < 3), 3, 1)
    assert cycle_codes("day of year", micros) == (moment - march).days + 1


@given(st.lists(MOMENTS, min_size=1, max_size=20))
def test_arrays_and_integers_get_the_same_codes(moments: list[dt.datetime]) -> None:
    micros = [_micros(moment) for moment in moments]
    for cycle in CYCLES:
        together = cycle_codes(cycle.name, np.array(micros, dtype=np.int64)).tolist()
        assert together == [cycle_codes(cycle.name, one) for one in micros]
        assert all(1 <= code <= cycle.n_steps for code in together)


@pytest.mark.parametrize("cycle", CYCLES, ids=lambda cycle: cycle.name)
def test_tables_are_on_the_circle_and_a_missing_value_is_at_its_centre(cycle: object) -> None:
    table = cycle.table()  # type: ignore[attr-defined]
    assert (table[0] == 0).all()
    radius = table[1:, 0::2] ** 2 + table[1:, 1::2] ** 2
    np.testing.assert_allclose(radius, 1.0, atol=1e-6)


def test_weekday_harmonics_tell_all_days_apart_linearly() -> None:
    table = next(cycle for cycle in CYCLES if cycle.name == "weekday").table()[1:]
    assert np.linalg.matrix_rank(np.hstack([table, np.ones((7, 1))])) == 7


def test_the_last_minute_of_the_day_is_next_to_the_first() -> None:
    name: CycleName = "time of day"
    table = next(cycle for cycle in CYCLES if cycle.name == name).table()
    first = table[cycle_codes(name, _micros(dt.datetime(2020, 1, 2)))]
    last = table[cycle_codes(name, _micros(dt.datetime(2020, 1, 1, 23, 59)))]
    noon = table[cycle_codes(name, _micros(dt.datetime(2020, 1, 1, 12)))]
    assert np.abs(first - last).max() < 0.05 < np.abs(first - noon).max()
