"""Routes of what a job has made: its images, and its latest preview."""

from __future__ import annotations

import re

from aiohttp import web

from sigmafield.serve.http.context import Server, in_thread, job_of, server_of
from sigmafield.serve.http.route import BYTES
from sigmafield.serve.jobs import JobRecord

SHOWN = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/avif")
"""Types of files that a browser shows; others, which a workflow may write, are saved by it."""


def file_answer(server: Server, record: JobRecord, n: int, headers: dict[str, str] | None = None) -> web.StreamResponse:
    """An output as the answer; LookupError if the job has no such output."""
    path, output = server.engine.output(record.id, n), record.outputs[n]
    if not path.is_file():
        raise LookupError(f"output {n} of job {record.id} is deleted")
    how = "inline" if output.media_type in SHOWN else "attachment"
    name = re.sub(r"[^\w.-]+", "_", f"{record.id}-{output.name}", flags=re.ASCII)
    fixed = {
        "Content-Type": output.media_type,
        "Content-Disposition": f'{how}; filename="{name}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "ETag": f'"{output.sha256}"',
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    return web.FileResponse(path, headers={**fixed, **(headers or {})})


async def output(request: web.Request) -> web.StreamResponse:
    """The file of an output."""
    record = await job_of(request)
    n = request.match_info["n"]
    if not (n.isascii() and n.isdecimal() and len(n) < 10 and int(n) < len(record.outputs)):
        raise LookupError(f"job {record.id} has {len(record.outputs)} outputs, numbered from 0")
    return await in_thread(file_answer, server_of(request), record, int(n))


async def preview(request: web.Request) -> web.Response:
    """The latest preview of a job that runs, or of one that ran a short time ago."""
    record = await job_of(request)
    image = await in_thread(server_of(request).engine.preview, record.id)
    if image is None:
        return web.Response(status=204)
    return web.Response(body=image, content_type="image/jpeg", headers={"Cache-Control": "no-store"})


async def paused(request: web.Request) -> web.Response:
    """A paused workflow, as a file that `sigmafield run` finishes on another machine."""
    record = await job_of(request)
    data = await in_thread(server_of(request).engine.paused_file, record.id)
    headers = {
        "Content-Disposition": f'attachment; filename="{record.id}.safetensors"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(body=data, content_type=BYTES, headers=headers)
