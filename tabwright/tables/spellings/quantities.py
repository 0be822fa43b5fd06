"""Quantities as text: 5.2K, 12 cm, 16:26, 1st, 3 1/4, 5'11", 48.85 N, 1h 30m.

What a cell alone says, such as ``$1,282`` or ``4.5%``, is in `tables/cells.py`. These need a
column: one cell of ``5K`` may be a size or a temperature. Whether a column is spelt so is decided
once, where a model is fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import polars as pl

from tabwright.tables.spellings.number_marks import bare_numbers, currencies

_NUMBER: Final = (
    r"[-+]?(?:[0-9]*\.?[0-9]+|[1-9][0-9]{0,2}(?:[,'\x{2019}\x{a0}\x{202f}][0-9]{3})+(?:\.[0-9]+)?)"
)
_SPACE: Final = r"[ \x{a0}\x{202f}\x{2009}]"
# Powers of ten, by what stands behind a number.
_MAGNITUDES: Final = {
    **dict.fromkeys(("k", "K", "thousand", "tsd", "tsd.", "千"), 3),
    **dict.fromkeys(("M", "m", "mn", "mln", "mio", "mio.", "million", "millions"), 6),
    **dict.fromkeys(("B", "b", "bn", "bln", "mrd", "mrd.", "billion", "billions"), 9),
    **dict.fromkeys(("T", "tn", "trn", "trillion", "trillions"), 12),
    **dict.fromkeys(("lakh", "lakhs", "lac"), 5),
    **dict.fromkeys(("crore", "crores", "cr"), 7),
    **dict.fromkeys(("万", "萬", "만"), 4),
    **dict.fromkeys(("亿", "億", "억"), 8),
}
# Letters that also stand for something else: metres, minutes, sizes, bytes, tonnes, kelvin.
_LETTERS: Final = ("k", "K", "M", "m", "B", "b", "T", "cr")
_POWERS: Final = {
    name if name in _LETTERS else name.lower(): power for name, power in _MAGNITUDES.items()
}
_MAGNITUDE: Final = rf"^({_NUMBER}){_SPACE}?([\p{{L}}]+\.?)?$"
# A number first, but for a currency, and a word last.
_MAGNITUDE_LOOKS: Final = r"^[-+(]?\P{N}{0,4}[0-9][0-9.,'\x{2019}\x{a0}\x{202f}]*\P{N}*$"
# Signs and short names, as they are written; longer names may be in any case and in the plural.
_UNIT_NAMES: Final = """
    kg g mg µg μg ug t lb lbs oz st km m cm mm µm μm um nm in ft yd mi ha m² m2 km² km2 m³ m3
    cm³ cm3 sqft sqm sf l L ml mL cl dl gal cc CC °C °F ºC ºF ℃ ℉ ° º deg km/h kmh kph kmph
    mph m/s kn kt kmpl km/l km/kg mpg s ms min mins h hr hrs d wk wks mo mos y yr yrs W kW MW
    hp HP bhp PS kWh MWh Wh V mV kV A mA mAh Ah Hz kHz MHz GHz KB kB MB GB TB bps kbps Mbps
    Gbps Pa kPa hPa MPa mbar bar psi mmHg px dpi ppi ppm ppb rpm N Nm kN J kJ MJ kcal cal mol
    mmol mmol/L mg/dL mg/dl mg/L g/L g/dL ng/mL IU U/L dB dBm lm lx ‰ ¢ pts pt pct nits MP
"""
_UNITS: Final = frozenset(_UNIT_NAMES.split())
_WITH_UNIT: Final = (
    rf"^([-+]?[0-9][0-9.,'\x{{2019}}\x{{a0}}\x{{202f}}]*?|[-+]?\.[0-9]+){_SPACE}?"
    r"([\p{L}°º℃℉‰¢][\p{L}²³/23]{0,11}\.?|/ ?[0-9]+)$"
)
_CLOCK: Final = (
    r"^(?P<h>[0-9]{1,2}):(?P<min>[0-5][0-9])(?::(?P<s>[0-5][0-9](?:\.[0-9]+)?))?"
    r"(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?$"
)
_ORDINAL: Final = r"^([0-9]*(?:[02-9]?1st|[02-9]?2nd|[02-9]?3rd|[04-9]th|1[123]th))$"
_VULGAR: Final = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5",
    "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
_FRACTION: Final = (
    r"^(?P<sign>[-+]?)(?P<whole>[0-9]+)?"
    r"(?:(?:^|[ \-\x{a0}])(?P<n>[0-9]+)[/\x{2044}](?P<d>[1-9][0-9]*))?$"
)
_DEGREES: Final = (
    r"^(?P<deg>[0-9]{1,3}(?:\.[0-9]+)?) ?[°º]? ?(?:(?P<min>[0-9]{1,2}(?:\.[0-9]+)?) ?['’′] ?)?"
    r"(?:(?P<s>[0-9]{1,2}(?:\.[0-9]+)?) ?(?:\"|''|”|″) ?)?(?P<side>[NSEW])$"
)
_FEET: Final = (
    r"^(?P<ft>[0-9]{1,3}) ?(?:'|’|′|ft\.?|feet) ?-?"
    r"(?:(?P<in>[0-9]{1,2}(?:\.[0-9]+)?) ?(?:\"|''|”|″|in\.?|inches)?)?$"
)
_DURATION: Final = (
    r"^(?:(?P<d>[0-9]+) ?(?:d|days?),? ?)?(?:(?P<h>[0-9]+) ?(?:h|hrs?|hours?),? ?)?"
    r"(?:(?P<min>[0-9]+) ?(?:m|mins?|minutes?),? ?)?"
    r"(?:(?P<s>[0-9]+(?:\.[0-9]+)?) ?(?:s|secs?|seconds?))?$"
)
_SPAN: Final = (
    r"^(?P<sign>-?)(?P<d>[0-9]+) days?,? (?P<h>[0-9]{1,2}):(?P<min>[0-5][0-9]):"
    r"(?P<s>[0-5][0-9](?:\.[0-9]+)?)$"
)
# Of years and months nobody knows how long they are.
_ISO_DURATION: Final = (
    r"^(?P<sign>[-+]?)P(?:(?P<w>[0-9]+(?:[.,][0-9]+)?)W)?(?:(?P<d>[0-9]+(?:[.,][0-9]+)?)D)?"
    r"(?:T(?:(?P<h>[0-9]+(?:[.,][0-9]+)?)H)?(?:(?P<min>[0-9]+(?:[.,][0-9]+)?)M)?"
    r"(?:(?P<s>[0-9]+(?:[.,][0-9]+)?)S)?)?$"
)
# Behind an amount: CR for a credit, DR for a debit.
_CREDIT: Final = rf"^(?P<n>{_NUMBER}){_SPACE}?(?P<side>[CcDd][Rr])\.?$"
# In fewer distinct cells such text is levels, which nothing is lost by.
_FEWEST_QUANTITIES: Final = 10


def _parts(text: pl.Series, pattern: str) -> dict[str, pl.Series]:
    """Groups of a pattern as text; null where a cell does not fit, or has no such part."""
    frame = text.str.extract_groups(pattern).struct.unnest()
    return {series.name: series.alias("") for series in frame.get_columns()}


def _number(part: pl.Series) -> pl.Series:
    return part.cast(pl.Float64, strict=False).fill_null(0.0)


def _where(values: pl.Series, text: pl.Series, pattern: str) -> pl.Series:
    """The values of the cells of a pattern; null elsewhere."""
    return values.set(~text.str.contains(pattern).fill_null(False), None)


def _magnitude_parts(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Numbers before a magnitude, as text, and the power of ten; null where a cell has neither."""
    found = bare_numbers(text).str.extract_groups(_MAGNITUDE).struct.unnest()
    word = found.to_series(1)
    name = word.zip_with(word.is_in(list(_LETTERS)), word.str.to_lowercase())
    power = name.fill_null("").replace_strict(
        pl.Series(["", *_POWERS]),
        pl.Series([0, *_POWERS.values()]),
        default=None,
        return_dtype=pl.Int64,
    )
    return found.to_series(0), power


def _magnitudes(text: pl.Series) -> pl.Series:
    number, power = _magnitude_parts(text)
    digits = number.str.replace_all(r"[,'\x{2019}\x{a0}\x{202f}]", "")
    # The power as an exponent, so that 1.1M is 1100000 to the last digit.
    return (digits + "e" + power.cast(pl.String)).cast(pl.Float64, strict=False)


def _clocks(text: pl.Series) -> pl.Series:
    """Seconds since midnight."""
    part = _parts(text, _CLOCK)
    half = part["half"].str.to_lowercase()
    hour = _number(part["h"])
    on_face = half.is_not_null() & hour.is_between(1, 12)
    hour = (hour % 12 + (half == "p").fill_null(False).cast(pl.Float64) * 12).zip_with(
        on_face, hour
    )
    seconds = hour * 3600 + _number(part["min"]) * 60 + _number(part["s"])
    seconds = seconds.set((half.is_not_null() & ~on_face) | (seconds > 86_400), None)
    return _where(seconds, text, _CLOCK)


def _ordinals(text: pl.Series) -> pl.Series:
    number = text.str.replace(r"[a-z]{2}$", "").cast(pl.Float64, strict=False)
    return _where(number, text, _ORDINAL)


def _fractions(text: pl.Series) -> pl.Series:
    """The values of `1/2`, `1 1/2` and `½`; None where text is something else."""
    for sign, spelt in _VULGAR.items():
        if text.str.contains(sign, literal=True).any():
            text = text.str.replace(rf"([0-9])? ?{sign}$", f"${{1}} {spelt}").str.strip_chars()
    part = _parts(text, _FRACTION)
    value = _number(part["whole"]) + _number(part["n"]) / part["d"].cast(pl.Float64).fill_null(1.0)
    value = value * ((part["sign"] == "-").fill_null(False).cast(pl.Float64) * -2 + 1)
    is_one = text.str.contains("[0-9]") & (part["whole"].is_not_null() | part["n"].is_not_null())
    return _where(value.set(~is_one.fill_null(False), None), text, _FRACTION)


def _degrees(text: pl.Series) -> pl.Series:
    """North and east are above zero."""
    part = _parts(text, _DEGREES)
    value = _number(part["deg"]) + _number(part["min"]) / 60 + _number(part["s"]) / 3600
    value = value * (part["side"].is_in(["S", "W"]).fill_null(False).cast(pl.Float64) * -2 + 1)
    return _where(value, text, _DEGREES)


def _inches(text: pl.Series) -> pl.Series:
    part = _parts(text, _FEET)
    return _where(_number(part["ft"]) * 12 + _number(part["in"]), text, _FEET)


def _durations(text: pl.Series) -> pl.Series:
    """Seconds."""
    result = pl.Series([None] * text.len(), dtype=pl.Float64)
    for pattern in (_DURATION, _SPAN):
        part = _parts(text, pattern)
        seconds = _number(part["d"]) * 86_400 + _number(part["h"]) * 3600
        seconds += _number(part["min"]) * 60 + _number(part["s"])
        if "sign" in part:
            # Of a span below zero the days alone are.
            days = _number(part["d"]) * 86_400
            seconds = (seconds - 2 * days).zip_with((part["sign"] == "-").fill_null(False), seconds)
        result = result.fill_null(_where(seconds, text, pattern))
    result = result.fill_null(_iso_durations(text))
    return result.set(~text.str.contains("[0-9]").fill_null(False), None)


def _iso_durations(text: pl.Series) -> pl.Series:
    """Seconds of ISO 8601."""
    part = {
        name: part if name == "sign" else _number(part.str.replace(",", ".", literal=True))
        for name, part in _parts(text, _ISO_DURATION).items()
    }
    seconds = part["w"] * 604_800 + part["d"] * 86_400
    seconds += part["h"] * 3600 + part["min"] * 60 + part["s"]
    is_negative = (part["sign"] == "-").fill_null(False)
    return _where((-seconds).zip_with(is_negative, seconds), text, _ISO_DURATION)


def _credits(text: pl.Series) -> pl.Series:
    """Credits are above zero, debits below."""
    text = bare_numbers(text)
    part = _parts(text, _CREDIT)
    value = _number(part["n"].str.replace_all(r"[,'\x{2019}\x{a0}\x{202f}]", ""))
    is_debit = part["side"].str.to_lowercase() == "dr"
    return _where((-value).zip_with(is_debit.fill_null(False), value), text, _CREDIT)


# By name: from text to float64; null where a cell is not spelt so.
QUANTITY_SPELLINGS: Final[dict[str, Callable[[pl.Series], pl.Series]]] = {
    "magnitude": _magnitudes,
    "clock": _clocks,
    "ordinal": _ordinals,
    "fraction": _fractions,
    "degrees": _degrees,
    "feet": _inches,
    "duration": _durations,
    "credit": _credits,
}


# What the cells of these look like, which is told sooner than what they mean.
_LOOKS: Final = {
    "clock": _CLOCK,
    "ordinal": _ORDINAL,
    "fraction": rf"[/\x{{2044}}{''.join(_VULGAR)}]|^[0-9]+$",
    "degrees": "[NSEW]$",
    "feet": _FEET,
    "duration": "(?:[a-z]|[0-9]:[0-9]{2}:[0-9.]+)$|^[-+]?P",
    "credit": r"[CcDd][Rr]\.?$",
}


def find_quantity(cells: pl.Series) -> str | None:
    """The spelling of a column, where it is certain; None where it is not.

    `cells`: distinct text, none of it null, not all of it numbers.
    """
    if not cells.len() or not cells.str.contains(r"\p{N}").all():
        return None
    if has_magnitudes(cells) and _certain_magnitudes(cells):
        return "magnitude"
    if cells.len() < _FEWEST_QUANTITIES:
        return None
    head = cells.head(_FEWEST_QUANTITIES)
    for name, looks in _LOOKS.items():
        read = QUANTITY_SPELLINGS[name]
        if not head.str.contains(looks).all() or read(cells).null_count():
            continue
        if name == "clock" and not _certain_clocks(cells):
            continue
        if name == "fraction" and not cells.str.contains(r"[0-9] [0-9]+/|[^ -~]").any():
            continue  # 1/2 may be a date, 120/80 two numbers
        if name == "credit" and (read(cells) > 0).all() | (read(cells) < 0).all():
            continue  # of one side alone: crores, maybe
        return name
    return None


def has_magnitudes(cells: pl.Series) -> bool:
    """Whether every cell is a number, and some have a letter or word for thousands or millions."""
    head = cells.head(_FEWEST_QUANTITIES)
    if not head.str.contains(_MAGNITUDE_LOOKS).all() or _magnitudes(head).null_count():
        return False
    return not _magnitudes(cells).null_count() and bool((_magnitude_parts(cells)[1] > 0).any())


def _certain_magnitudes(cells: pl.Series) -> bool:
    """Whether letters and words behind the numbers mean thousands, millions or more."""
    money = currencies(cells)
    words = bare_numbers(cells).str.extract(_MAGNITUDE, 2).drop_nulls()
    if (words.str.to_lowercase() == "cr").all() and not money.is_in(["\u20b9", "INR"]).any():
        return False  # credits, maybe
    if money.len():
        return money.len() == 1
    number, power = _magnitude_parts(cells)
    scaled = power.filter(power > 0)
    if (~words.is_in(list(_LETTERS))).all():
        return True
    if "m" in words or "b" in words or "T" in words:
        return False
    if scaled.n_unique() > 1:
        return True
    plain = number.filter(power == 0).str.replace_all("[^0-9.]", "").cast(pl.Float64, strict=False)
    # 850 beside 1.2K, in a column of counts; 9 beside 9M may be sizes.
    return (
        bool((scaled == 3).all())
        and cells.len() >= _FEWEST_QUANTITIES
        and bool(plain.len())
        and bool((plain < 1000).all())
    )


def _certain_clocks(cells: pl.Series) -> bool:
    """Whether these are times of day: minutes and seconds pass 23 sooner or later."""
    part = _parts(cells, _CLOCK)
    halves = part["half"].is_not_null()
    if halves.any():
        return bool(halves.all())
    longest = _number(part["h"]).max()
    return isinstance(longest, float) and longest <= 24


def unit_of(cells: pl.Series) -> str | None:
    """The unit that stands behind every number of a column; None where there is no one unit.

    `cells`: distinct text, none of it null.
    """
    if cells.len() < _FEWEST_QUANTITIES:
        return None
    if not cells.head(_FEWEST_QUANTITIES).str.contains(_WITH_UNIT).all():
        return None
    units = _units(cells).unique()
    if units.len() != 1 or units[0] is None:
        return None
    unit = str(units[0])
    is_known = unit in _UNITS or unit.startswith("/")
    is_word = len(unit) > 2 and unit.isalpha() and cells.str.contains(_SPACE).all()
    return unit if is_known or is_word else None


def without_unit(cells: pl.Series, unit: str) -> pl.Series:
    """The cells without their unit; those with another, or none, stay as they are."""
    bare = cells.str.extract(_WITH_UNIT, 1)
    return bare.zip_with((_units(cells) == unit).fill_null(False), cells)


def _units(cells: pl.Series) -> pl.Series:
    """What stands behind a number; of words in any case, the singular."""
    unit = cells.str.extract(_WITH_UNIT, 2).str.replace(" ", "", literal=True)
    exact = unit.is_in(list(_UNITS))
    word = unit.str.strip_suffix(".")
    # A letter alone is another unit in capitals, or none.
    word = word.str.to_lowercase().zip_with(word.str.len_chars() > 1, word)
    word = word.zip_with(word.is_in(list(_UNITS)), word.str.strip_suffix("s"))
    return unit.zip_with(exact, word)
