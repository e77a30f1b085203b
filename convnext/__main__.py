"""The command `convnext`: `convnext train` is `python train.py`, `convnext data` is
`python -m tools.data`, of the files that came with the package."""

import ast
import difflib
import importlib
import runpy
import sys
import textwrap

import convnext
from convnext.commands import SCRIPTS, TOOLS
from convnext.errors import InputError, reported

FILES = {name: SCRIPTS / f"{name}.py" for name in ("train", "eval")} | {
    name: SCRIPTS / "tools" / f"{name}.py" for name in TOOLS
}
TRAIN_EXTRA = {  # what it installs, by what one imports
    "array_record", "cloudpickle", "grain", "importlib_resources", "jinja2", "matplotlib",
    "ml_collections", "sklearn", "tensorboardX", "tensorflow_datasets", "threadpoolctl",
}  # fmt: skip


def main() -> None:
    """Runs what the command line says."""
    name, *arguments = sys.argv[1:] or ["--help"]
    with reported():
        if name in ("-h", "--help"):
            print(usage())
        elif name == "--version":
            print(f"convnext {convnext.__version__}")
        elif name in FILES:
            run(name, arguments)
        else:
            near = difflib.get_close_matches(name, FILES, 1) or FILES
            raise InputError(f"no command convnext {name}", f"convnext {', '.join(near)}")


def usage() -> str:
    """Returns what each command does, as its file says in its first sentence."""
    lines = ["usage: convnext COMMAND [--help] ...", ""]
    for name, path in FILES.items():
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        first, _, _ = said.partition("\n\n")
        lines.append(f"  {name:10}{' '.join(first.split())}")
    recipes = ", ".join(sorted(path.stem for path in (SCRIPTS / "configs").glob("*.py")))
    lines += ["", "convnext COMMAND --help says more. Recipes, for --config:"]
    return "\n".join(lines + textwrap.wrap(recipes, initial_indent="  ", subsequent_indent="  "))


def run(name: str, arguments: list[str]) -> None:
    """Runs a command. Raises InputError where the packages that train are not installed."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        if name in TOOLS:
            importlib.import_module(f"tools.{name}").main(arguments)
        else:
            sys.argv = [str(FILES[name]), *arguments]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAIN_EXTRA:
            raise
        accepted = 'after pip install "convnext-jax[train]"'
        raise InputError(f"convnext {name} needs {error.name}", accepted) from error


if __name__ == "__main__":
    main()
