"""What a run is asked for, and what it tells while it goes."""
