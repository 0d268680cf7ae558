"""Identifiers: a short prefix that says what a thing is, and a ULID that sorts by time.

``c_01JD…`` is a conversation, ``m_…`` a message, ``r_…`` a run, ``u_…`` a user, ``t_…`` a tenant,
``s_…`` a login session, ``n_…`` a node, ``k_…`` a connection, ``q_…`` a request,
``p_…`` a persistent session, ``g_…`` a group, ``ro_…`` a role, ``sh_…`` a share, ``ak_…`` an API
key, ``iv_…`` an invitation, ``us_…`` what a generation has used.
"""

import re

from ulid import ULID

ID_PATTERN = r"^[a-z]{1,4}_[0-9A-HJKMNP-TV-Z]{26}$"
"""What every identifier of the hub looks like (Crockford's base 32 leaves out I, L, O and U)."""

_ID = re.compile(ID_PATTERN)


def new_id(prefix: str) -> str:
    """A new identifier, ``<prefix>_<ULID>``; later ones sort after earlier ones by millisecond."""
    return f"{prefix}_{ULID()}"


def is_id(text: str, prefix: str) -> bool:
    """Whether ``text`` has the form of an identifier with this prefix."""
    return text.startswith(prefix + "_") and _ID.match(text) is not None
