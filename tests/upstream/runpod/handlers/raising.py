"""Raises, or returns a dict with an error: the two ways in which a handler fails. Tells its progress before."""

import time

import runpod


def handler(job):
    job_input = job["input"]
    if "progress" in job_input:
        runpod.serverless.progress_update(job, job_input["progress"])
        time.sleep(0.5)
    if "error" in job_input:
        return {"error": job_input["error"]}
    raise KeyError(job_input.get("key", "voice"))


runpod.serverless.start({"handler": handler})
