"""Programs that are compiled in half of the time, for tests that run them once."""

# They leave out work on machine code; what is computed and exchanged is settled before.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
