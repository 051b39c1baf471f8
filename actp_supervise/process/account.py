"""The account that a program runs under: user and group, by name or number, and their facts."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import trio


class UnknownAccountError(Exception):
    """There is no such user or group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user and a group as the system knows them; None leaves things as they are."""

    user: int | None = None
    group: int | None = None
    groups: list[int] | None = None
    """The supplementary groups."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """``HOME``, ``USER`` and the like, which systemd, too, sets for a service that has a user."""


async def look_up(user: str | int | None, group: str | int | None) -> Account:
    """Find a user and a group; in a thread, since their directory may be on the network.

    Raises:
        UnknownAccountError: If one of them does not exist.
    """
    if user is None and group is None:
        return Account()
    return await trio.to_thread.run_sync(
        partial(_find, user, group), abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
    )


def _find(user: str | int | None, group: str | int | None) -> Account:
    group_id = _group_id(group)
    if user is None:
        return Account(group=group_id)
    entry = _user_entry(user)
    user_id = int(user) if entry is None else entry.pw_uid
    if group_id is None:
        if entry is None:
            raise UnknownAccountError(f"user {user} has no entry, so its group must be given")
        group_id = entry.pw_gid
    groups: list[int] | None = [group_id]
    if os.geteuid() == user_id != 0 and os.getegid() == group_id:
        groups = None  # our own user, who may not set groups
    elif entry is not None:
        groups = os.getgrouplist(entry.pw_name, group_id)
    return Account(user=user_id, group=group_id, groups=groups, environment=_environment(entry))


def _group_id(group: str | int | None) -> int | None:
    if not isinstance(group, str):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UnknownAccountError(f"there is no group {group!r}") from None


def _user_entry(user: str | int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    except KeyError:
        if isinstance(user, str):
            raise UnknownAccountError(f"there is no user {user!r}") from None
        return None


def _environment(entry: pwd.struct_passwd | None) -> Mapping[str, str]:
    if entry is None:
        return {}
    return {
        "HOME": entry.pw_dir,
        "LOGNAME": entry.pw_name,
        "SHELL": entry.pw_shell,
        "USER": entry.pw_name,
    }
