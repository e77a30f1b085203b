"""Flags of XLA with which programs are compiled in a third of the time.

They leave out the newer code generator and work on machine code. What is computed and exchanged is
the same, but for the order of sums. The comparisons with PyTorch do without them.
"""

from importlib import metadata

QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if metadata.version("jaxlib").startswith("0.10."):  # later ones have no other code generator
    QUICK += " --xla_cpu_use_fusion_emitters=false"
