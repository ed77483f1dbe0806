"""Run a python program and report its time to a line of output and its peak memory.

Run:
    python -S tests/benchmarks/child.py SIGN PYTHON PROGRAM [ARGUMENT ...]

A process of its own, and a small one: the system counts to a child's peak what its parent had when it started it.
Prints a JSON object: ``code``, ``seconds`` until a line of the program's standard output began with SIGN, that
``line``, ``bytes`` of resident memory at most, and the ``complaint``, the last line of its standard error.
"""

import json
import os
import subprocess
import sys
import tempfile
import time


def main(sign: str, *command: str) -> int:
    """Run the program; return 0 whatever becomes of it."""
    seconds, found = None, ""
    with tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if seconds is None and line.startswith(sign):
                    seconds, found = time.perf_counter() - begin, line
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = code = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        complaint = errors.read().strip().rpartition("\n")[2]
    report = {"code": code, "seconds": seconds, "line": found, "bytes": 1024 * usage.ru_maxrss, "complaint": complaint}
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
