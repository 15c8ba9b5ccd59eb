"""The platform's HTTP interface: stores submissions, tells public facts. It is given no secret to keep."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from chiron.training.errors import TrainingError
from chiron.training.submission import Kind, parse_job_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.requests import Request

    from chiron.launch.store import JobStore
    from chiron.training.submission import JobId

MAX_SUBMISSION_BYTES = 1 << 40


def make_api(
    store: JobStore, blobs: Path, *, describe: Callable[[], dict[str, Any]], attach: Callable[[JobId], None]
) -> Starlette:
    """Return the application.

    Args:
        store: the job store.
        blobs: folder for submissions.
        describe: returns what GET /v1/platform answers.
        attach: called once both submissions of a job are stored.
    """

    async def platform(_: Request) -> JSONResponse:
        return JSONResponse(describe())

    async def jobs(_: Request) -> JSONResponse:
        return JSONResponse({"jobs": store.all()})

    async def job(request: Request) -> JSONResponse:
        found = store.get(request.path_params["job"])
        return JSONResponse(found) if found else _error(404, "no such job: check the job id")

    async def put(request: Request) -> JSONResponse:
        try:
            job_id, kind = parse_job_id(request.path_params["job"]), Kind(request.path_params["kind"])
        except (TrainingError, ValueError) as error:
            return _error(400, str(error))
        path = blobs / f"{job_id}.{kind.value}"
        if path.exists():
            return _error(409, f"job {job_id} already has a {kind.value}: start a new job")
        try:
            await _store(request, path)
        except OSError as error:
            return _error(507, f"the submission could not be stored ({error.strerror}): free some space")
        store.add(job_id)
        if all((blobs / f"{job_id}.{each.value}").exists() for each in Kind):
            await run_in_threadpool(attach, job_id)
        return JSONResponse({"stored": True}, status_code=201)

    return Starlette(
        routes=[
            Route("/v1/platform", platform),
            Route("/v1/jobs", jobs),
            Route("/v1/jobs/{job}", job),
            Route("/v1/jobs/{job}/{kind}", put, methods=["PUT"]),
        ]
    )


async def _store(request: Request, path: Path) -> None:
    """Stream a body to a new file, sync it and rename it; a broken upload leaves nothing behind."""
    part = path.with_name(f"{path.name}.{os.urandom(8).hex()}.part")
    try:
        with part.open("wb") as sink:
            received = 0
            async for chunk in request.stream():
                received += len(chunk)
                if received > MAX_SUBMISSION_BYTES:
                    raise OSError(27, "File too large")
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status)
