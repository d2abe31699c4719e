"""What makes an execution timeout: time.sleep() holds the event loop, so the worker hears of no stop until it is over."""

import time

import runpod


def handler(job):
    time.sleep(job["input"]["seconds"])
    return {"slept": job["input"]["seconds"]}


runpod.serverless.start({"handler": handler})
