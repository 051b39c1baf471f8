"""What `asyncio_child` needs, when that has to be imported, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from actp_supervise.bridge import asyncio_child


def run_python(code: str, **modules: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, *modules.values()])},
    )
    return result.stdout + result.stderr


def test_importing_the_bridge_does_not_import_trio_asyncio():
    code = "import actp_supervise.bridge, sys; print('trio_asyncio' in sys.modules)"

    assert run_python(code) == "False\n"


def test_importing_trio_asyncio_too_late_is_refused_and_the_culprit_named(tmp_path):
    (tmp_path / "culprit.py").write_text("from asyncio import get_running_loop\n")
    code = (
        "import culprit\n"
        "from actp_supervise.bridge import asyncio_child\n"
        "try: asyncio_child(print)\n"
        "except RuntimeError as error: print(error)\n"
        "asyncio_child(print, isolation='thread')\n"
    )

    output = run_python(code, path=str(tmp_path))

    assert output.startswith(
        "isolation='loop' cannot work: culprit took asyncio's get_running_loop"
    )
    assert output.endswith("or use isolation='thread'\n")
    assert run_python("import trio_asyncio\n" + code, path=str(tmp_path)) == ""


def test_get_event_loop_may_be_taken_before_trio_asyncio_is_imported(tmp_path):
    (tmp_path / "early.py").write_text("from asyncio import get_event_loop\n")
    code = (
        "import early, trio\n"
        "from actp_supervise.bridge import asyncio_child\n"
        "async def code(): print(early.get_event_loop().is_running())\n"
        "trio.run(asyncio_child(code))\n"
    )

    assert run_python(code, path=str(tmp_path)) == "True\n"


def test_without_trio_asyncio_a_thread_works_and_a_loop_says_what_to_do():
    code = (
        "import sys; sys.modules['trio_asyncio'] = None\n"
        "import asyncio, trio\n"
        "from actp_supervise.bridge import asyncio_child, run_in_trio\n"
        "try: asyncio_child(print)\n"
        "except RuntimeError as error: print(error)\n"
        "async def code(): print(await run_in_trio(trio.to_thread.run_sync, lambda: 'works'))\n"
        "trio.run(asyncio_child(code, isolation='thread'))\n"
    )

    missing, works = run_python(code).splitlines()

    assert "install actp-supervise[asyncio]" in missing
    assert works == "works"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"isolation": "process"}, ValueError, "'loop' or 'thread', not 'process'"),
        ({"cancel_timeout": -1}, ValueError, "cancel_timeout must be"),
    ],
)
def test_a_bad_option_is_refused_at_the_call(options, error, message):
    with pytest.raises(error, match=message):
        asyncio_child(asyncio.sleep, **options)


def test_a_coroutine_object_is_refused():
    with pytest.raises(TypeError, match="not a coroutine object"):
        asyncio_child(asyncio.sleep(0))
