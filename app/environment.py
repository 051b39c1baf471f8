"""What `.env` says, put into the environment of this process, for code that is not ours.

An agent's own class, and the libraries that it uses, look into `os.environ` as they would in any
program that loads `.env`. The daemon itself reads its settings from what it was started with.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping


class SharedEnvironment:
    """The environment of this process, with what `.env` has besides.

    Args:
        environ: The environment; what it has already stays as it is.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._environ = environ
        self.given = dict(environ)
        """What the program was started with."""
        self._shared: set[str] = set()

    def share(self, variables: Mapping[str, str]) -> None:
        """Put variables into the environment, and take out those of an earlier call that are gone.

        Args:
            variables: The names and values.
        """
        for name in self._shared - variables.keys():
            if name in self.given:
                self._environ[name] = self.given[name]
            else:
                self._environ.pop(name, None)
        self._environ.update(variables)
        self._shared = set(variables)
