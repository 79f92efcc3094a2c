"""The reproduction: problems, experiments, how they run and where their numbers are kept."""
