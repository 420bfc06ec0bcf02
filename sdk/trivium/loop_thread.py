"""The event loop behind `trivium.blocking`: a thread runs it, and calls wait for what it does.

Rules:
- A call that is interrupted (KeyboardInterrupt, or whatever a signal handler raises) is cancelled in the loop, which so
  takes no message for someone who has gone.
- The loop's thread does not live on in a forked process: there every call says so instead of waiting for ever, and
  leaving a block does nothing, because what it would end is the parent's.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager
from inspect import isawaitable
from typing import TypeVar, TypeVarTuple, overload

from anyio import CancelScope
from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.lowlevel import checkpoint

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_left_to_parent: list[ExitStack] = []  # else the collector of garbage would leave the blocks


class _Call:
    """What runs in the loop for a thread, which can give it up from the first moment on."""

    def __init__(self) -> None:
        self._scope: CancelScope | None = None
        self._given_up = False

    async def run(self, function: Callable[..., object], *args: object) -> object:
        with CancelScope() as self._scope:
            if self._given_up:
                self._scope.cancel()
                await checkpoint()
            found = function(*args)
            return await found if isawaitable(found) else found
        return None

    def give_up(self) -> None:
        self._given_up = True
        if self._scope is not None:
            self._scope.cancel()


class LoopThread:
    """Made by `loop_thread`; from whatever thread."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        self._process = os.getpid()

    @overload
    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T: ...

    @overload
    def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T: ...

    def call(self, function: Callable[..., object], *args: object) -> object:
        """What the function gives, run in the loop."""
        if self.is_forked:
            raise RuntimeError("the client was connected before this process was forked: connect again in here")
        made = _Call()
        done = False
        try:
            found = self._portal.start_task_soon(made.run, function, *args).result()
            done = True
            return found
        finally:
            if not done:  # interrupted, perhaps before there was a future to wait for
                self.call_soon(made.give_up)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Has the loop call it, without waiting: for handlers of signals."""
        self._portal.start_task_soon(function)

    @property
    def is_forked(self) -> bool:
        return os.getpid() != self._process

    def entered(self, manager: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """The asynchronous block as a plain one."""
        return _left_here(self, self._portal.wrap_async_context_manager(manager))


@contextmanager
def _left_here(loop: LoopThread, manager: AbstractContextManager[T]) -> Iterator[T]:
    with ExitStack() as stack:
        made = stack.enter_context(manager)
        try:
            yield made
        finally:
            if loop.is_forked:
                _left_to_parent.append(stack.pop_all())


@contextmanager
def loop_thread() -> Iterator[LoopThread]:
    """A loop (asyncio's) in a thread for as long as the block lasts."""
    with ExitStack() as stack:
        loop = LoopThread(stack.enter_context(start_blocking_portal("asyncio")))
        try:
            yield loop
        finally:
            if loop.is_forked:
                _left_to_parent.append(stack.pop_all())
