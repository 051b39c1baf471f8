"""The tools of an agent are listed: what each does, and whether it asks first."""

from __future__ import annotations

from app.agents.content import ContentCreationDomainAgent
from app.agents.tool_list import listed_tools
from app.agents.tools import tool
from app.hands import Hands, HandTool
from app.hands.contract import Hand, ServerTool


class Writer:
    @tool(effect="read")
    async def look(self) -> str:
        """Look at what there is.

        More about it.
        """
        return ""

    @tool(effect="once", approve=True)
    async def send(self, to: str) -> str:
        """Send a letter.

        Args:
            to: Whom.
        """
        return to


async def nothing(_use):
    return None


HANDS = Hands(
    [
        Hand(
            name="crm",
            tools=lambda: (
                HandTool(
                    name="mcp__crm__write", description="Write.\nMore.", schema={}, effect="once",
                    call=nothing, acts=True,
                ),
            ),
            server_tools=(ServerTool(name="web_search", entry={}),),
        )
    ]
)  # fmt: skip


def approvals(*patterns):
    return {tool.name: tool.approval for tool in listed_tools(Writer, HANDS, patterns)}


def test_each_tool_is_listed_with_where_it_is_from_and_what_it_does():
    found = {each.name: each for each in listed_tools(Writer, HANDS, ())}
    assert list(found) == ["look", "mcp__crm__write", "send", "web_search"]
    assert (found["look"].source, found["look"].effect) == ("method", "read")
    assert found["look"].description == "Look at what there is."
    assert (found["mcp__crm__write"].source, found["mcp__crm__write"].effect) == ("mcp", "once")
    assert found["mcp__crm__write"].description == "Write."
    assert (found["web_search"].source, found["web_search"].effect) == ("server", None)


def test_a_tool_says_when_a_person_has_to_approve_it():
    assert approvals() == {
        "look": "never", "mcp__crm__write": "after reading", "send": "always",
        "web_search": "never",
    }  # fmt: skip
    asked = approvals("mcp__crm__*", "!send")
    assert (asked["mcp__crm__write"], asked["send"]) == ("always", "never")


def test_the_agents_that_ship_list_their_own_tools():
    names = {each.name for each in listed_tools(ContentCreationDomainAgent, None, ())}
    assert {"remember", "recall", "find_templates"} & names
