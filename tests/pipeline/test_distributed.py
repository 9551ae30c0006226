"""Several processes train like one: the same batches, order and noise, and the same curves up to rounding."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import vae_ext
from pipeline import train
from pipeline.config.paths import CHECKPOINTS, DEFAULT
from pipeline.models.serialization import load_model
from pipeline.runtime.errors import UserError
from pipeline.runtime.parent import PARENT_ENDED
from pipeline.training import distributed
from pipeline.training.distributed import Group, group_of_environment
from tests.forked import run_code, run_forked, run_module, start_forked
from tests.pipeline.conftest import ROOT, set_params
from tests.programs import start_python, wait_for_line

Launch = Callable[[], tuple[object, str, str]]
SPLITS = [(split, name) for split in ("train", "validation") for name in ("elbo", "distortion", "rate")]


def curves() -> pd.DataFrame:
    files = {pair: DEFAULT.curves / "plots/metrics" / pair[0] / f"{pair[1]}.tsv" for pair in SPLITS}
    return pd.DataFrame({pair: pd.read_csv(file, sep="\t")[pair[1]] for pair, file in files.items()})


def assert_close(actual: pd.DataFrame, expected: pd.DataFrame, tolerance: float) -> None:
    assert len(actual) == len(expected) > 0
    assert ((actual - expected).abs() <= tolerance * expected.abs()).all(axis=None)


def weights() -> torch.Tensor:
    return torch.cat([t.flatten() for t in load_model(DEFAULT.weights, torch.device("cpu"))[0].state_dict().values()])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 80, 128])
def test_shares_equal_tensor_split(size: int, count: int) -> None:
    rows = torch.arange(count)
    assert all(torch.equal(rows[Group(i, size).share(count)], part) for i, part in enumerate(rows.tensor_split(size)))


def test_shares_have_bitwise_the_noise_of_the_whole_batch() -> None:
    mu, logvar = torch.randn(2, 81, 20)
    pixels = torch.randint(0, 256, (81, 784), dtype=torch.uint8)
    key = vae_ext.noise_key(1, 2)
    shares = [Group(rank, 3).share(81) for rank in range(3)]
    z = [vae_ext.reparam_kl(mu[share], logvar[share], key, row_offset=share.start)[0] for share in shares]
    drawn = [vae_ext.binarize(pixels[share], key, row_offset=share.start) for share in shares]
    assert torch.equal(torch.cat(z), vae_ext.reparam_kl(mu, logvar, key)[0])
    assert torch.equal(torch.cat(drawn), vae_ext.binarize(pixels, key))


class Forked:
    """A process as :func:`launch` starts it with subprocess.Popen, but forked."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        assert command[:2] == [sys.executable, "-m"]
        self.process = start_forked(run_module, *command[2:], folder=Path.cwd(), environment=env)

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(int(self.process.pid or 0), number)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> list[Forked]:
    """The processes that this one launches."""
    started: list[Forked] = []

    def start(command: list[str], env: dict[str, str]) -> Forked:
        started.append(Forked(command, env))
        return started[-1]

    monkeypatch.setattr(distributed, "subprocess", SimpleNamespace(Popen=start))
    return started


@pytest.fixture
def launch(forked: list[Forked], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Launch]:
    """Runs the launcher in this process; returns exit status, output and errors of all."""
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, PARENT_ENDED)
    before = {number: signal.getsignal(number) for number in numbers}

    def train_in_processes() -> tuple[object, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            train.main()
        return (ended.value.code, *capfd.readouterr())

    yield train_in_processes
    for number, handler in before.items():
        signal.signal(number, handler)


def test_two_processes_reproduce_the_curves_of_one(prepared: Path, launch: Launch) -> None:
    # 300 images in batches of 64: the last batch has 44.
    set_params(prepared / "params.yaml", {"train.batch_size": 64, "train.epochs": 5, "binarize": True, "beta": 0.7})
    train.main()
    alone, of_one = curves(), weights()
    # The parameter starts the processes.
    set_params(prepared / "params.yaml", {"train.processes": 2})
    status, out, err = launch()
    assert status == 0, err
    assert "processes 2" in out
    assert out.count("ELBO train") == 5  # only the first process prints
    assert_close(curves(), alone, 1e-4)
    # With the default's layers the bits are equal on the development machine; with small ones, some BLAS compute a row
    # differently in a batch of another size.
    torch.testing.assert_close(weights(), of_one, rtol=1e-3, atol=1e-4)


KILLED_AFTER_TWO_EPOCHS = """
from pipeline import train
from pipeline.training.trainer import Trainer
finish = Trainer.finish_epoch
def killed(self, epoch, *rest):
    finish(self, epoch, *rest)
    if epoch == 1:
        raise SystemExit(9)
Trainer.finish_epoch = killed
train.main()
"""


@pytest.mark.long
def test_a_run_resumes_with_two_processes_under_torchrun_with_empty_shares_and_autograd(
    prepared: Path,
) -> None:
    objective = {"free_bits": 0.02, "input_noise": 0.2, "input_dropout": 0.2, "samples": 2}
    changes: dict[str, object] = {f"objective.{name}": value for name, value in objective.items()}
    changes |= {"model.condition": "label", "model.prior": "label"}  # labels are split as images are
    # 300 images in batches of 299: the last batch has one image for two processes.
    more = {"train.epochs": 4, "train.batch_size": 299, "train.learning_rate": 0.003, "train.threads": 1}
    set_params(prepared / "params.yaml", {**changes, **more})
    train.main()
    alone = curves()
    DEFAULT.weights.unlink()
    # New processes, since this one has loaded other modules, and a checkpoint belongs to the code that wrote it.
    outside = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    assert run_forked(run_code, KILLED_AFTER_TWO_EPOCHS, folder=prepared, environment=outside).returncode == 9
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pipeline.train")
    done = run_forked(run_module, *torchrun, folder=prepared, environment=outside)
    assert done.returncode == 0, done.stderr
    assert "going on after 2 of 4 epochs" in done.stdout
    assert "made with processes 1, going on with 2" in done.stdout
    assert_close(curves(), alone, 1e-4)
    assert json.loads((DEFAULT.curves / "metrics.json").read_text(encoding="utf-8"))["step"] == 3
    assert DEFAULT.weights.is_file()


@pytest.mark.long
def test_two_machines_compute_the_curves_of_one_and_the_first_writes_them(
    prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two torchrun agents, each in its own folder with the prepared data."""
    set_params(prepared / "params.yaml", {"train.epochs": 1})
    train.main()
    alone = curves()
    shutil.rmtree(DEFAULT.results)
    shutil.rmtree(DEFAULT.models)
    other = tmp_path_factory.mktemp("other") / "machine"
    shutil.copytree(prepared, other)
    before = sorted(other.rglob("*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ["--master-addr=127.0.0.1", f"--master-port={free.getsockname()[1]}"]
    outside = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    machines = []
    for rank, folder in enumerate((prepared, other)):
        torchrun = ("torch.distributed.run", "--nnodes=2", f"--node-rank={rank}", *address, "-m", "pipeline.train")
        machines.append(start_forked(run_module, *torchrun, folder=folder, environment=outside))
    for machine in machines:
        machine.join()
    assert [machine.exitcode for machine in machines] == [0, 0]
    assert_close(curves(), alone, 1e-4)
    assert DEFAULT.weights.is_file()
    assert sorted(other.rglob("*")) == before


@pytest.mark.long
def test_processes_fail_together_and_one_reports_the_error(prepared: Path, launch: Launch) -> None:
    set_params(prepared / "params.yaml", {"train.processes": 2, "train.learning_rate": 1e20})
    status, _, err = launch()
    assert status == 2
    assert [line for line in err.splitlines() if line.startswith("error:")] == err.splitlines()
    assert err.startswith("error: training diverged")
    assert not DEFAULT.weights.exists()


@pytest.mark.long
def test_a_killed_process_ends_all_with_one_error_line(prepared: Path, launch: Launch, forked: list[Forked]) -> None:
    set_params(prepared / "params.yaml", {"train.processes": 2, "train.epochs": 10_000})

    def kill_second() -> None:
        while not [*CHECKPOINTS.glob("*/step-*")] and all(process.poll() is None for process in forked):
            time.sleep(0.01)
        forked[1].kill()

    killer = threading.Thread(target=kill_second)
    killer.start()
    status, _, err = launch()
    killer.join()
    assert (status, err) == (2, "error: process 1 was ended by signal 9; run it again, and it goes on\n")


def test_workers_of_a_killed_launcher_save_and_exit(prepared: Path) -> None:
    set_params(prepared / "params.yaml", {"train.processes": 2, "train.epochs": 10_000})
    with start_python("-m", "pipeline.train") as running:
        wait_for_line(running, "ELBO train")
        running.kill()
        _, output = running.communicate()  # to the end of the workers' output
    steps = re.search(r"^interrupted after (\d+) steps; run it again, and it goes on from there$", output, re.MULTILINE)
    assert steps, output
    assert list((prepared / CHECKPOINTS).glob(f"*/step-{int(steps[1]):010d}"))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"MASTER_ADDR": None},
            "MASTER_ADDR: expected the host of the first process, as torchrun sets it with RANK, got nothing",
        ),
        (
            {"MASTER_PORT": None},
            "MASTER_PORT: expected a whole number from 1 to 65535, as torchrun sets it with RANK, got nothing",
        ),
        (
            {"MASTER_PORT": "http"},
            "MASTER_PORT: expected a whole number from 1 to 65535, as torchrun sets it with RANK, got http",
        ),
        ({"WORLD_SIZE": None}, "WORLD_SIZE: expected a whole number of at least 1, as torchrun sets it with RANK, got nothing"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a whole number of at least 1, as torchrun sets it with RANK, got two"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK: expected a whole number from 0 to 1, as torchrun sets it with RANK, got -1"),
        ({"RANK": "2"}, "RANK: expected a whole number from 0 to 1, as torchrun sets it with RANK, got 2"),
        ({"RANK": "first"}, "RANK: expected a whole number from 0 to 1, as torchrun sets it with RANK, got first"),
    ],
)
def test_an_invalid_group_environment_is_one_error_line(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str | None], message: str
) -> None:
    whole = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in {**whole, **environment}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        group_of_environment()
    assert str(error.value) == message


def test_environment_without_a_rank_means_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "many")  # some clusters set it for all programs
    assert group_of_environment() == Group()
