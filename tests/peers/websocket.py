"""A WebSocket echo server, and a client that checks it: `server PORT`, `client URL`."""
import asyncio
import sys

import websockets


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def serve(port):
    async with websockets.serve(echo, ["0.0.0.0", "::"], port, max_size=None):
        print("listening", flush=True)
        await asyncio.Future()


async def check(url):
    messages = ["text", b"\x00\xff binary", "x" * 300_000, ""]
    async with websockets.connect(url, max_size=None, open_timeout=5) as connection:
        await connection.ping()
        for message in messages:
            await connection.send(message)
            answer = await asyncio.wait_for(connection.recv(), 5)
            assert answer == message, (len(answer), len(message))
        await connection.close()
        print(f"echoed {len(messages)} messages, closed {connection.close_code}")


asyncio.run(serve(int(sys.argv[2])) if sys.argv[1] == "server" else check(sys.argv[2]))
