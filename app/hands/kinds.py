"""The kinds of hands there are, by the names by which agents ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .app_store import APP_STORE
from .http import HTTP
from .mcp_servers import MCP
from .server_tools import CODE_EXECUTION, WEB_FETCH, WEB_SEARCH
from .stripe import STRIPE
from .telegram import TELEGRAM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .contract import Kind

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        APP_STORE,
        CODE_EXECUTION,
        HTTP,
        MCP,
        STRIPE,
        TELEGRAM,
        WEB_FETCH,
        WEB_SEARCH,
    )
}
