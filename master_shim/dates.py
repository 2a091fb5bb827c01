"""HTTP's dates, in the three forms that RFC 9110 (5.6.7) wants understood and the one it wants written. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = "(?P<month>" + "|".join(_MONTHS) + ")"
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_FORMS = (
    re.compile(rf"[A-Z][a-z]{{2}}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    # What RFC 850 and C's asctime() made of it: obsolete, and still to be read.
    re.compile(rf"[A-Z][a-z]{{5,8}}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),
    re.compile(rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[0-9 ][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)


def parse_date(text: str, now: float) -> int | None:
    """Return the Unix second an HTTP date names, or None when it is none.

    `now` (Unix seconds) settles the century of a year of two digits: never more than 50 years ahead.
    """
    for form in _FORMS:
        if match := form.fullmatch(text.strip(" \t")):
            break
    else:
        return None
    month = _MONTHS.index(match["month"]) + 1
    year = int(match["year"])
    if len(match["year"]) == 2:
        this_year = datetime.fromtimestamp(now, UTC).year
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
    # A leap second is a time like any other; Python's dates do not know it.
    second = min(int(match["second"]), 59) if match["second"] == "60" else int(match["second"])
    try:
        found = datetime(year, month, int(match["day"]), int(match["hour"]), int(match["minute"]), second, tzinfo=UTC)
    except ValueError:
        return None
    return int(found.timestamp())


def format_date(at: float) -> str:
    """Return a Unix time as an HTTP date."""
    found = datetime.fromtimestamp(int(at), UTC)
    # Not by strftime, which would write names in the language of the machine.
    return f"{_DAYS[found.weekday()]}, {found.day:02} {_MONTHS[found.month - 1]} {found.year:04} {found:%H:%M:%S} GMT"
