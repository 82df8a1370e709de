"""What any request may hold, as sentences about its fields. Pure, so that `rules` may use it.

A check says what would be right, or None; `refuse` collects what was said under the names REST clients write.
"""

import re
from collections.abc import Mapping

from infra.errors import ValidationFailed

ID_MAX = 2**63 - 1
PAGE_SIZE_MAX = 100

_USER_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")


def refuse(fields: Mapping[str, str | None]) -> None:
    """:raises ValidationFailed: naming each field about which something was said."""
    wrong = {field: message for field, message in fields.items() if message is not None}
    if wrong:
        raise ValidationFailed(wrong)


def between(number: int, least: int, most: int) -> str | None:
    """What is wrong with a number outside `least` to `most`, both allowed."""
    return None if least <= number <= most else f"must be an integer from {least} to {most}"


def text(given: str, length_max: int) -> str | None:
    """What is wrong with a text Postgres cannot hold, or of more than `length_max` characters."""
    if "\x00" in given:
        return "must not hold a NUL character"
    return None if len(given) <= length_max else f"must have at most {length_max} characters"


def user(user_id: str) -> str | None:
    """What is wrong with a user id."""
    return None if _USER_ID.fullmatch(user_id) else "must be 1-64 characters of A-Z a-z 0-9 _ . : @ -"


def check_user(user_id: str) -> None:
    """:raises ValidationFailed: for what is no user id."""
    refuse({"userId": user(user_id)})


def check_page(page: int, size: int) -> None:
    """:raises ValidationFailed: pages count from 0, a page has 1 to 100 rows."""
    refuse({"page": None if page >= 0 else "must be 0 or more", "size": between(size, 1, PAGE_SIZE_MAX)})
