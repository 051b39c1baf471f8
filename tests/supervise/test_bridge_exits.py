"""What in asyncio code would end the whole program, and ends that child alone."""

from __future__ import annotations

import asyncio
import signal
import socket

import pytest
import trio
import trio_asyncio
from asyncio_code import fail, raises

from actp_supervise import SupervisionError, open_supervisor
from actp_supervise.bridge import asyncio_child, run_in_trio


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_an_exit_in_the_code_is_an_error_of_the_child(isolation, clock, error):
    with pytest.raises(SupervisionError, match="ends this child alone") as caught:
        await asyncio_child(fail, isolation=isolation)(error)

    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_an_exit_in_a_background_task_is_an_error_of_the_child(isolation, clock, error):
    record = []

    async def code():
        task = asyncio.create_task(fail(error))
        try:
            await asyncio.sleep(1000)
        finally:
            record.append(task.done())

    with pytest.raises(SupervisionError, match="ends this child alone"):
        await asyncio_child(code, isolation=isolation)()

    assert record == [True]


@pytest.mark.parametrize("how", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
async def test_an_exit_in_a_callback_is_an_error_of_the_child(isolation, clock, how):
    record = []

    async def code():
        loop = asyncio.get_running_loop()
        when = {"call_later": [0.01], "call_at": [loop.time() + 0.01]}.get(how, [])
        getattr(loop, how)(*when, raises, SystemExit(3))
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.01)
            record.append("cleaned up")

    with pytest.raises(SupervisionError, match=r"SystemExit\(3\)"):
        await asyncio_child(code, isolation=isolation)()

    assert record == ["cleaned up"]


@pytest.mark.parametrize("kind", ["reader", "writer"])
async def test_an_exit_in_a_callback_of_a_socket_is_an_error_of_the_child(isolation, kind):
    record = []

    async def code():
        here, there = socket.socketpair()
        with here, there:
            there.send(b"x")
            loop = asyncio.get_running_loop()
            getattr(loop, f"add_{kind}")(here, raises, SystemExit(3))
            try:
                await asyncio.sleep(1000)
            finally:
                getattr(loop, f"remove_{kind}")(here)
                await asyncio.sleep(0.01)
                record.append("cleaned up")

    with pytest.raises(SupervisionError, match=r"SystemExit\(3\)"):
        await asyncio_child(code, isolation=isolation)()

    assert record == ["cleaned up"]


async def test_what_breaks_the_loop_itself_is_an_error_of_the_child(autojump_clock):
    record = []

    async def exit_in_trio():
        raise SystemExit(3)

    async def code():
        trio_asyncio.run_trio_task(exit_in_trio)
        try:
            await asyncio.sleep(1000)
        finally:
            record.append("ended")

    with pytest.raises(SupervisionError, match=r"SystemExit\(3\)"):
        await asyncio_child(code)()

    assert record == ["ended"]


async def test_stopping_the_loop_is_an_error_of_the_child(isolation, clock):
    async def code():
        asyncio.get_running_loop().stop()
        await asyncio.sleep(1000)

    with pytest.raises(RuntimeError, match="stop"):
        await asyncio_child(code, isolation=isolation)()


async def test_a_signal_handler_is_refused_and_the_programs_stays(isolation, clock):
    before = signal.getsignal(signal.SIGTERM)

    async def code():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)

    with pytest.raises(RuntimeError, match=r"add_signal_handler|main thread"):
        await asyncio_child(code, isolation=isolation)()

    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("where", ["asyncio", "Trio"])
def test_ctrl_c_ends_the_program_and_is_no_error_of_the_child(where):
    record = []

    async def interrupt():
        signal.raise_signal(signal.SIGINT)
        record.append("not interrupted")

    async def code():
        await (interrupt() if where == "asyncio" else run_in_trio(interrupt))
        try:
            await asyncio.sleep(1000)
        finally:
            record.append("cancelled")

    async def main():
        async with open_supervisor(shutdown_timeout=0) as supervisor:
            supervisor.start_soon(asyncio_child(code))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    assert record == ["not interrupted", "cancelled"]
