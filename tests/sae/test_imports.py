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


def test_training_itself_needs_few_packages():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert {name for name in imported if not name.startswith("_")} <= ENOUGH
