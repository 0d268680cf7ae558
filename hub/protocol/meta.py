"""The ``_meta`` of a request: what is about the call and not a parameter of it."""

import re
from typing import Any, Final

# W3C Trace Context, section 3.2. Version 00 has exactly these four parts; a later version may
# append more, and version ff and all-zero ids are invalid.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?P<more>-.*)?",
    re.DOTALL,
)


def pop_meta(params: dict[str, Any]) -> str | None:
    """Take ``_meta`` out of a request's parameters and give its ``traceparent``.

    None when there is none or it is not valid: a trace that cannot be continued is no reason to
    refuse a request (W3C Trace Context, section 3.2.4). Other members of ``_meta`` are ignored.
    """
    meta = params.pop("_meta", None)
    if type(meta) is not dict:
        return None
    traceparent = meta.get("traceparent")
    if type(traceparent) is not str:
        return None
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match["version"] == "00" and match["more"] is not None):
        return None
    return traceparent
