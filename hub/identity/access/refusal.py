"""Who was not let in, or not shown a thing: for the audit trail, and not for the caller."""

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


class Hidden(Fault):
    """``not_found`` to somebody for who they are: of a thing of their tenant that they may not see,
    or of what is not looked for because its name alone says that it is not theirs.

    What is looked for in the tenant and is not there is a plain ``Fault``: whatever another tenant
    has of that name, nobody here is told, their trail included.
    """

    def __init__(self) -> None:
        super().__init__("not_found")
