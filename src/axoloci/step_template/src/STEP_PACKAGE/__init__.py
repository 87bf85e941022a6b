"""The step STEP_NAME."""
