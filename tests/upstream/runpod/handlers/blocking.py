"""time.sleep() holds the event loop: the worker hears of no stop, nor of a timeout, until it is over."""

import time

import runpod


def handler(job):
    time.sleep(job["input"]["seconds"])
    return {"slept": job["input"]["seconds"]}


runpod.serverless.start({"handler": handler})
