"""A service: it drains on SIGTERM, tells systemd, names who blocks its loop, answers `/livez`.

Run it, look at http://127.0.0.1:8080/livez, and end it with Ctrl-C: what is in flight is finished.
"""

from __future__ import annotations

import sys

import trio

from actp_supervise import current_child
from actp_supervise.service import configure_logging, livez, open_service, serve_app


async def deliver() -> None:
    while not current_child().stopping:
        print("delivering", flush=True)
        await trio.sleep(0.5)  # work that is not to be cut short
        print("delivered", flush=True)


async def main(port: int) -> None:
    configure_logging(sys.stderr, as_json=not sys.stderr.isatty(), background=True)
    async with open_service(name="mail") as service:
        address = await service.start(serve_app, livez, "127.0.0.1", port, name="http")
        service.start_soon(deliver, name="deliver", shutdown_timeout=30.0)
        print(f"alive at {address}/livez", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
