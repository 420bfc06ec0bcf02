"""How a class of `trivium.blocking` is made from one of the asynchronous SDK: its methods, with the same arguments and
documentation, as ones that wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import partial, wraps
from typing import Concatenate, Generic, ParamSpec, TypeVar

from trivium.loop_thread import LoopThread

A = TypeVar("A")  # asynchronous
A_co = TypeVar("A_co", covariant=True)
B = TypeVar("B")  # blocking
P = ParamSpec("P")
T = TypeVar("T")


class Blocking(Generic[A_co]):
    """`made` is the object of the asynchronous SDK, which lives in `loop`."""

    def __init__(self, loop: LoopThread, made: A_co) -> None:
        self._loop = loop
        self._made = made


def waiting(method: Callable[Concatenate[A, P], Awaitable[T]]) -> Callable[Concatenate[Blocking[A], P], T]:
    """A method that waits for what the asynchronous one returns."""

    @wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **options: P.kwargs) -> T:
        return self._loop.call(partial(method, self._made, *args, **options))

    return call


def in_loop(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[Blocking[A], P], T]:
    """A method that has one that does not wait called in the loop."""

    @wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **options: P.kwargs) -> T:
        return self._loop.call(partial(method, self._made, *args, **options))

    return call


def each(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[Blocking[A], P], Iterator[T]]:
    """A method that yields what the asynchronous one does."""

    @wraps(method)
    def iterate(self: Blocking[A], /, *args: P.args, **options: P.kwargs) -> Iterator[T]:
        rows = self._loop.call(partial(method, self._made, *args, **options))
        while True:
            try:
                yield self._loop.call(rows.__anext__)
            except StopAsyncIteration:
                return

    return iterate


def block(
    method: Callable[Concatenate[A, P], AbstractAsyncContextManager[T]], made_of: Callable[[LoopThread, T], B]
) -> Callable[Concatenate[Blocking[A], P], AbstractContextManager[B]]:
    """A method whose block is that of the asynchronous one, around what `made_of` makes of what that gives."""

    @wraps(method)
    @contextmanager
    def opened(self: Blocking[A], /, *args: P.args, **options: P.kwargs) -> Iterator[B]:
        manager = self._loop.call(partial(method, self._made, *args, **options))
        with self._loop.entered(manager) as made:
            yield made_of(self._loop, made)

    return opened
