"""The JSON lines that a Python adapter speaks with the runner (see `driver.py`): reading, answering, telling.

Knows no MQTT client. Requests of one adapter run at the same time, each as a task.
"""

import asyncio
import json
import sys
import threading

STDOUT = threading.Lock()


def say(said):
    """One line to the runner; from any thread."""
    line = json.dumps(said) + "\n"
    with STDOUT:
        sys.stdout.write(line)
        sys.stdout.flush()


def tell_message(client, topic, payload, qos, retain, dup=None, properties=None):
    say(
        {
            "event": "message",
            "client": client,
            "topic": topic,
            "payload": payload.hex(),
            "qos": qos,
            "retain": bool(retain),
            "dup": None if dup is None else bool(dup),
            "properties": properties or {},
        }
    )


def tell_closed(client, reason_code=None, detail=""):
    say({"event": "closed", "client": client, "reason_code": reason_code, "detail": str(detail)})


async def serve(handle):
    """`handle(op, client, request)` is awaited for each request until stdin ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(handle, json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer(handle, request):
    try:
        if request["op"] == "hello":
            say({"id": request["id"], "ok": {}})
        else:
            say({"id": request["id"], "ok": await handle(request["op"], request["client"], request) or {}})
    except Exception as error:
        say({"id": request["id"], "error": f"{type(error).__name__}: {error}"})
