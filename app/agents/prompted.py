"""PromptedAgent: an agent without a class of its own. Its job is a prompt in the file of agents."""

from __future__ import annotations

from typing import ClassVar

from .base import DomainAgent


class PromptedAgent(DomainAgent):
    """Does tasks and goals by the prompt, with its memory and the tools that the file gives it."""

    prompt: ClassVar[str] = "You do what the goal says."
    """Only where no file gives another, which `AgentOptions.prompt` has."""
