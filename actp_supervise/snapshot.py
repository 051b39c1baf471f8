"""The tree at one moment: frozen, for people (`str`) and for machines (`to_dict`)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSnapshot:
    """One child as it was when `Supervisor.tree` was called."""

    name: str
    state: str
    restart: str
    restarts: int
    crashes: int
    last_error: str | None
    """The formatted traceback of its last error."""
    started_at: float | None
    """Trio's time at which its run began."""
    uptime: float
    """Seconds that its run has lasted; 0 where it does not run."""
    restart_at: float | None
    """Trio's time at which it is started again, where it is backing off."""
    overdue: bool
    """Whether it was cancelled and is still there."""
    pid: int | None
    """The process id of a `process_child` that runs."""
    time: float
    """Trio's time of the snapshot."""
    children: tuple[SupervisorSnapshot, ...]
    """The supervisors that the child has opened."""

    def to_dict(self) -> dict[str, Any]:
        """Return the child and all below it as values that JSON can hold."""
        own = {name: getattr(self, name) for name in _CHILD_FIELDS}
        return {"kind": "child", **own, "children": [node.to_dict() for node in self.children]}

    def line(self) -> str:
        """Return the child's line of the printed tree."""
        facts = [self.state]
        if self.overdue:
            facts.append("overdue")
        if self.restart_at is not None:
            facts.append(f"restarts in {max(0.0, self.restart_at - self.time):.1f} s")
        elif self.uptime:
            facts.append(f"up {self.uptime:.1f} s")
        if self.pid is not None:
            facts.append(f"pid {self.pid}")
        if self.restarts:
            facts.append(f"{self.restarts} restart{'s' if self.restarts > 1 else ''}")
        if self.last_error:
            facts.append(self.last_error.strip().rpartition("\n")[2])
        return f"{self.name}: {', '.join(facts)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSnapshot:
    """A supervisor and everything below it as it was when `Supervisor.tree` was called."""

    name: str
    state: str
    """running, stopping or stopped."""
    strategy: str
    children: tuple[ChildSnapshot, ...]
    """In start order."""

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as values that JSON can hold; each node's are in ``children``."""
        return {
            "kind": "supervisor",
            "name": self.name,
            "state": self.state,
            "strategy": self.strategy,
            "children": [child.to_dict() for child in self.children],
        }

    def line(self) -> str:
        """Return the supervisor's line of the printed tree."""
        return f"{self.name} [{self.strategy}, {self.state}]"

    def __str__(self) -> str:
        return "\n".join([self.line(), *_branches(self.children)])


_CHILD_FIELDS = tuple(field.name for field in fields(ChildSnapshot) if field.name != "children")


def _branches(nodes: tuple[ChildSnapshot, ...] | tuple[SupervisorSnapshot, ...]) -> list[str]:
    lines: list[str] = []
    for node in nodes:
        last = node is nodes[-1]
        lines.append(f"{'└── ' if last else '├── '}{node.line()}")
        lines += [f"{'    ' if last else '│   '}{line}" for line in _branches(node.children)]
    return lines
