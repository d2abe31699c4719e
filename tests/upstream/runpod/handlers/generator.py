"""A generator: every value that it yields is an output of the stream. It may raise half way."""

import time

import runpod


def handler(job):
    job_input = job["input"]
    for index in range(job_input.get("n", 5)):
        if index == job_input.get("raise_at"):
            raise ValueError(job_input.get("message", "no more"))
        time.sleep(job_input.get("every", 0.02))
        yield {"index": index}


runpod.serverless.start({"handler": handler, "return_aggregate_stream": True})
