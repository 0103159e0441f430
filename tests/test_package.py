"""The package as a whole: its public names, what importing it costs, and what a wheel of it holds."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import diffrep

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "diffusers", "gradio", "torchmetrics")


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a new interpreter has loaded after running this code."""
    script = f"{code}\nimport json, sys\nsys.stderr.write(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_every_public_name_loads() -> None:
    for name in diffrep.__all__:
        assert getattr(diffrep, name) is not None, name
    assert set(diffrep.__all__) <= set(dir(diffrep))


def test_names_for_type_checkers_are_the_public_names() -> None:
    tree = ast.parse((ROOT / "src/diffrep/__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [line for line in block.body if isinstance(line, ast.ImportFrom)]
    listed = {alias.asname: line.module for line in imports for alias in line.names}
    assert set(listed) == set(diffrep.__all__)
    for name, module in listed.items():
        assert str(module).startswith(diffrep._HOMES.get(name, "diffrep")), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = diffrep.no_such_name


def test_functions_are_not_hidden_by_modules_of_their_name() -> None:
    code = "import diffrep.extraction, diffrep.training, diffrep.probes; import diffrep as dr; "
    subprocess.run(
        [sys.executable, "-c", code + "assert callable(dr.features) and callable(dr.train) and callable(dr.ddim)"],
        check=True,
        cwd=ROOT / "src",
    )


def test_importing_the_package_is_light() -> None:
    assert not loaded_after("import diffrep") & set(HEAVY)


def test_using_a_denoiser_loads_no_unrelated_library() -> None:
    loaded = loaded_after("import diffrep as dr; dr.Denoiser; dr.ddim; dr.TapFeatures; dr.train; dr.load")
    assert not loaded & {"sklearn", "pandas", "pyarrow", "matplotlib", "diffusers", "gradio", "torchmetrics"}


@pytest.mark.slow
def test_wheel_holds_weights_templates_and_types(tmp_path: Path) -> None:
    how = ["--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *how, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("diffrep-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
    inside = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src/diffrep").rglob("*") if p.is_file()}
    wanted = {n for n in inside if "__pycache__" not in n}
    assert wanted <= names
    assert {n for n in names if not n.startswith(("diffrep/", "diffrep-"))} == set()
    assert "diffrep/py.typed" in names
    assert "Requires-Dist: torchvision" not in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_the_listing_shows_public_names_only() -> None:
    shown = {name for name in dir(diffrep) if not name.startswith("__")}
    assert shown == set(diffrep.__all__)


def test_what_a_prompt_shows_is_short() -> None:
    import torch

    denoiser = diffrep.load("ddpm-digits")
    table = diffrep.DiscreteSchedule(denoiser.schedule.alphas_cumprod)
    features = diffrep.TapFeatures(denoiser, levels=table.at([1, 10]))
    found = diffrep.extract(features, diffrep.data.load("digits")["val"].take(3), cache=False)
    prediction = denoiser(torch.zeros(1, 1, 8, 8), table.at(10))
    shown = [repr(x) for x in (denoiser.schedule, table, diffrep.EDMSchedule(), features, found, prediction)]
    assert shown[1] == "DiscreteSchedule(kind=discrete, alphas_cumprod=<1000>)"
    assert all(len(text) < 200 and " object at 0x" not in text for text in shown), shown
