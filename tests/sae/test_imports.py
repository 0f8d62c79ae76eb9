from __future__ import annotations

import subprocess
import sys

# A GPU machine may have PyTorch and little else.
ENOUGH = {
    "annotated_types", "google", "mammo_sae", "numpy", "packaging", "pydantic", "pydantic_core",
    "safetensors", "torch", "torchgen", "tqdm", "triton", "typing_extensions", "typing_inspection",
}  # fmt: skip
PROGRAM = """
import sys
before = set(sys.modules)
import mammo_sae.sae.trainer, mammo_sae.sae.variants.choice
import mammo_sae.sae.kernels
print(*{name.split(".")[0] for name in set(sys.modules) - before})
"""


ANALYSES = ("interventions", "effects", "reliance", "ablation", "latents", "probes", "alignment",
            "confounds", "truth")  # fmt: skip


def test_analyses_of_codes_do_without_torch():
    """Importing torch takes longer than most of these analyses."""
    modules = ", ".join(f"mammo_sae.analysis.{name}" for name in ANALYSES)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_training_itself_needs_few_packages():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert {name for name in imported if not name.startswith("_")} <= ENOUGH
