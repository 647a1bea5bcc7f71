"""The finished artifacts of the profile smoke, as `make demo` shows them: nothing is trained."""

import os
import shutil
from pathlib import Path

from .. import activations, data, recommender
from ..workspace import STAGES, Workspace, output_root, project

#: The module that the committed dictionary decomposes: the profile's own.
SITE = "blocks.0"


def prepare() -> Path:
    """Make a workspace from what ``workshop/artifacts`` has, in ``runs/demo``; it is then in use.

    Hidden states are harvested anew, which takes a second.
    """
    committed = project() / "workshop" / "artifacts" / "smoke"
    root = output_root().absolute() / "runs" / "demo"
    shutil.rmtree(root, ignore_errors=True)
    os.environ["SEQSAE_WORKSPACE"] = str(root)
    workspace, done = Workspace("smoke"), []
    for stage in STAGES:
        label = "Planted concepts" if stage == "data" else None
        parameters = {"site": SITE}
        with workspace.save(stage, reads=done, parameters=parameters, label=label) as folder:
            if stage == "activations":
                dataset = data.load(committed / "data")
                model = recommender.load(committed / "recommender")
                for group in ("dev", "test"):
                    sequences = dataset.sequences(group)
                    activations.harvest(model, sequences, SITE, folder / f"{group}.npy")
            else:
                shutil.copytree(committed / stage, folder, dirs_exist_ok=True)
        done = [*done, stage]
    return root
