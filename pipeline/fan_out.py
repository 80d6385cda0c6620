"""Where units of work run: here, in processes of this machine, or on a Dask cluster. What they write is the same everywhere."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

logger = logging.getLogger(__name__)

EXECUTOR = "BLEMISH_EXECUTOR"
FORMS = "serial, processes:<number> or dask:<address of the scheduler>"
MAX_LOSSES = 3
"""As often as Dask by default: a unit that loses this many workers and one more is not started again."""
AHEAD = 2
"""Units handed out for each worker, so that none waits for the parent between two of them."""
_ONE_AT_A_TIME = threading.Lock()
"""Units of a process share torch's generator and its number of threads; a worker of Dask may have many threads."""


class ExecutorError(ValueError):
    """The environment names no executor there is."""


class WorkError(ValueError):
    """A unit of work failed; the message names it and the cause."""


class SerialExecutor(Executor):
    """Runs what is submitted at once, in this thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run and return a finished future; an interrupt of the user passes through."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class ClusterExecutor(Executor):
    """Runs what is submitted on a Dask cluster.

    The library's own executor asks a future for its state after it fetched the result; where the worker that holds it is lost
    in between, it gives out a TypeError in place of the result.
    """

    def __init__(self, client: Any) -> None:
        """Of a connected `distributed.Client`, which stays the caller's."""
        self._client = client

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand out; a unit whose result is lost with its worker is done again by the scheduler, and its result waited for."""
        future: Future[Any] = Future()
        # Not pure: a unit that is asked for again is to be run again, not looked up.
        held = self._client.submit(fn, *args, **kwargs, pure=False)
        future.add_done_callback(lambda outcome: held.cancel() if outcome.cancelled() else None)
        held.add_done_callback(partial(_pass_on, future))
        return future


def _pass_on(future: Future[Any], held: Any) -> None:
    """What became of a unit of the cluster, unless nobody waits for it any more."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(held.result())
    except Exception as error:
        future.set_exception(error)


class Crew:
    """An executor that is given a few units of work at a time and is replaced when a worker is lost."""

    def __init__(self, start: Callable[[], Executor], in_flight: Callable[[], int]) -> None:
        """Start it; `in_flight` says how many units it may hold now."""
        self._start, self._in_flight = start, in_flight
        self._executor = start()

    def each(self, task: Callable[[int], Any], numbers: Iterable[int], what: str) -> Iterator[tuple[int, Any]]:
        """Number and result of every unit, as they finish.

        Args:
            task: Can be pickled; called with a number in any process, once or, where a worker is lost, again. A process does one
                unit after the other.
            numbers: Of the units.
            what: Name of a unit in messages.

        Raises:
            WorkError: If the input of a unit is at fault, if it lost too many workers, or if the cluster is gone; any other
                error of a unit is raised as it is, with a note that names the unit. Units that have begun are waited for.
        """
        alone, waiting, losses = partial(_alone, task), deque(numbers), Counter[int]()
        running: dict[Future[Any], int] = {}
        try:
            while waiting or running:
                for _ in range(min(len(waiting), self._in_flight() - len(running))):
                    number = waiting.popleft()
                    running[self._submit(alone, number)] = number
                done = _finished(running)
                lost = sorted(running.pop(future) for future in done if _is_lost(future))
                waiting.extendleft(lost)
                self._replace(lost, losses, what)
                for future in done & running.keys():
                    number = running.pop(future)
                    yield number, _result(future, what, number)
        except Exception as error:
            if begun := sorted(number for future, number in running.items() if not future.cancel()):
                logger.error("%s; waiting for %s %s, begun before", error, what, ", ".join(map(str, begun)))
            raise
        finally:
            # Who is cancelled is not waited for: it need never say that it ended.
            wait([future for future in running if not future.cancel()])

    def close(self) -> None:
        """Let the workers go."""
        self._executor.shutdown()

    def _submit(self, task: Callable[[int], Any], number: int) -> Future[Any]:
        try:
            return self._executor.submit(task, number)
        except BrokenExecutor as error:  # a worker was lost since the last look
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def _replace(self, lost: list[int], losses: Counter[int], what: str) -> None:
        if not lost:
            return
        losses.update(lost)
        if worst := [number for number in lost if losses[number] > MAX_LOSSES]:
            raise WorkError(
                f"{what} {', '.join(map(str, worst))}: the worker process was lost {MAX_LOSSES + 1} times (killed, or out of "
                f"memory); start fewer workers with {EXECUTOR}, what is finished is kept"
            )
        self._executor.shutdown()
        self._executor = self._start()


def _alone(task: Callable[[int], Any], number: int) -> Any:
    with _ONE_AT_A_TIME:
        return task(number)


def _finished(running: dict[Future[Any], int]) -> set[Future[Any]]:
    """At least one of the running; all of them where a worker is lost, since a process pool fails as a whole."""
    done = wait(running, return_when=FIRST_COMPLETED).done
    return wait(running).done if any(_is_lost(future) for future in done) else done


def _is_lost(future: Future[Any]) -> bool:
    return isinstance(future.exception(), BrokenExecutor)


def _result(future: Future[Any], what: str, number: int) -> Any:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, CancelledError):
        raise WorkError(f"{what} {number}: the cluster's scheduler is gone; start it and run again, what is finished is kept")
    if isinstance(error, (OSError, ValueError)):
        raise WorkError(f"{what} {number}: {error}") from error
    error.add_note(f"in {what} {number}")
    raise error


@contextmanager
def open_crew(ahead: int = AHEAD) -> Iterator[Crew]:
    """The workers that the environment variable `BLEMISH_EXECUTOR` names; none is the same as `serial`.

    Args:
        ahead: Units handed out for each worker; 1 for units that take so long that none may wait behind another.

    Raises:
        ExecutorError: If it names something else.
        OSError: If the scheduler of a cluster does not answer.
    """
    wish = os.environ.get(EXECUTOR) or "serial"
    kind, _, rest = wish.partition(":")
    if wish == "serial":
        yield Crew(SerialExecutor, lambda: 1)
    elif kind == "processes" and rest.isdecimal() and int(rest) > 0:
        crew = Crew(partial(_processes, int(rest)), lambda: ahead * int(rest))
        try:
            yield crew
        finally:
            crew.close()
    elif kind == "dask" and rest:
        with _cluster(rest, ahead) as crew:
            yield crew
    else:
        raise ExecutorError(f"{EXECUTOR}={wish!r}; expected {FORMS}")


def _processes(count: int) -> Executor:
    # Not forked: torch and its threads do not survive it.
    spawn = multiprocessing.get_context("spawn")
    root = logging.getLogger()
    levels = {name: one.level for name, one in root.manager.loggerDict.items() if isinstance(one, logging.Logger) and one.level}
    formats = [handler.formatter._fmt for handler in root.handlers if handler.formatter is not None]
    return ProcessPoolExecutor(count, mp_context=spawn, initializer=_begin, initargs=(root.level, formats[:1], levels))


def _begin(level: int, formats: list[str | None], levels: dict[str, int]) -> None:
    """Log as the parent does, and end with it."""
    logging.basicConfig(level=level, format=next(iter(formats), None) or logging.BASIC_FORMAT)
    for name, own in levels.items():
        logging.getLogger(name).setLevel(own)
    _end_with_parent()


def _end_with_parent() -> None:
    """Let a killed run take its workers along; they would otherwise wait for work for ever, with their networks in memory."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="follow the parent", daemon=True).start()


@contextmanager
def _cluster(address: str, ahead: int) -> Iterator[Crew]:
    """Dask starts the units of a lost worker again by itself, `distributed.scheduler.allowed-failures` times."""
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        # Workers may come and go.
        yield Crew(partial(ClusterExecutor, client), lambda: ahead * max(1, client.scheduler_info(n_workers=1)["total_threads"]))
