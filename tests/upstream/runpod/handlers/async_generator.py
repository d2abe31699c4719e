"""An async generator that serves several jobs at once. The SDK can stop it at every await, its own too."""

import asyncio

import runpod


async def handler(job):
    job_input = job["input"]
    index = 0
    try:
        for index in range(job_input.get("n", 5)):
            await asyncio.sleep(job_input.get("every", 0.02))
            yield {"index": index}
    finally:
        # Not `except CancelledError`: a stop that comes while the SDK posts an output closes the generator instead.
        print(f"{job['id']} ended at {index}", flush=True)


runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: 4})
