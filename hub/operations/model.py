"""Models: which there are."""

from pydantic import Field

from hub.operations.call import Call
from hub.operations.operation import Http, Nothing, Result, operation
from hub.operations.shapes import Listing


class Model(Result):
    name: str
    provider: str
    context_length: int = Field(description="Tokens of prompt and answer together.")
    size_bytes: int | None = None
    stand_in: bool = Field(
        description="True for the small embedded model, which only stands in for a real one."
    )


@operation(
    "model.list",
    permission="model:read",
    kind="read",
    http=Http("GET", "/v1/models"),
    faults=("permission_denied", "model_unavailable"),
)
async def listing(call: Call, params: Nothing) -> Listing[Model]:
    """List the models that runs can use; the first is the default."""
    models = await call.services.catalogue.models()
    return Listing(
        items=[Model.model_validate(model, from_attributes=True) for model in models],
        next_cursor=None,
    )
