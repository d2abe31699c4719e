"""Yields what worker-vllm does: SSE text that is cut anywhere, each piece decoded by itself; or vLLM's error."""

import asyncio
import json

import runpod


def events(text):
    def event(delta, finish_reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        chunk = {"id": "chatcmpl-real", "object": "chat.completion.chunk", "created": 1, "model": "real",
                 "choices": [choice]}
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()

    yield event({"role": "assistant", "content": ""})
    for word in text.split(" "):
        yield event({"content": word + " "})
    yield event({}, "stop")
    yield b"data: [DONE]\n\n"


async def handler(job):
    job_input = job["input"]
    # Its own fields, or as worker-vllm gets them: inside the OpenAI body.
    job_input = job_input.get("openai_input", job_input)
    if status := job_input.get("status"):
        message = f"vLLM returned HTTP {status}: {job_input.get('detail', '')}"
        yield {"error": {"message": message, "type": "worker_error", "code": None}}
        return
    raw = b"".join(events(job_input["text"]))
    size = job_input.get("piece_bytes", 50)
    for at in range(0, len(raw), size):
        await asyncio.sleep(job_input.get("every", 0.005))
        yield raw[at:at + size].decode("utf-8", errors="replace")


runpod.serverless.start(
    {"handler": handler, "return_aggregate_stream": True, "concurrency_modifier": lambda _: 4}
)
