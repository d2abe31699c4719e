"""What RunPod's Python SDK makes of an endpoint, as one line of JSON. Its base URL and its key are in the environment."""

import asyncio
import json
import os

import requests
import runpod
from runpod import AsyncioEndpoint, AsyncioJob
from runpod.http_client import ClientSession

runpod.api_key = os.environ["RUNPOD_API_KEY"]


def blocking():
    echo = runpod.Endpoint("any")
    generator = runpod.Endpoint("generator")
    sleep = runpod.Endpoint("sleep")

    told = {"run_sync": echo.run_sync({"input": {"a": "🪢"}}), "health": echo.health()["workers"]["ready"]}

    job = echo.run({"input": {"b": 2}})
    told["run"] = job.output(timeout=10)
    told["status"] = job.status()

    told["stream"] = [output["index"] for output in generator.run({"input": {"n": 5}}).stream()]

    job = sleep.run({"input": {"ms": 60_000}})
    told["cancel"] = job.cancel()["status"]
    told["cancelled"] = job.status()

    try:
        runpod.Endpoint("raise").run_sync({"input": {"message": "no voice"}})
    except requests.HTTPError as error:
        told["raised"] = error.response.json()["error"]["message"]
    try:
        runpod.Endpoint("any", api_key="wrong").run({"input": {"a": 1}})
    except RuntimeError as error:
        told["unauthorized"] = str(error)
    return told


async def awaiting():
    async with ClientSession() as session:
        job: AsyncioJob = await AsyncioEndpoint("generator", session).run({"n": 3})
        outputs = [output["index"] async for output in job.stream()]
        job = await AsyncioEndpoint("any", session).run({"c": 3})
        return {"stream": outputs, "output": await job.output(timeout=10)}


print(json.dumps({"blocking": blocking(), "awaiting": asyncio.run(awaiting())}))
