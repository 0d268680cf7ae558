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
    "apikey:create": "Make API keys of one's own, which may do no more than who makes them.",
    "apikey:read": "See one's own API keys, but for their secrets.",
    "apikey:write": "Rename one's own API keys, and change what they may do and for how long.",
    "apikey:revoke": "End one's own API keys.",
    "apikey:create:any": "Make and rotate the API keys of service accounts.",
    "apikey:read:any": "See the API keys of others in the tenant, but for their secrets.",
    "apikey:write:any": "Change the API keys of others in the tenant.",
    "apikey:revoke:any": "End the API keys of others in the tenant.",
    "service:create": "Make service accounts, of no higher rank than one's own.",
    "service:read": "See the service account that one is.",
    "service:write": "Rename, disable and enable the service account that one is.",
    "service:delete": "Delete the service account that one is.",
    "service:read:any": "See the service accounts of the tenant.",
    "service:write:any": "Rename, disable and enable the service accounts of the tenant.",
    "service:delete:any": "Delete the service accounts of the tenant.",
    "metrics:read": "Read the metrics of the hub, in the tenant that it began with.",
}
"""What each permission allows, by its name."""

ANY: Final = ":any"
"""The suffix of a permission that reaches what others own."""
