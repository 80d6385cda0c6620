"""Units of work come back from every executor, those of a lost worker are done again, and errors name the unit."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.fan_out import EXECUTOR, MAX_LOSSES, ClusterExecutor, Crew, ExecutorError, WorkError, open_crew
from tests.cluster_toy import cluster
from tests.conftest import ROOT


def square(number: int) -> int:
    return number**2


def square_and_note(folder: Path, number: int) -> int:
    (folder / f"{number}-{os.getpid()}").touch()
    return number**2


def die_once(folder: Path, number: int) -> int:
    """The worker that does 3 for the first time is killed."""
    if number == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def die(folder: Path, number: int) -> int:
    if number == 3:
        with (folder / "deaths").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def refuse(number: int) -> int:
    if number == 3:
        raise ValueError("the photo x.png is torn")
    return number**2


def fail(number: int) -> int:
    if number == 3:
        raise KeyError("of ours")
    return number**2


def results(task, numbers, executor: str, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    monkeypatch.setenv(EXECUTOR, executor)
    with open_crew() as crew:
        return dict(crew.each(task, numbers, "unit"))


@pytest.mark.parametrize("executor", ["", "serial", "processes:2"])
def test_every_unit_is_done_once(executor: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    found = results(partial(square_and_note, tmp_path), range(9), executor, monkeypatch)
    assert found == {number: number**2 for number in range(9)}
    done_in = [path.name.split("-") for path in tmp_path.iterdir()]
    assert sorted(int(number) for number, _ in done_in) == list(range(9))
    assert (executor == "processes:2") == (str(os.getpid()) not in {pid for _, pid in done_in})


def test_no_work_is_no_fault(monkeypatch: pytest.MonkeyPatch):
    assert results(square, [], "serial", monkeypatch) == {}


def test_what_a_killed_worker_held_is_done_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    found = results(partial(die_once, tmp_path), range(9), "processes:2", monkeypatch)
    assert found == {number: number**2 for number in range(9)} and (tmp_path / "died").exists()


def test_a_unit_that_kills_its_worker_every_time_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(WorkError, match=r"unit 3: the worker process was lost 4 times.*BLEMISH_EXECUTOR"):
        results(partial(die, tmp_path), range(4), "processes:1", monkeypatch)
    assert len((tmp_path / "deaths").read_text()) == MAX_LOSSES + 1


def note_overlap(inside: list[int], seen: list[int], number: int) -> None:
    inside.append(number)
    time.sleep(0.02)
    seen.append(len(inside))
    inside.remove(number)


def test_threads_of_a_process_do_one_unit_after_the_other():
    seen: list[int] = []
    # As a worker of Dask that was given several threads.
    crew = Crew(lambda: ThreadPoolExecutor(3), lambda: 3)
    list(crew.each(partial(note_overlap, [], seen), range(6), "unit"))
    crew.close()
    assert seen == [1] * 6


def say(number: int) -> str:
    return logging.getLogger().handlers[0].format(logging.makeLogRecord({"msg": number, "levelname": "INFO"}))


def test_workers_log_as_their_parent_does(monkeypatch: pytest.MonkeyPatch):
    root = logging.getLogger()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    monkeypatch.setattr(root, "handlers", [handler])
    assert results(say, range(2), "processes:1", monkeypatch) == {0: "INFO 0", 1: "INFO 1"}


class Silent(Executor):
    """Its futures stay as they are, cancelled or not, but for unit 1, which fails."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        if args == (1,):
            future.set_exception(ValueError("torn"))
        return future


def test_a_cancelled_unit_that_never_says_so_does_not_hold_up_the_error():
    faults: list[str] = []

    def run() -> None:
        try:
            list(Crew(Silent, lambda: 2).each(square, range(4), "unit"))
        except WorkError as error:
            faults.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert faults == ["unit 1: torn"]


class Slow(Executor):
    """Unit 1 fails at once; the others have begun then and take their time."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        if args == (1,):
            future.set_exception(ValueError("torn"))
        else:
            future.set_running_or_notify_cancel()
            threading.Timer(0.2, future.set_result, [0]).start()
        return future


def test_an_error_is_told_before_those_that_have_begun_are_waited_for(caplog: pytest.LogCaptureFixture):
    with pytest.raises(WorkError, match="unit 1: torn"):
        list(Crew(Slow, lambda: 2).each(square, range(4), "unit"))
    assert [record.getMessage() for record in caplog.records] == ["unit 1: torn; waiting for unit 0, begun before"]


class LostAndFound:
    """A future of the cluster whose worker is lost when it is asked for its state, and whose result is there all the same."""

    status = "lost"

    def add_done_callback(self, call):
        call(self)

    def result(self):
        return 49


def test_a_result_whose_worker_is_lost_while_it_is_fetched_is_a_result():
    client = SimpleNamespace(submit=lambda fn, *args, pure: LostAndFound())
    assert dict(Crew(partial(ClusterExecutor, client), lambda: 1).each(square, [7], "unit")) == {7: 49}


@pytest.mark.slow
def test_a_cluster_does_what_processes_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with cluster(tmp_path) as (executor, workers):
        assert results(square, range(9), executor, monkeypatch) == {number: number**2 for number in range(9)}
        found = results(partial(die_once, tmp_path), range(9), executor, monkeypatch)
        assert found == {number: number**2 for number in range(9)} and (tmp_path / "died").exists()
        assert sorted(str(worker.poll()) for worker in workers) == [str(-signal.SIGKILL), "None"]
        with pytest.raises(WorkError, match=r"unit 3: the photo x\.png is torn"):
            results(refuse, range(9), executor, monkeypatch)
        with pytest.raises(KeyError, match="of ours") as caught:
            results(fail, range(9), executor, monkeypatch)
        assert "in unit 3" in caught.value.__notes__


@pytest.mark.parametrize("executor", ["serial", "processes:2"])
def test_a_fault_of_the_input_names_the_unit_and_ends_the_run(executor: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(WorkError, match=r"unit 3: the photo x\.png is torn"):
        results(refuse, range(9), executor, monkeypatch)


@pytest.mark.parametrize("executor", ["serial", "processes:2"])
def test_any_other_error_stays_what_it_is_and_says_where(executor: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(KeyError, match="of ours") as caught:
        results(fail, range(9), executor, monkeypatch)
    assert "in unit 3" in caught.value.__notes__


@pytest.mark.parametrize("wish", ["processes", "processes:0", "processes:two", "dask", "dask:", "ray:1", "serial:1"])
def test_an_unknown_executor_is_refused_with_the_forms_there_are(wish: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ExecutorError, match="expected serial, processes:<number> or dask:<address"):
        results(square, range(2), wish, monkeypatch)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the workers")
def test_workers_of_a_killed_run_end_with_it():
    code = (
        "import os, time\n"
        "if __name__ == '__main__':\n"
        "    from pipeline.fan_out import open_crew\n"
        "    from tests.unit.test_fan_out import square\n"
        "    with open_crew() as crew:\n"
        "        for _ in crew.each(square, range(4), 'unit'):\n"
        "            pass\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
    )
    environment = {**os.environ, EXECUTOR: "processes:2", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
        workers = children(run.pid)
        assert workers
        run.kill()
    limit = time.monotonic() + 20
    while left := [pid for pid in workers if Path(f"/proc/{pid}").exists() and "Z" not in state(pid)]:
        assert time.monotonic() < limit, f"workers {left} outlive their run"
        time.sleep(0.05)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
