"""What every thread and task of this process is doing, for who asks why a consumer stands still."""

from __future__ import annotations

import sys
import threading
import traceback
from types import FrameType
from typing import Any

import anyio

TASKS_MAX = 200
FRAMES_MAX = 30


def stacks() -> dict[str, list[str]]:
    """Name -> lines, innermost last. Threads first, then the tasks of the loop this is called from."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = {
        f"thread {names.get(ident, ident)}": _lines(traceback.extract_stack(frame, FRAMES_MAX))
        for ident, frame in sys._current_frames().items()
    }
    for task in anyio.get_running_tasks()[:TASKS_MAX]:
        found[f"task {task.id} {task.name}"] = _task_lines(task)
    return found


def _task_lines(task: anyio.TaskInfo) -> list[str]:
    frames: list[tuple[FrameType, int]] = []
    waiting: Any = task.coro
    while waiting is not None and len(frames) < FRAMES_MAX:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            break
        frames.append((frame, frame.f_lineno))
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return _lines(traceback.StackSummary.extract(iter(frames)))


def _lines(summary: traceback.StackSummary) -> list[str]:
    return [f"{one.filename}:{one.lineno} {one.name}: {one.line}" for one in summary]
