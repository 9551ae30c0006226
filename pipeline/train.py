"""Stage 2: trains the model, writes ELBO, rate and distortion per epoch, and saves the weights.

A killed or interrupted run resumes from its last checkpoint, with bitwise the same result.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

import torch
from dvclive.live import Live

import vae_ext
from pipeline.config.params import Params
from pipeline.config.paths import DEFAULT, RunPaths
from pipeline.config.stage import run_stage
from pipeline.config.validation import load_params
from pipeline.data.labels import expect_classes
from pipeline.data.prepared import SplitName, read_manifest, read_split
from pipeline.models.likelihood_warnings import caveats
from pipeline.models.serialization import save_model
from pipeline.runtime.device import choose_device
from pipeline.runtime.errors import Interrupted
from pipeline.runtime.files import write_json
from pipeline.runtime.lock import locked
from pipeline.training import distributed
from pipeline.training.checkpoints import checkpoints_of, run_key
from pipeline.training.distributed import Group, LostPeerError, SharedError
from pipeline.training.trainer import Trainer


def train(params: Params, paths: RunPaths, device: torch.device, group: Group) -> None:
    """Trains to the end, from the seed's initial weights or the checkpoint of a run with the same key, and saves the weights.

    Raises:
        UserError: if the processes of the group differ in parameters, code or data, and as :meth:`Trainer.train` raises.
    """
    if params.train.precision == "tf32":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    key, manifest = run_key(params), read_manifest()
    group.check_same(key, "parameters, code or data")
    if not group.is_first:
        Trainer(params, device, group, None).resume_and_train(None)
        return
    print(vae_ext.backend_report(), flush=True)
    for caveat in caveats(manifest.values, manifest.image_shape, params):
        print(f"note: {caveat}", flush=True)
    with checkpoints_of(key, wait=group.size == 1) as checkpoints:
        trainer = Trainer(params, device, group, checkpoints)
        try:
            with Live(str(paths.curves), report=None, save_dvc_exp=False, dvcyaml=None) as live:
                trainer.resume_and_train(live)
        except OSError as error:  # a full disk raises one without a file name
            raise OSError(error.errno, error.strerror or str(error), error.filename or str(paths.curves)) from None
        save_model(paths.weights, trainer.model, params, manifest)
        # Values that differ from run to run have their own file, which nothing depends on.
        write_json(paths.time, {"seconds": round(trainer.seconds(), 3), **trainer.environment})
        checkpoints.remove()
        print(f"{paths.weights}: written")


def main(paths: RunPaths = DEFAULT) -> None:
    params = load_params(paths.params)
    group = distributed.group_of_environment()
    device = distributed.local_device(choose_device())
    manifest = read_manifest()
    expect_classes(params.model, paths.params, manifest.classes, manifest.source)
    splits: tuple[SplitName, ...] = ("train", "validation")
    for split in splits:  # damaged data are reported once, before any process starts
        read_split(split)
    lock = locked(paths.results, "train")
    if params.train.processes > 1 and not distributed.is_member():
        with lock:  # raises if it is held, before the processes start; the first of them acquires it again
            pass
        sys.exit(distributed.launch(params.train.processes))
    with lock if group.is_first else nullcontext():
        distributed.set_threads(params.train.threads)
        try:
            with distributed.joined(group, device):
                train(params, paths, device, group)
        except (SharedError, Interrupted) as end:
            if group.is_first:
                raise
            sys.exit(end.status)
        except LostPeerError as end:
            # The lost process is reported by the launcher, or reported its own error.
            if not distributed.is_launched():
                raise
            sys.exit(end.status)


if __name__ == "__main__":
    run_stage(main, __doc__)
