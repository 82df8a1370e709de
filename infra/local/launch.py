"""Run by the interpreter as a file: ties a child to its parent's life, then becomes the child.

`launch.py PARENT_PID USER COMMAND...`; an empty USER keeps the user. It is a program of its own and not a `preexec_fn`,
because Python code between fork and exec may deadlock in a process with threads. It imports nothing of ours, so that
it costs some ten milliseconds.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1
# What a shell's background job ignores, or this interpreter, the child would ignore too: Java for ever.
RESTORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


def become(user: str) -> None:
    """Drop to `user` for good. The death signal must be asked for afterwards: a change of user forgets it."""
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def main(parent_pid: int, user: str, command: list[str]) -> None:
    """Replace this process by `command`, which gets SIGINT when the thread that spawned us ends."""
    if user:
        become(user)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        if os.getppid() != parent_pid:  # the parent died before we asked: nobody would ever signal us
            sys.exit(1)
    for number in RESTORED:
        signal.signal(number, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
