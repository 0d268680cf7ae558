"""Who was not let in: for the audit trail, and nothing that a caller is told."""

from hub.faults import Fault


class NotAdmitted(Fault):
    """The fault ``why`` of somebody of whom it is known who they are, or where they would come in.

    ``tenant_id`` is where it is noted: the one that they would have entered; ``user_id`` who they
    are here, if anybody.
    """

    def __init__(self, why: Fault, tenant_id: str | None, user_id: str | None) -> None:
        super().__init__(why.reason, why.message, details=why.details)
        self.tenant_id = tenant_id
        self.user_id = user_id
