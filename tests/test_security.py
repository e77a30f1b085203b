"""What SECURITY.md says of the sources."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    [
        ROOT / "train.py",
        ROOT / "eval.py",
        *ROOT.glob("convnext/**/*.py"),
        *ROOT.glob("tools/**/*.py"),
        *ROOT.glob("dev/**/*.py"),
    ]
)
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.execvp",
    "os.spawnv", "subprocess.getoutput", "subprocess.getstatusoutput", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "joblib.load",
    "yaml.load", "torch.load",
}  # fmt: skip


def findings(source):
    """Of a file: calls that run a shell, or code in data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in FORBIDDEN:
                yield name
            if keywords.get("shell", "False") != "False":
                yield "shell"
            if keywords.get("allow_pickle", "False") != "False":
                yield "allow_pickle"
        if isinstance(node, ast.ClassDef) and "pickle._Unpickler" in map(ast.unparse, node.bases):
            names = [getattr(part, "name", None) for part in node.body]
            if "find_class" not in names:
                yield "an unpickler without find_class"
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "os", "subprocess"):
            yield f"from {node.module}"  # would hide what is called


@pytest.mark.parametrize(
    "source",
    ["os.system(x)", "eval(x)", "subprocess.run(x, shell=True)", "np.load(x, allow_pickle=y)",
     "class A(pickle._Unpickler): pass", "from os import system", "pickle.load(x)"],
)  # fmt: skip
def test_what_runs_a_shell_or_code_in_data_is_found(source):
    assert list(findings(source))
    assert not list(findings("re.compile(x); subprocess.run([x]); np.load(x)"))


def test_nothing_runs_a_shell_or_code_in_data():
    found = {path.name: list(findings(path.read_text())) for path in SOURCES}
    assert len(found) > 40 and not {name: what for name, what in found.items() if what}


def test_programs_are_started_by_what_maintainers_run_alone():
    using = {path.stem for path in SOURCES if "subprocess" in path.read_text()}
    ours = "assemble_ptx build_ptx counters kernels measure mutants small_sets soak"
    assert using == set(ours.split())
