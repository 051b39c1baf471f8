"""What the Messages API of version 2026-10-21 refuses, and how it words an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Body = dict[str, Any]

VERSIONS: Final = ("2023-06-01", "2026-10-21")

ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Refusal(Exception):
    """The API refuses: a status and what it says."""

    def __init__(self, *, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse a request without a usable key or version.

    Raises:
        Refusal: If the key or the version is missing or wrong.
    """
    key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if not key:
        raise Refusal(status=401, message="x-api-key header is required")
    if key.startswith("sk-ant-wrong"):
        raise Refusal(status=401, message="invalid x-api-key")
    version = headers.get("anthropic-version")
    if version is None:
        raise Refusal(status=400, message="anthropic-version: header is required")
    if version not in VERSIONS:
        raise Refusal(status=400, message=f"anthropic-version: {version!r} is not a valid version")


def check_body(body: Any, headers: Mapping[str, str]) -> Body:  # noqa: ANN401  (JSON)
    """Return the body of a request for a message, or refuse it.

    Raises:
        Refusal: If the API would not take it.
    """
    if not isinstance(body, dict):
        raise Refusal(status=400, message="the body must be a JSON object")
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        if not isinstance(body.get(name), kind) or not body[name]:
            raise Refusal(status=400, message=f"{name}: Field required")
    if body["max_tokens"] < 1:
        raise Refusal(status=400, message="max_tokens: must be greater than or equal to 1")
    if not body["model"].startswith("claude-"):
        raise Refusal(status=404, message=f"model: {body['model']}")
    for problem in (
        *_retired_fields(body, headers),
        *_tool_problems(body),
        *_compaction_problems(body, headers),
        *_message_problems(body["messages"]),
    ):
        raise Refusal(status=400, message=problem)
    return body


def _retired_fields(body: Body, headers: Mapping[str, str]) -> Iterator[str]:
    if headers.get("anthropic-version") == "2026-10-21":
        for name in ("temperature", "top_p", "top_k"):
            if name in body:
                yield f"{name}: is not supported in this API version"
    if "thread" in body and "message-threads" not in headers.get("anthropic-beta", ""):
        yield "thread: Extra inputs are not permitted"


def _tool_problems(body: Body) -> Iterator[str]:
    seen = set()
    for number, tool in enumerate(body.get("tools", ())):
        name = tool.get("name", "")
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", name):
            yield f"tools.{number}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
        if name in seen:
            yield "tools: Tool names must be unique."
        seen.add(name)
        if tool.get("type", "custom") == "custom" and (
            tool.get("input_schema", {}).get("type") != "object"
        ):
            yield f"tools.{number}.input_schema.type: Field required"
    forced = body.get("tool_choice", {}).get("type") in {"any", "tool"}
    if forced and re.match(r"claude-(opus|sonnet)-5-5", body["model"]):
        yield f"tool_choice: {body['model']} does not support forced tool use"


COMPACTION: Final = "compact-2026-09-04"
"""The beta by which a conversation is summed up."""


def _compaction_problems(body: Body, headers: Mapping[str, str]) -> Iterator[str]:
    asked = "compaction" in body or _is_summary(body["messages"][0])
    if asked and COMPACTION not in headers.get("anthropic-beta", ""):
        yield f"compaction: needs the beta {COMPACTION}"
    if "compaction" in body and "context_management" in body:
        yield "compaction: cannot be combined with context_management"


def _is_summary(message: Mapping[str, Any]) -> bool:
    """Whether a message is the sum of those before it, and so may come first."""
    blocks = _blocks(message.get("content"))
    return message.get("role") == "assistant" and [b.get("type") for b in blocks] == ["compaction"]


def _message_problems(messages: list[Any]) -> Iterator[str]:
    open_calls: set[str] = set()
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in {"user", "assistant"} or (
            number == 0 and role != "user" and not _is_summary(message)
        ):
            yield f"messages.{number}: unexpected role {role!r}"
        blocks = _blocks(content)
        if not blocks:
            yield f"messages.{number}: all messages must have non-empty content"
        results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if open_calls - results:
            missing = ", ".join(sorted(open_calls - results))
            yield (
                f"messages.{number}: `tool_use` ids were found without `tool_result` blocks "
                f"immediately after: {missing}"
            )
        if results - open_calls:
            yield (
                f"messages.{number}: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{', '.join(sorted(results - open_calls))}"
            )
        open_calls = {block["id"] for block in blocks if block["type"] == "tool_use"}


def _blocks(content: Any) -> list[dict[str, Any]]:  # noqa: ANN401  (JSON)
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content if isinstance(content, list) else []


def text_of(content: Any) -> str:  # noqa: ANN401  (JSON)
    """Return the text of a message's content, its tool results included."""
    parts = []
    for block in _blocks(content):
        if block["type"] == "text":
            parts.append(block["text"])
        elif block["type"] == "tool_result":
            parts.append(text_of(block.get("content")))
    return "\n".join(parts)
