"""A Redis or Valkey server, for what several nodes count in common, where the machine has the program."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tests.servers.process import Process, free_port, new_directory

START_SECONDS = 20


def redis_program() -> str | None:
    """Return the path of the server's program, None where there is none."""
    return next(filter(None, map(shutil.which, ("valkey-server", "redis-server"))), None)


@contextmanager
def own_redis(port: int | None = None) -> Iterator[Process]:
    """A new server on the process's `port`, to be killed and started at will. There must be a program."""
    program = redis_program()
    assert program is not None
    port = port or free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = Process([program, *options], port=port, directory=new_directory("cdv-redis-", durable=False))
    process.start()
    try:
        wait_for_redis(process)
        yield process
    finally:
        process.close()


def wait_for_redis(process: Process) -> None:
    deadline = time.monotonic() + START_SECONDS
    with redis.Redis(port=process.port) as client:
        while True:
            try:
                client.ping()
            except redis.RedisError:
                assert time.monotonic() < deadline, process.log_tail()
                time.sleep(0.01)
            else:
                return
