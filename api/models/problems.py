"""Errors on the wire: problem documents of RFC 9457."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FieldProblem(BaseModel):
    """One wrong field of a request."""

    field: str = Field(description="Where it is: `body.steps.0.id`, `query.since`.")
    code: str = Field(description="What is wrong, for programs: `missing`, `string_too_long`.")
    message: str = Field(description="What is wrong, for people. Never repeats the value.")


class Problem(BaseModel):
    """An error. `code` is stable and meant for programs; `detail` is meant for people."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "code": "not_found",
                    "detail": "There is no operation op_1.",
                    "field": "operation_id",
                    "errors": [],
                }
            ]
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    errors: list[FieldProblem] = []
