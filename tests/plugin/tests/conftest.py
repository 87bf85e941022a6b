"""What holds for all tests."""

import os

os.environ["NO_ET"] = "1"  # Pydra must not call home
