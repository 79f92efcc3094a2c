"""The reference of kanlib in the book is complete."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
INNER = {"nn.described"} | {
    f"kernels.{name}"
    for name in ("cpu", "cpu_gram", "cpu_numba", "cpu_vectors", "gpu_triton", "gram", "interrupts")
}
"""Modules that only kanlib itself calls."""


def test_every_module_has_its_place_in_the_reference():
    listed = [
        line.split()[-1]
        for line in (ROOT / "book" / "api.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(".. automodule::")
    ]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("kanlib/*", "kanlib/paper/problems")
        for path in ROOT.glob(f"{folder}/[a-z]*.py")
    }
    inner = {f"kanlib.{name}" for name in INNER}
    assert len(listed) == len(set(listed))
    assert modules - inner <= set(listed)
    assert not inner & set(listed)
