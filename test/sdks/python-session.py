"""Drives a store with S2's own Python SDK: `python-session.py URL TOKEN`. Prints a line per check; fails at the first."""

import asyncio
import base64
import os
import sys
import uuid
from datetime import datetime

from s2_sdk import (
    S2,
    AccessTokenScope,
    AppendInput,
    BasinConfig,
    BasinMetricSet,
    CommandRecord,
    Compression,
    Encryption,
    Endpoints,
    ExactMatch,
    FencingTokenMismatchError,
    Operation,
    PrefixMatch,
    ReadLimit,
    Record,
    S2ServerError,
    SeqNum,
    SeqNumMismatchError,
    StreamConfig,
    TailOffset,
)

passed = 0


def check(name: str, held: bool) -> None:
    global passed
    if not held:
        print(f"not ok: {name}")
        sys.exit(1)
    passed += 1
    print(f"ok: {name}")


async def refused(call, error: type[Exception]) -> bool:
    try:
        await call
    except error:
        return True
    return False


async def session(url: str, token: str, compression: Compression) -> None:
    endpoints = Endpoints(account=url, basin=url)
    kind = compression.name.lower()
    async with S2(token, endpoints=endpoints, compression=compression) as s2:
        name = f"py-{kind}-{uuid.uuid4().hex[:12]}"
        config = BasinConfig(create_stream_on_append=True, default_stream_config=StreamConfig(retention_policy=86400))
        await s2.create_basin(name, config=config)
        shown = await s2.get_basin_config(name)
        check(f"{kind}: a basin keeps its configuration", shown.default_stream_config.retention_policy == 86400)
        basin = s2.basin(name)
        stream = basin.stream("hello/wörld")

        batch = [Record(body=b"x" * 2000, headers=[(b"a", b"b")]) for _ in range(50)]
        ack = await stream.append(AppendInput(records=batch))
        check(f"{kind}: a unary append creates its stream", ack.end.seq_num == 50)
        async with stream.append_session() as appending:
            tickets = [
                await appending.submit(AppendInput(records=[Record(body=os.urandom(10) * 300)] * 20))
                for _ in range(50)
            ]
            acks = [await ticket for ticket in tickets]
        check(f"{kind}: a pipelined append session", acks[-1].end.seq_num == 1050)
        async with stream.producer() as producer:
            tickets = [await producer.submit(Record(body=f"n{i}".encode())) for i in range(3000)]
            last = await tickets[-1]
        check(f"{kind}: a producer", last.seq_num == 4049)

        seen = []
        async for read in stream.read_session(start=SeqNum(0), limit=ReadLimit(count=4050)):
            seen += [record.seq_num for record in read.records]
        check(f"{kind}: a read session, dense from the start", seen == list(range(4050)))
        end = await stream.read(start=TailOffset(5))
        check(f"{kind}: a unary read from a tail offset", [r.body for r in end.records][-1] == b"n2999")

        one = [Record(body=b"z")]
        wrong = stream.append(AppendInput(records=one, match_seq_num=7))
        check(f"{kind}: match_seq_num is enforced", await refused(wrong, SeqNumMismatchError))
        await stream.append(AppendInput(records=[CommandRecord.fence("mine")]))
        fenced = stream.append(AppendInput(records=one, fencing_token="other"))
        check(f"{kind}: a fence is enforced", await refused(fenced, FencingTokenMismatchError))
        await stream.append(AppendInput(records=[CommandRecord.trim(100)]))
        check(f"{kind}: commands take sequence numbers", (await stream.check_tail()).seq_num == 4052)

        own = StreamConfig(retention_policy="infinite")
        await basin.stream("configured").append(AppendInput(records=one, stream_config=own))
        kept = await basin.get_stream_config("configured")
        check(f"{kind}: an append that creates a stream configures it", kept.retention_policy == "infinite")
        names = [info.name async for info in basin.list_all_streams()]
        check(f"{kind}: streams are listed in order", names == ["configured", "hello/wörld"])

        await basin.create_stream("live")
        heard = asyncio.create_task(first_of(basin.stream("live")))
        await basin.stream("live").append(AppendInput(records=[Record(body=b"now")]))
        check(f"{kind}: a follower hears of an append", await asyncio.wait_for(heard, 10) == b"now")

        default = await s2.get_default_location()
        check(f"{kind}: the default location is listed", default.name in [l.name for l in await s2.list_locations()])
        now = int(datetime.now().timestamp())
        metrics = await s2.basin_metrics(name, set=BasinMetricSet.APPEND_OPS, start=now - 3600, end=now)
        check(f"{kind}: metrics answer", len(metrics) == 2)

        scope = AccessTokenScope(
            basins=ExactMatch(name), streams=PrefixMatch("hello"), ops=[Operation.APPEND, Operation.CHECK_TAIL]
        )
        secret = await s2.issue_access_token(f"tok-{name}", scope=scope)
        async with S2(secret, endpoints=endpoints) as limited:
            tail = await limited.basin(name).stream("hello/wörld").check_tail()
            check(f"{kind}: a scoped token may what it says", tail.seq_num == 4052)
            beyond = limited.basin(name).stream("live").check_tail()
            check(f"{kind}: and no more", await refused(beyond, S2ServerError))
            await s2.revoke_access_token(f"tok-{name}")
            after = limited.basin(name).stream("hello/wörld").check_tail()
            check(f"{kind}: nor anything once it is revoked", await refused(after, S2ServerError))

        sealed = f"{name}-e"
        encrypted = BasinConfig(stream_cipher=Encryption.AES_256_GCM, create_stream_on_append=True)
        await s2.create_basin(sealed, config=encrypted)
        key, other = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
        secret_stream = s2.basin(sealed).stream("secret", encryption_key=key)
        await secret_stream.append(AppendInput(records=[Record(body=b"top", headers=[(b"h", b"v")])]))
        opened = (await secret_stream.read(start=SeqNum(0))).records[0]
        check(f"{kind}: an encrypted record opens with its key", (opened.body, opened.headers) == (b"top", [(b"h", b"v")]))
        closed = s2.basin(sealed).stream("secret", encryption_key=other).read(start=SeqNum(0))
        check(f"{kind}: and with no other", await refused(closed, S2ServerError))
        for basin_name in (name, sealed):
            await s2.delete_basin(basin_name)


async def first_of(stream) -> bytes:
    async for read in stream.read_session(start=SeqNum(0)):
        if read.records:
            return read.records[0].body
    return b""


async def main() -> None:
    for compression in (Compression.NONE, Compression.GZIP, Compression.ZSTD):
        await session(sys.argv[1], sys.argv[2], compression)
    print(f"{passed} passed")


asyncio.run(main())
