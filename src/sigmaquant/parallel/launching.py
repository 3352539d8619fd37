"""How the processes of a run begin and end: started here, or by ``torchrun``; this one is the first of those."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from sigmaquant.errors import DistributedError, SigmaQuantError
from sigmaquant.parallel.processes import switch, world_size

_STORE = "SIGMAQUANT_STORE"
"""Environment variable of the processes that are started here: where the first one keeps its store."""
_MEET_SECONDS = 180.0
_PATIENCE = timedelta(hours=2)
"""Longest difference of progress: one process may be measuring alone meanwhile."""
_GRACE_SECONDS = 10.0


class _Child(Protocol):
    """A process that was started here."""

    def code(self) -> int | None:
        """Its exit code; None: it runs."""

    def end(self) -> None:
        """Kill it."""

    def said(self) -> str:
        """What it said last."""


def under_torchrun() -> int:
    """How many processes ``torchrun``, or another that sets the same variables, has started; 1: none did."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ) else 1


@contextlib.contextmanager
def command_processes(devices: int | None, device: str, arguments: Sequence[str]) -> Iterator[str]:
    """While active, the processes of a command compute together; each runs the same command line.

    Args:
        devices: how many; None: as many as ``torchrun`` has started, else one.
        device: the kind, as the user named it.
        arguments: of the program.

    Yields:
        The device of this process.

    Raises:
        DistributedError: they cannot be started, or one has ended.
    """

    def start(number: int, environment: dict[str, str]) -> _Child:
        return _Command([sys.executable, "-m", "sigmaquant", *arguments], environment)

    with _processes(devices, device, start) as own:
        yield own


@contextlib.contextmanager
def function_processes(
    devices: int | None, device: str, function: Callable[..., Any], arguments: dict[str, Any]
) -> Iterator[str]:
    """While active, this process and others that call the same function compute together.

    Args:
        devices: how many; None: as many as ``torchrun`` has started, else one.
        device: the kind, as the user named it.
        function: what the others call.
        arguments: by keyword; pickled.

    Yields:
        The device of this process.

    Raises:
        DistributedError: they cannot be started, the arguments cannot be sent to them, or one has ended.
    """
    folder = contextlib.ExitStack()
    sent: list[Path] = []

    def start(number: int, environment: dict[str, str]) -> _Child:
        if not sent:
            path = Path(folder.enter_context(tempfile.TemporaryDirectory())) / "arguments"
            try:
                path.write_bytes(pickle.dumps((function, arguments)))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise DistributedError(
                    f"model and data cannot be sent to other processes: {error}. Define them in modules, without "
                    "lambdas, or start the program itself in several processes: torchrun --nproc-per-node=N program.py."
                ) from error
            sent.append(path)
        return _Function(sent[0], environment)

    with folder, _processes(devices, device, start) as own:
        yield own


@contextlib.contextmanager
def _processes(devices: int | None, device: str, start: Callable[[int, dict[str, str]], _Child]) -> Iterator[str]:
    if world_size() > 1:  # within processes that compute together already
        yield device
        return
    started = under_torchrun()
    count = started if devices is None else devices
    _check(count, device, started)
    if count == 1:
        yield device
        return
    kind = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    own = kind.type
    if kind.type == "cuda":
        number = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(number)
        own = f"cuda:{number}"
    threads = torch.get_num_threads()
    children: list[_Child] = []
    ended = threading.Event()
    try:
        if started > 1:
            _join_started(kind.type)
        else:
            children.extend(_start(count, kind.type, start))
        switch(True)
        if children:
            threading.Thread(target=_watch, args=(children, ended, kind.type), daemon=True).start()
        yield own
        dist.barrier()  # nobody leaves while another still needs an answer
    except (DistributedError, RuntimeError) as error:
        told = _first_word(children, count)
        if told is not None:
            raise DistributedError(told) from error
        raise
    finally:
        ended.set()
        switch(False)
        _leave(children)
        torch.set_num_threads(threads)


def _check(count: int, device: str, started: int) -> None:
    """Raise where so many processes cannot be."""
    if _STORE in os.environ and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise DistributedError(
            "the program begins anew in every process. Put what it does under: if __name__ == '__main__':"
        )
    if count < 1:
        raise DistributedError(f"devices is {count}; at least one process has to compute.")
    if started > 1 and count not in (1, started):
        raise DistributedError(
            f"devices is {count}, but {started} processes were started (WORLD_SIZE). Leave devices out under torchrun."
        )
    if count == 1:
        return
    if not dist.is_available():
        raise DistributedError("this PyTorch was built without torch.distributed. Leave devices out.")
    if ":" in device:
        raise DistributedError(f"the device {device!r} is a single one. With several, name the kind: device='cuda'.")
    kind = "cuda" if device == "auto" and torch.cuda.is_available() else device
    if kind == "cuda":
        here = torch.cuda.device_count()
        needed = int(os.environ.get("LOCAL_WORLD_SIZE", count))
        if here < needed:
            raise DistributedError(
                f"{needed} processes need as many GPUs, and there are {here}. Use devices={max(here, 1)}, or "
                "device='cpu'."
            )
    elif kind in ("auto", "cpu"):
        cores = os.cpu_count() or 1
        if started == 1 and count > cores:
            raise DistributedError(
                f"devices is {count}, and this machine has {cores} processors: more processes than these only wait for "
                f"each other. Use devices={cores} or less."
            )
    else:
        raise DistributedError(f"several processes compute on 'cpu' or 'cuda', not on {device!r}.")


def _backend(kind: str) -> str:
    return "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"


def _join_started(kind: str) -> None:
    """Meet the processes of ``torchrun``, unless the user's program has them meet already; or those that we started."""
    if dist.is_initialized():
        return
    store = os.environ.get(_STORE)
    try:
        if store is None:
            dist.init_process_group(_backend(kind), timeout=_PATIENCE)
            return
        host, _, port = store.rpartition(":")
        meeting = TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=_MEET_SECONDS))
        number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        meeting.set(f"here{number}", "")
        meeting.set_timeout(_PATIENCE)
        dist.init_process_group(_backend(kind), store=meeting, rank=number, world_size=count, timeout=_PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        raise DistributedError(
            f"the processes could not meet ({str(error).partition(chr(10))[0]}). Check that all of them start, and the "
            "address and port of the first (MASTER_ADDR, MASTER_PORT)."
        ) from error


def _start(count: int, kind: str, start: Callable[[int, dict[str, str]], _Child]) -> list[_Child]:
    if dist.is_initialized():
        raise DistributedError(
            "this program has a group of processes (torch.distributed) already. Start it with torchrun and leave "
            "devices out, or end the group."
        )
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=_PATIENCE)
    threads = max(1, torch.get_num_threads() // count)
    children: list[_Child] = []
    try:
        for number in range(1, count):
            environment = {
                "RANK": str(number),
                "LOCAL_RANK": str(number),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                _STORE: f"127.0.0.1:{store.port}",
                "OMP_NUM_THREADS": str(threads),
                "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            }
            children.append(start(number, {**os.environ, **environment}))
        if kind == "cpu":
            torch.set_num_threads(threads)
        end = time.monotonic() + _MEET_SECONDS
        while not all(store.check([f"here{number}"]) for number in range(1, count)):
            if any(child.code() is not None for child in children) or time.monotonic() > end:
                raise DistributedError(_first_word(children, count) or "the processes did not meet in time.")
            time.sleep(0.05)
        dist.init_process_group(_backend(kind), store=store, rank=0, world_size=count, timeout=_PATIENCE)
    except BaseException:
        for child in children:
            child.end()
        raise
    return children


def _watch(children: list[_Child], ended: threading.Event, kind: str) -> None:
    """End this process's waiting where another has died: GPUs' collectives do not notice by themselves."""
    while not ended.wait(0.5):
        if any(child.code() not in (None, 0) for child in children):
            if kind == "cuda" and not ended.is_set():
                with contextlib.suppress(Exception):
                    dist.distributed_c10d._abort_process_group()
            return


def _first_word(children: list[_Child], count: int) -> str | None:
    """Which of our processes has failed, and what it said; None: none has."""
    end = time.monotonic() + _GRACE_SECONDS
    while children and time.monotonic() < end:
        failed = [(n, child) for n, child in enumerate(children, start=1) if child.code() not in (None, 0)]
        if failed:
            number, child = failed[0]
            said, code = child.said(), child.code()
            reason = f": {said}" if said else (f" (signal {-code})" if code is not None and code < 0 else "")
            return (
                f"process {number} of {count} ended with exit code {code}{reason.rstrip('.')}. All were ended; "
                "continue the run with resume once that is mended."
            )
        time.sleep(0.1)
    return None


def _leave(children: list[_Child]) -> None:
    end = time.monotonic() + _GRACE_SECONDS
    failed = sys.exc_info()[0] is not None
    while not failed and any(child.code() is None for child in children) and time.monotonic() < end:
        time.sleep(0.05)
    for child in children:
        child.end()
    if dist.is_initialized() and (children or _STORE in os.environ):  # the user's own group is the user's to end
        with contextlib.suppress(Exception):
            dist.destroy_process_group()


class _Command:
    """A program whose output nobody sees but in an error."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._output
        )

    def code(self) -> int | None:
        return self._process.poll()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def said(self) -> str:
        self._output.seek(0)
        lines = [line.strip() for line in self._output.read().decode(errors="replace").splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("error: ")]
        return (told or lines or [""])[-1].removeprefix("error: ")


class _Function:
    """A call of a function in a process of its own, which finds the classes of the user's program where they are."""

    def __init__(self, arguments: Path, environment: dict[str, str]) -> None:
        self._said = arguments.with_name(f"said{environment['RANK']}")
        before = dict(os.environ)
        os.environ.update(environment)  # which the new process inherits
        try:
            self._process = multiprocessing.get_context("spawn").Process(
                target=run_sent, args=(str(arguments), str(self._said)), daemon=True
            )
            self._process.start()
        finally:
            for name in environment:
                if name in before:
                    os.environ[name] = before[name]
                else:
                    del os.environ[name]

    def code(self) -> int | None:
        return self._process.exitcode

    def end(self) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def said(self) -> str:
        return self._said.read_text(encoding="utf-8") if self._said.exists() else ""


def run_sent(arguments: str, said: str) -> None:
    """What a process does that `function_processes` has started."""
    try:
        function, keywords = pickle.loads(Path(arguments).read_bytes())
        function(**keywords)
    except Exception as error:
        text = str(error) if isinstance(error, SigmaQuantError) else f"{type(error).__name__}: {error}"
        Path(said).write_text(text, encoding="utf-8")
        sys.exit(error.exit_code if isinstance(error, SigmaQuantError) else 1)
