"""An async generator that serves several jobs at once. The SDK can stop it at every await."""

import asyncio

import runpod


async def handler(job):
    job_input = job["input"]
    try:
        for index in range(job_input.get("n", 5)):
            await asyncio.sleep(job_input.get("every", 0.02))
            yield {"index": index}
    except asyncio.CancelledError:
        print("stopped", job["id"], flush=True)
        raise


runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: 4})
