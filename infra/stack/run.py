"""What the supervisor starts: it clears up after its predecessor and becomes a part, with that part's environment.

The supervisor's own files therefore hold no secret, and a part that is restarted gets what `.env` says now.
"""

import os
import pwd
import sys

from infra.stack import leftovers
from infra.stack.layout import ROOT, Layout
from infra.stack.parts import Part, parts
from infra.stack.settings import load


def become(layout: Layout, part: Part) -> None:
    """Turn this process into the part; it does not come back."""
    if not part.children_survive:
        leftovers.end(leftovers.belonging_to(layout, part.name), grace=5, stop_signal=part.stop_signal)
    part.prepare()
    os.chdir(ROOT)
    if part.user is not None:
        _drop_to(part.user)
    os.execvpe(part.command[0], part.command, part.environment)


def _drop_to(account: str) -> None:
    entry = pwd.getpwnam(account)
    os.chdir("/")
    os.initgroups(account, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


if __name__ == "__main__":
    here = Layout.here()
    become(here, parts(here, load(here.env))[sys.argv[1]])
