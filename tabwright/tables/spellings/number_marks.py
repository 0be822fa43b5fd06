"""Numbers in a spelling that says itself which number it is: marks, signs, currencies, digits."""

from __future__ import annotations

from typing import Final

import polars as pl

CURRENCY: Final = (
    r"(?:(?:US|CA?|AU?|NZ|HK|R)?\$|\p{Sc}|USD|EUR|GBP|CHF|JPY|CNY|RMB|INR|AUD|CAD|NZD|SGD|HKD|SEK|"
    r"NOK|DKK|PLN|CZK|HUF|TRY|BRL|MXN|ZAR|KRW|THB|RUB|ILS|kr|z\x{142})"
)
_CURRENCY_BEFORE: Final = rf"^([-+]?) ?{CURRENCY}[ \x{{a0}}\x{{202f}}]?"
# How accounts write what is negative: in parentheses, or with the sign behind.
_NEGATIVE: Final = (
    r"^(\p{Sc}?) ?\((\p{Sc}? ?[0-9.][^()+\-]*)\)$",
    r"^(\p{Sc}?)([0-9][0-9.,'\u2019\u00a0\u202f ]*)[-\x{2212}]$",
)
_UNIT_BEHIND: Final = rf"[ \x{{a0}}\x{{202f}}]?(?:%|{CURRENCY})$"
# Signs that stand for a minus before a number, and marks that have no width.
_MINUS: Final = r"^[\x{2212}\x{2013}\x{fe63}\x{ff0d}]"
_NO_WIDTH: Final = r"[\x{200b}\x{200e}\x{200f}\x{2060}\x{feff}]"
_HEXADECIMAL: Final = r"^([-+]?)0[xX]([0-9A-Fa-f]{1,15})$"
# Powers of ten as Fortran writes them, and as people do.
_FORTRAN: Final = r"^([-+]?(?:[0-9]+\.[0-9]*|\.?[0-9]+))[dD]([-+][0-9]{1,3}|[0-9]{2,3})$"
_TIMES_TEN: Final = (
    r"^([-+]?[0-9]*\.?[0-9]+) ?[*x\x{d7}\x{b7}\x{22c5}] ?10(?:\^|\*\*)?\(?([-+]?[0-9]{1,3})\)?$"
)
_RAISED: Final = (
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b",
    "0123456789+-",
)
# What stands between groups of digits beside commas and points: quotes and spaces of any width.
GROUP_MARKS: Final = r"'\u2019\u00a0\u2007\u2009\u202f "
# Groups of exactly three digits behind a first one that has no leading zero; of two in India.
_THOUSANDS: Final = (
    r"^[-+]?[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?:['\u2019][0-9]{3})+|(?:_[0-9]{3})+|"
    r"(?:[\u00a0\u2007\u2009\u202f ][0-9]{3})+)(?:\.[0-9]+)?$|"
    r"^[-+]?[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?$"
)
# Digits of other scripts and widths, each from its zero on, and their marks.
_ZEROS: Final = (0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50, 0xFF10)
_OTHER_DIGITS: Final = {
    **{chr(zero + digit): str(digit) for zero in _ZEROS for digit in range(10)},
    **{"\u066b": ".", "\u066c": ",", "\uff0e": ".", "\uff0c": ",", "\uff05": "%", "\uff0b": "+"},
    "\u221e": "inf",
}
_OTHER_DIGIT: Final = r"[^\x00-\x7f]"


def plain_numbers(text: pl.Series) -> pl.Series:
    """Text with its numbers in one spelling, that of Python, where they are certain to be some.

    Unicode's minus, a currency before or behind the number, a percent sign (its number stays as it
    is), and separators of thousands go: ``1,282``, ``$1,005.93``, ``1'033``, ``4.5%``. What
    accounts write as negative, ``(12.50)`` or ``12.50-``, gets its sign; ``0x1F`` is 31, ``5D+01``
    and ``5×10¹`` are 50. Digits of other scripts are digits. Any other cell, such as ``0,5``, stays
    as it was.

    `text`: without spaces around the cells.
    """
    bare = bare_numbers(text)
    grouped = bare.str.contains(_THOUSANDS)
    if grouped.any():
        digits = bare.str.replace_all(f"[,_{GROUP_MARKS}]", "")
        bare = digits.zip_with(grouped, bare)
    for pattern in (_FORTRAN, _TIMES_TEN):
        if bare.str.contains(pattern).any():
            bare = bare.str.replace(pattern, "${1}e${2}")
    if bare.str.contains(_HEXADECIMAL).any():
        part = bare.str.extract_groups(_HEXADECIMAL).struct.unnest()
        whole = part.to_series(1).str.to_integer(base=16, strict=False).cast(pl.String)
        bare = (part.to_series(0) + whole).fill_null(bare)
    return bare.zip_with(bare.cast(pl.Float64, strict=False).is_not_null(), text)


def bare_numbers(text: pl.Series) -> pl.Series:
    """Text without a currency, a percent sign and Unicode's minus, whatever is left of it."""
    if text.str.contains(_OTHER_DIGIT).any():
        text = text.str.replace_many(_OTHER_DIGITS)
        if text.str.contains(
            r"10[\x{2070}\x{b9}\x{b2}\x{b3}\x{2074}-\x{2079}\x{207a}\x{207b}]+$"
        ).any():
            text = text.str.replace_many(list(_RAISED[0]), list(_RAISED[1]))
    text = text.str.replace_all(_NO_WIDTH, "").str.replace(_MINUS, "-")
    text = text.str.replace("\u2212", "-", literal=True)
    for pattern in _NEGATIVE:
        text = text.str.replace(pattern, "-$1$2")
    return text.str.replace(_CURRENCY_BEFORE, "$1").str.replace(_UNIT_BEHIND, "")


def currencies(text: pl.Series) -> pl.Series:
    """The distinct currencies that stand before or behind numbers."""
    bare = text.str.replace_all(_NO_WIDTH, "").str.replace_all(r"[-+()]", "").str.strip_chars()
    found = bare.str.extract(rf"^({CURRENCY})", 1)
    return found.fill_null(bare.str.extract(rf"({CURRENCY})$", 1)).drop_nulls().unique()
