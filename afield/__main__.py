"""Runs a job of the installed distribution: `python -m afield VERB [RECIPE] key=value ...`."""

import ast
import runpy
import sys

from afield.private_names import BUILTINS, PLACE


def verbs() -> dict[str, str]:
    """Return the jobs by name, with the first line of what each says of itself."""
    found = {}
    for path in sorted((PLACE / "jobs").glob("[a-z]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[path.stem] = doc.partition("\n")[0]
    return found


def main() -> None:
    """Run the job that the command line names; without one, list them."""
    known = verbs()
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb not in known:
        asked = verb in ("-h", "--help")
        lines = ["python -m afield JOB [RECIPE] key=value ...", ""]
        lines += [f"  {name:9} {about}" for name, about in known.items()]
        refused = f"error: {verb} is no job: there are {', '.join(known)}"
        print("\n".join(lines) if asked else refused, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    sys.argv = [f"{sys.argv[0]} {verb}", *sys.argv[2:]]
    runpy.run_module(f"afield.jobs.{verb}", {"__builtins__": BUILTINS}, run_name="__main__")


if __name__ == "__main__":
    main()
