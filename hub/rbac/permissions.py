"""Every permission, with what it allows. A permission that is not here does not exist.

``noun:verb`` acts on what is one's own (or belongs to the tenant at large); ``noun:verb:any`` on
what others own in the same tenant. No permission reaches into another tenant.
"""

from collections.abc import Mapping
from typing import Final

PERMISSIONS: Final[Mapping[str, str]] = {
    "conversation:create": "Begin a conversation.",
    "conversation:read": "Read one's own conversations.",
    "conversation:write": "Rename one's own conversations, change their model and instructions.",
    "conversation:delete": "Delete one's own conversations.",
    "conversation:read:any": "Read the conversations of others in the tenant.",
    "conversation:write:any": "Change the conversations of others in the tenant.",
    "conversation:delete:any": "Delete the conversations of others in the tenant.",
    "message:send": "Send messages into one's own conversations, and so start runs.",
    "message:read": "Read the messages of one's own conversations.",
    "message:send:any": "Send messages into the conversations of others in the tenant.",
    "message:read:any": "Read the messages of others' conversations in the tenant.",
    "run:read": "See one's own runs.",
    "run:cancel": "Cancel one's own runs.",
    "run:read:any": "See the runs of others in the tenant.",
    "run:cancel:any": "Cancel the runs of others in the tenant.",
    "channel:subscribe": "Follow the events of what one may read.",
    "channel:subscribe:any": "Follow the events of others' conversations in the tenant.",
    "model:read": "See which models there are.",
    "session:read": "See one's own login sessions.",
    "session:revoke": "End one's own login sessions.",
    "session:read:any": "See the login sessions of others in the tenant.",
    "session:revoke:any": "End the login sessions of others in the tenant.",
    "audit:read": "Look into the tenant's audit trail, and follow it as it grows.",
    "audit:verify": "Verify the tenant's audit trail.",
    "audit:export": "Export the tenant's audit trail.",
    "metrics:read": "Read the metrics of the hub, in the tenant that it began with.",
}
"""What each permission allows, by its name."""

ANY: Final = ":any"
"""The suffix of a permission that reaches what others own."""
