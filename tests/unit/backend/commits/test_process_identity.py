"""The identity of a process: whether another one still runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

from backend.commits.lease_record import Holder
from backend.commits.process_identity import life_of, this_process


def test_this_process_runs_and_its_child_is_stopped_and_gone_as_signals_say() -> None:
    me = this_process()
    assert life_of(me, me) == "running"
    code = (
        "import dataclasses, json, time; from backend.commits.process_identity import this_process;"
        "print(json.dumps(dataclasses.asdict(this_process())), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        holder = Holder(**json.loads(child.stdout.readline()))
        assert (holder.machine, holder.boot, holder.pid) == (me.machine, me.boot, child.pid)
        assert life_of(holder, me) == "running"
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert life_of(holder, me) == "stopped"
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert life_of(holder, me) == "gone"  # a zombie: killed, not waited for
        child.wait()
        assert life_of(holder, me) == "gone"


def test_another_start_time_boot_or_machine_is_another_process() -> None:
    me = this_process()
    assert life_of(replace(me, started=me.started + 1), me) == "gone"
    for other in (replace(me, boot="x"), replace(me, machine="x"), replace(me, pid_namespace="x")):
        assert life_of(other, me) == "elsewhere"
