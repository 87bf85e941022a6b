"""What each process of `torchrun` does in a test: train, and keep the state after each epoch."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from axoloci.tasks.encoder.kernel import Config, Training

folder = Path(sys.argv[1])
distributed.init_process_group("gloo")
with np.load(folder / "given.npz") as given:
    rows, mask, config = given["rows"], given["mask"], json.loads(str(given["config"]))
config["channels"] = tuple(config["channels"])
training = Training(rows.__getitem__, np.arange(len(rows)), mask, Config(**config))
while not training.finished:
    done = training.run_epoch()
    torch.save(training.state_dict(), folder / f"{training.rank}_{done.epoch}.pt")
distributed.destroy_process_group()
