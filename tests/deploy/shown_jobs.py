"""Whether the command lines in deploy/ are ones that the jobs take today."""

import runpy
import shlex
import sys

import pytest


def printed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose the configuration of a command line `afield VERB WORDS`, as --print-config does.

    Raises:
        AssertionError: the job refuses it.
    """
    program, verb, *words = shlex.split(command)
    assert program == "afield", command
    name = f"jobs.{verb}"
    monkeypatch.setattr(sys, "argv", [name, *words, "--print-config"])
    monkeypatch.delitem(sys.modules, name, raising=False)  # runpy warns of a module that is there
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert ended.value.code == 0, command
