"""Several processes at one study: each run once, one answer; locks that don't lock are found."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_study import planned
from test_trunks import shared_sweep

from flops_fit.errors import StudyError
from flops_fit.learning.schedules import WSD
from flops_fit.plan.run import Status, ended_run
from flops_fit.plan.trunks import chains
from flops_fit.store.execution import Inline, train_plan
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.store.sharing import PROCESSES, _locks_of_one_host, check_file_system, present
from flops_fit.study.machine import take_own_gpus
from flops_fit.training.spec import torch_trainer

SMALL = ("budgets=[2e6,4e6,8e6]", "num_sizes=5", "min_steps=10", "device=cpu", "draws=20")


def train(folder, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "flops_fit", "train", *SMALL, *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def losses(folder):
    results = (folder / "outputs").glob("*/runs/*/result.json")
    return {r["id"]: r["loss"] for r in (json.loads(path.read_text()) for path in results)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    process = train(folder, "workers=1", "threads=1")
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return losses(folder), output


class TestRanks:
    @pytest.mark.slow
    def test_three_processes_train_each_run_once_and_the_first_answers(self, tmp_path, alone):
        processes = [train(tmp_path, f"rank={rank}", "of=3") for rank in range(3)]
        told = [process.communicate(timeout=100) for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], told
        assert losses(tmp_path) == alone[0]
        assert told[0][0] == alone[1]
        assert told[1][0] == told[2][0] == ""
        trained = [re.findall(r"trained (\d+) run", errors) for _, errors in told]
        assert sum(int(count) for counts in trained for count in counts) == len(alone[0])
        assert "rank 2 of 3 found nothing more to train" in told[2][1]
        assert not list(tmp_path.glob(f"outputs/*/{PROCESSES}/*"))

    @pytest.mark.slow
    def test_what_a_killed_one_was_at_is_trained_by_the_first(self, tmp_path, alone):
        other = train(tmp_path, "rank=1", "of=2")
        until = time.monotonic() + 60
        while not losses(tmp_path) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
        first = train(tmp_path, "rank=0", "of=2")
        _, errors = first.communicate(timeout=100)
        assert first.returncode == 0, errors
        assert losses(tmp_path) == alone[0]

    @pytest.mark.parametrize("words", [("rank=0",), ("of=2",), ("rank=2", "of=2")])
    def test_a_rank_is_one_of_so_many(self, tmp_path, words):
        _, errors = (process := train(tmp_path, *words)).communicate(timeout=100)
        assert process.returncode == 1
        assert "each is told both: rank=0 of=N to rank=N-1 of=N" in errors

    @pytest.mark.parametrize(
        ("variables", "rank", "count", "taken"),
        [
            ({}, 5, 1, "1"),
            ({"LOCAL_RANK": "2"}, 5, 1, "6"),
            ({"SLURM_LOCALID": "3"}, 0, 1, "7"),
            ({}, 3, 2, "6,7"),
            ({}, 1, 3, "0,1,6"),
        ],
    )
    def test_each_takes_gpus_of_its_machine(self, monkeypatch, variables, rank, count, taken):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,6,7")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        take_own_gpus(rank, count)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == taken


class TestMissing:
    def test_what_another_process_saw_fail_is_not_tried_again(self, tmp_path):
        folder = StudyFolder(tmp_path)
        plan, recipe = planned(tmp_path)
        first, other = plan.experiments[0], plan.experiments[3]

        class FailElsewhere(Unwatched):
            found_ids = ()

            def finished(self, run):
                if run.id == first.id:  # while we are at another, somebody else fails
                    folder.write_run(ended_run(other, Status.FAILED, "elsewhere"))

            def found(self, run):
                self.found_ids += (run.id,)

        class AllButTheOther(Inline):
            def __call__(self, work, watcher):
                return super().__call__([c for c in work if c[0].id != other.id], watcher)

        watcher = FailElsewhere()
        runs = train_plan(
            plan, folder, AllButTheOther(torch_trainer(recipe, folder), folder), watcher
        )
        assert [run.status for run in runs if run.id == other.id] == [Status.FAILED]
        assert watcher.found_ids == (other.id,)

    def test_runs_behind_one_that_another_process_is_at_are_left_to_it(self, tmp_path):
        folder = StudyFolder(tmp_path)
        plan, recipe = planned(tmp_path, schedule=WSD(), sweep=shared_sweep())
        execute = Inline(torch_trainer(recipe, folder), folder)
        left, *others = chains(plan.experiments)
        with folder.lock(left[0].id):
            runs = train_plan(plan, folder, execute, Unwatched(), waits=False)
        assert {run.id for run in runs} == {e.id for chain in others for e in chain}
        assert len(left) > 1


class TestFileSystem:
    def test_a_local_disk_will_do(self, tmp_path):
        check_file_system(tmp_path / "study")
        assert not list((tmp_path / "study").iterdir())

    @pytest.mark.parametrize(
        ("line", "option"),
        [
            ("host:/x {} nfs4 rw,local_lock=none 0 0", ""),
            ("host:/x {} nfs rw,vers=3,nolock,local_lock=all 0 0", "nolock"),
            ("host:/x {} nfs4 rw,local_lock=flock 0 0", "local_lock=flock"),
            ("/dev/sda {} ext4 rw,nolock 0 0", ""),
        ],
    )
    def test_nfs_whose_locks_hold_on_one_host_is_found(self, tmp_path, line, option):
        place = tmp_path / "with blank"
        mounts = (
            f"overlay / overlay rw 0 0\n{line.format(str(place).replace(' ', chr(92) + '040'))}\n"
        )
        assert _locks_of_one_host(place / "outputs", mounts) == option
        assert _locks_of_one_host(tmp_path, mounts) == ""

    @pytest.mark.slow
    def test_a_process_whose_lock_can_be_taken_while_it_lives_is_found(self, tmp_path):
        """As where a lock holds on its own host only: here its file is replaced, as by a folder
        that is synchronised."""
        with present(tmp_path):
            [lock] = tmp_path.glob(f"{PROCESSES}/*.lock")
            lock.unlink()
            with (
                pytest.raises(StudyError, match="is at this study and does not keep"),
                present(tmp_path),
            ):
                pass

    def test_another_that_keeps_its_lock_is_let_be(self, tmp_path):
        with present(tmp_path), present(tmp_path):
            assert len(list(tmp_path.glob(f"{PROCESSES}/*.json"))) == 2

    def test_what_is_no_lock_of_ours_is_let_be(self, tmp_path):
        room = tmp_path / PROCESSES
        room.mkdir()
        precious = tmp_path / "precious"
        precious.write_text("precious")
        for name in ("link", "folder"):
            (room / f"{name}.json").write_text('{"beat": 1}')
        (room / "link.lock").symlink_to(precious)
        (room / "folder.lock").mkdir()
        with present(tmp_path):
            pass
        assert precious.read_text() == "precious"
        assert {path.name for path in room.glob("*.json")} == {"link.json", "folder.json"}

    def test_a_file_system_without_flock_is_found(self, tmp_path, monkeypatch):
        """Such as Lustre mounted without: filelock then does with files, which outlive a kill."""

        def missing(*_):
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr("fcntl.flock", missing)
        with pytest.raises(StudyError, match=r"has no locks \(.*\): processes that share"):
            check_file_system(tmp_path)

    def test_what_a_killed_one_left_is_removed(self, tmp_path):
        room = tmp_path / PROCESSES
        room.mkdir()
        left = room / "host-1-abc.json"
        left.write_text('{"beat": 3}')
        long_ago = time.time() - 100
        os.utime(left, (long_ago, long_ago))
        with present(tmp_path):
            assert [path.name for path in room.glob("*.json")] != [left.name]
            assert not left.exists()
        assert not list(room.iterdir())


def has_namespaces():
    tried = ["unshare", "--net", "--uts", "hostname", "some-host"]
    return shutil.which("unshare") and subprocess.run(tried, capture_output=True).returncode == 0


AT_THE_STUDY = """
import sys
from pathlib import Path
from flops_fit.store.sharing import present
with present(Path(sys.argv[1])):
    print("there", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not has_namespaces(), reason="no namespaces may be made here")
class TestHosts:
    """Each has a name and a network of its own."""

    @pytest.fixture
    def elsewhere(self):
        processes = []

        def start(host, *words):
            named = f'hostname {host}; exec "$@"'
            inside = ["unshare", "--net", "--uts", "bash", "-c", named, "bash", *words]
            piped = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            processes.append(subprocess.Popen(inside, text=True, **piped))
            return processes[-1]

        yield start
        for process in processes:
            process.kill()
            process.communicate()

    @pytest.mark.slow
    def test_hosts_see_each_other_at_the_study(self, tmp_path, elsewhere):
        other = elsewhere("host-a", sys.executable, "-c", AT_THE_STUDY, str(tmp_path))
        assert other.stdout.readline() == "there\n"
        with present(tmp_path):
            names = [path.name for path in tmp_path.glob(f"{PROCESSES}/*.json")]
        assert any(name.startswith("host-a-") for name in names)
        assert len(names) == 2

    @pytest.mark.slow
    @pytest.mark.skipif(not shutil.which("bindfs"), reason="no bindfs")
    def test_locks_that_hold_on_their_own_host_only_are_found(self, tmp_path, elsewhere):
        """Two mounts of one folder have locks of their own, as of an object store."""
        places = [tmp_path / name for name in ("real", "a", "b")]
        for place in places:
            place.mkdir()
        real, here, there = places
        mounted = [subprocess.run(["bindfs", real, place]).returncode for place in (here, there)]
        try:
            if any(mounted):
                pytest.skip("nothing can be mounted here")
            other = elsewhere("host-a", sys.executable, "-c", AT_THE_STUDY, str(here))
            assert other.stdout.readline() == "there\n"
            check_file_system(there)
            refused = pytest.raises(StudyError, match=r"host-a-.* is at this study and does")
            with refused, present(there):
                pass
        finally:
            for place in (here, there):
                subprocess.run(["umount", "--lazy", place], capture_output=True)


class TestRecipes:
    """Those of docs/fleet.md that a machine alone can do."""

    @pytest.mark.slow
    @pytest.mark.parametrize("launcher", ["xargs", "torchrun"])
    def test_a_launcher_of_equal_processes_shares_the_sweep(self, tmp_path, launcher, alone):
        page = (Path(__file__).parents[1] / "docs/fleet.md").read_text()
        [recipe] = [b for b in re.findall(r"```bash\n(.*?)```", page, re.S) if launcher in b]
        here = {"--nnodes=2": "--nnodes=1", "$NODE": "0", "=8": "=2", " --master-addr=$FIRST": ""}
        for elsewhere, word in here.items():
            recipe = recipe.replace(elsewhere, word)
        words = " ".join(f'"{word}"' for word in SMALL)
        recipe = recipe.replace("flops-fit train", f"{sys.executable} -m flops_fit train {words}")
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", recipe], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert losses(tmp_path) == alone[0]
        assert done.stdout.count("N_opt") == alone[1].count("N_opt") > 0
        assert "found nothing more to train" in done.stderr
