"""The processes of a run and the memory they share: how they are started, watched and replaced."""
