"""What a run is: its folder, checkpoints, log, signals, plan."""
