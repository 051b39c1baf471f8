"""Gives the tests the signals of a program that was started by hand, where it is imported.

A shell starts its background jobs with SIGINT ignored, nohup with SIGHUP, and what they start
inherits that.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
