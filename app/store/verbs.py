"""What a verb of the store is: a method that is declared once, without a body.

::

    class Queue(Noun):
        @verb
        async def task(self, task_id: str) -> TaskRow | None:
            \"\"\"Return a task.\"\"\"

Calling it packs the arguments by name and hands them to `Noun.perform`. So a store has two ways to
do the work: to override the method, as the embedded one does with its SQL, or to do all verbs alike
in `perform`, as a call over the network can. What stands before a store (to see, to delay, to cross
to another thread or process) overrides `perform` alone, and so stands before every verb; see
`Before`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import cached_property, update_wrapper
from typing import Annotated, Any, Concatenate, Final, Generic, ParamSpec, TypeVar, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Noun")

JSON = Any
"""Whatever `json.dumps` accepts."""

SECONDS: Final = "seconds"

Seconds = Annotated[float, SECONDS]
"""A duration that is added to the database's time: from 0 to a century."""

Arguments = Mapping[str, object]
"""What a verb is called with, by the names of its parameters, defaults included."""


class Verb(Generic[R]):
    """One verb: its name, what it takes, and what it answers."""

    def __init__(self, method: Callable[..., Awaitable[R]]) -> None:
        self._method = method
        self.name = method.__name__
        parameters = list(inspect.signature(method).parameters.values())[1:]
        self._signature = inspect.Signature(parameters)
        self._names = self._signature.parameters.keys()
        self._positional = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
        self._defaults = {
            each.name: each.default for each in parameters if each.default is not each.empty
        }

    def __repr__(self) -> str:
        return f"<verb {self.name}>"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its parameters."""
        return tuple(self._signature.parameters)

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The type of each parameter, and under ``return`` that of the answer."""
        return get_type_hints(self._method, include_extras=True)

    def bind(self, *args: object, **kwargs: object) -> Arguments:
        """Return the arguments of a call by name.

        Raises:
            TypeError: If it does not take them.
        """
        # `inspect` takes several times as long, so it is asked where something is wrong.
        given = {**dict(zip(self._positional, args, strict=False)), **kwargs}
        arguments = {**self._defaults, **given}
        if len(given) == len(args) + len(kwargs) and arguments.keys() == self._names:
            return arguments
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def ask(self, store: Noun, arguments: Arguments) -> Coroutine[Any, Any, R]:
        """Call this verb of a store; to be awaited, as a method of the store is."""
        method = getattr(store, self.name)
        if getattr(method, "verb", None) is self:  # it would bind them anew
            return store.perform(self, arguments)
        answer: Coroutine[Any, Any, R] = method(**arguments)
        return answer


def verb(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Make a method a verb: its signature and docstring are the contract, and it has no body."""
    made = Verb(method)

    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.perform(made, made.bind(*args, **kwargs))

    update_wrapper(call, method)
    vars(call)["verb"] = made  # for `verbs_of`
    return call


class Noun:
    """The verbs about one thing; those of `Store` are the nouns together."""

    def perform(self, verb: Verb[R], arguments: Arguments) -> Coroutine[Any, Any, R]:
        """Do a verb that is not overridden; to be awaited.

        Raises:
            NotImplementedError: If this store cannot.
        """
        raise NotImplementedError(f"{type(self).__name__} does not know how to {verb.name}")


def verbs_of(noun: type[Noun]) -> dict[str, Verb[Any]]:
    """Return the verbs of a noun, or of a whole store, by name."""
    return {
        name: declared.verb
        for cls in noun.__mro__
        for name, declared in vars(cls).items()
        if hasattr(declared, "verb")
    }
