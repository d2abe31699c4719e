"""Runs a handler's file, and ends with whoever started it.

A worker that lost its control plane asks for jobs without pause, for ever; and SIGKILL of a test leaves no time to end
it. Standard input closes whatever the end is.
"""

import os
import runpy
import signal
import sys
import threading


def end_with_parent():
    # Not sys.stdin.read(): it holds a lock, and the forked process that pings would wait for it for ever.
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    runpy.run_path(sys.argv[1], run_name="__main__")
