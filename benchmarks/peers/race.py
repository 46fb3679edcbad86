"""Lets contestants take turns, each in a process of its own, so that memory and first steps are its own too.

    echo '[{"name": "ours", "command": ["python", "train.py", "ours"]}]' | python race.py ROUNDS

A contestant says that it is ready with a line of JSON, and answers every line that it is sent with another;
it ends when its input does. Those that wait for their turns sleep. The standard output is {name: {"ready":
the first line, "rounds": the others}}, or {name: {"failed": the last line of what it said instead}}.
"""

import json
import subprocess
import sys
import tempfile
import time

PAUSE = 0.2  # seconds: threads that wait for work by turning in circles have given up by then


class Contestant:
    """A process that speaks when it is spoken to."""

    def __init__(self, name, command):
        self.name, self.errors = name, tempfile.TemporaryFile("w+")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, text=True, **pipes)
        self.result = {"ready": self._heard(), "rounds": []}

    def _heard(self):
        line = self.process.stdout.readline()
        time.sleep(PAUSE)
        return json.loads(line) if line else None

    def turn(self):
        """One round, if it is still there."""
        if self.process.poll() is None and self.result["ready"] is not None:
            print("go", file=self.process.stdin, flush=True)
            self.result["rounds"].append(self._heard())

    def end(self):
        """What it measured, or why it did not."""
        self.process.stdin.close()
        if self.process.wait() == 0:
            return self.result
        self.errors.seek(0)
        return {"failed": (self.errors.read().splitlines() or ["without a word"])[-1]}


def main():
    contestants = []
    for entry in json.load(sys.stdin):
        print(f"starting {entry['name']}", file=sys.stderr, flush=True)
        contestants.append(Contestant(entry["name"], entry["command"]))
    for i in range(int(sys.argv[1])):
        print(f"round {i + 1} of {sys.argv[1]}", file=sys.stderr, flush=True)
        for contestant in contestants:
            contestant.turn()
    json.dump({contestant.name: contestant.end() for contestant in contestants}, sys.stdout)


if __name__ == "__main__":
    main()
