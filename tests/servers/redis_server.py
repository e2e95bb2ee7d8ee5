"""A Redis or Valkey server for rate limits that replicas share, if this machine has the program."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tests.servers.process import Process, free_port, new_directory

START_SECONDS = 20


def redis_program() -> str | None:
    """Return the path of the server's program; None if there is none."""
    return next(filter(None, map(shutil.which, ("valkey-server", "redis-server"))), None)


@contextmanager
def own_redis(port: int | None = None) -> Iterator[Process]:
    """Start a new server; yield its process, which may be killed and restarted. `redis_program` must have found one."""
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
