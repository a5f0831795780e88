"""Addresses of storages without their passwords, for messages and for what a run writes about itself.

An address that is refused may be no URL at all: a slash is missing, or the password holds an `@`. What cannot be told
from a password is hidden, so a message may show less of an address than it could, and never more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote, unquote_plus

__all__ = ["hide_in_command", "hide_in_text", "hide_password"]

_HIDDEN = "***"
_OPTION = "--storage"
_HARMLESS = frozenset(
    "application_name cache channel_binding charset check_same_thread connect_timeout database dbname driver host "
    "hostaddr isolation_level mode port read_timeout service sslmode target_session_attrs timeout unix_socket uri user "
    "username write_timeout".split()
)
"""Parameters of an address that hold no secret; the values of all others are hidden."""


class _Read(NamedTuple):
    shown: str
    secrets: list[str]


def hide_password(address: str) -> str:
    """An address of a storage with `***` in the place of whatever may be a secret."""
    return _read(address).shown


def hide_in_text(text: str, address: str) -> str:
    """A text, such as a driver's error, with `***` in the place of the secrets of an address and of parts of them."""
    patterns: set[str] = set()
    for secret in _read(address).secrets:
        plain = {secret, unquote(secret), unquote_plus(secret)}
        # Where a secret was read in the wrong way, errors quote what was taken for a host, a port or a name.
        pieces = {piece for form in plain for piece in re.split(r"\W+", form) if len(piece) > 2}
        written = {change(form) for form in plain for change in (str, quote, quote_plus, lambda text: repr(text)[1:-1])}
        patterns |= {re.escape(form) for form in written if len(form) > 3}
        patterns |= {rf"(?<!\w){re.escape(form)}(?!\w)" for form in written | pieces if form}
    ordered = sorted(patterns, key=len, reverse=True)
    return re.sub("|".join(ordered), _HIDDEN, text) if ordered else text


def hide_in_command(words: Sequence[str]) -> list[str]:
    """The words of a command with the address of its storage, if it names one, without secrets."""
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if option == _OPTION and equals:
            word = f"{option}={hide_password(value)}"
        found.append(hide_password(word) if before == _OPTION else word)
    return found


def _read(address: str) -> _Read:
    file = re.match(r"sqlite[^:/]*:///", address)
    head = file or re.match(r"[^:/?@=\s]*:/*", address)
    start = head.end() if head else 0
    scheme, rest = address[:start], address[start:]
    if file:  # a path, which may hold any character
        path, mark, parameters = rest.partition("?")
        shown, secrets = _read_parameters(mark + parameters)
        return _Read(scheme + path + shown, secrets)
    if scheme and "/" not in scheme and "@" not in rest and "=" not in rest:  # perhaps a user and a password
        return _Read(scheme + _HIDDEN, [rest])
    end = _end_of_user(rest)
    if end is not None:
        user, colon, password = rest[:end].partition(":")
        shown, secrets = _read_parameters(rest[end:])
        if not colon:  # perhaps a token
            return _Read(f"{scheme}{_HIDDEN}{shown}", [user, *secrets])
        return _Read(f"{scheme}{user}:{_HIDDEN}{shown}", [password, *secrets])
    for host in re.finditer(r"(\[[^]]*\]|[^:,/?\[]*):([^,/?]*)", re.split(r"[/?]", rest, maxsplit=1)[0]):
        if host[2] and not host[2].isdecimal():  # no port: perhaps a password whose host is missing
            return _Read(scheme + rest[: host.start(2)] + _HIDDEN, [rest[host.start(2) :], host[2]])
    shown, secrets = _read_parameters(rest)
    return _Read(scheme + shown, secrets)


def _end_of_user(rest: str) -> int | None:
    """Where the host begins, with the last @ before it; None: there is no user."""
    before, _, after = rest.partition("?")
    late = after.rfind("@")
    if late >= 0 and "=" not in after[:late]:  # no parameters: the question mark belongs to the password
        return len(before) + 1 + late
    found = before.rfind("@")
    return None if found < 0 else found


def _read_parameters(text: str) -> _Read:
    """A text whose parts are parameters, `name=value`, from the first question mark or parameter on."""
    shown, secrets, begun = "", [], False
    for part in re.split(r"([?&;\s])", text):
        if re.fullmatch(r"[?&;\s]|", part):
            begun = begun or part == "?"
            shown += part
            continue
        name, equals, value = part.partition("=")
        begun = begun or bool(equals)
        if not begun or (equals and unquote(name).lower() in _HARMLESS):
            shown += part
        else:
            shown += f"{name}={_HIDDEN}" if equals else _HIDDEN
            secrets.append(value if equals else part)
    return _Read(shown, secrets)
