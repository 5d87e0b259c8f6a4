"""What is said of time and memory."""

import pytest
from small_study import small_spec, small_sweep

from flops_fit.store.folder import StudyFolder
from flops_fit.study.estimates import Estimate, Memory, gigabytes, notes_on_memory
from flops_fit.study.machine import Machine
from flops_fit.training import memory


def of(size, **changes):
    values = {"num_params": 10**9, "needed": 8 * 10**9, "there": 21 * 10**9}
    values |= {"micro_batch_size": None, "fits": True, "unknown": None}
    return Memory(size=size, **{**values, **changes})


def test_the_largest_step_that_fits():
    large = of("width 4096", needed=10**11, micro_batch_size=1, fits=False)
    parted = of("width 2048", needed=int(13.2e9), micro_batch_size=8)
    estimate = Estimate("cpu", 1, 60.0, (large, parted, of("width 8")))
    line = "memory: the largest step, width 2048 in parts of 8, needs 13.2 GB of 21.0 GB here"
    assert estimate.largest_step == line
    (note,) = estimate.notes
    assert note.startswith("width 4096 (1B parameters) doesn't fit here: a step with 1 at a time")
    assert "needs 100.0 GB, 21.0 GB are there" in note
    assert "workers" not in note


def test_several_at_once_may_be_too_many():
    large = of("width 64", needed=10**11, fits=False)
    (note,) = Estimate("cpu", 4, 60.0, (large,)).notes
    assert "a step with its batch needs" in note
    assert "set workers=2, or leave it out" in note


def test_what_is_unknown():
    (note,) = Estimate("cpu", 1, 60.0, (of("width 64", needed=None, unknown="no item()"),)).notes
    assert "width 64 needs of memory can't be told beforehand (no item())" in note


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (Estimate("cpu", 2, 7200.0), "about 2 hours here (cpu, 2 at once)"),
        (
            Estimate("cuda", 1, 3e5, hardware="h100", title="H100 SXM, bf16"),
            "warning: about 3 days on h100 (estimate for H100 SXM, bf16, 1 at once)",
        ),
        (Estimate("", 1, None), None),
    ],
)
def test_time_in_words(estimate, words):
    assert estimate.duration == words


def test_of_a_command_on_another_machine_nobody_can_say():
    estimate = Estimate("cuda", 1, None, hardware="h100")
    assert estimate.notes == ("how long training takes on h100 can't be told beforehand",)


def test_bytes_in_words():
    assert [gigabytes(count) for count in (13.24e9, 0.04e9)] == ["13.2 GB", "40 MB"]


def test_training_names_what_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_main_memory", lambda: 1000)
    prepared = small_spec(sweep=small_sweep(sizes=(8, 16))).prepare(StudyFolder(tmp_path))
    notes = notes_on_memory(prepared.trainer, prepared.plan.experiments, Machine(1, 1))
    assert [note.partition(" doesn't fit here")[0] for note in notes] == [
        "width 16 (97 parameters)",
        "width 8 (49 parameters)",
    ]
    monkeypatch.undo()
    assert notes_on_memory(prepared.trainer, prepared.plan.experiments, Machine(1, 1)) == ()
