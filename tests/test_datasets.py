import itertools

import numpy as np
import pytest
import torch

import flops_fit.datasets.source as source_module
from flops_fit.datasets import PythonSource, Source, Text, Tokens, Toy
from flops_fit.datasets.source import content_hash, hashed_blocks
from flops_fit.datasets.tokens import shares_of
from flops_fit.errors import ConfigError


def take(batches, count):
    return list(itertools.islice(batches, count))


def same(batches, others):
    assert len(batches) == len(others)
    return all(
        torch.equal(x, other_x) and torch.equal(y, other_y)
        for (x, y), (other_x, other_y) in zip(batches, others, strict=True)
    )


def rows(batches):
    """Each sample's input as something that can be compared and counted."""
    return [tuple(row.tolist()) for x, _ in batches for row in x]


@pytest.fixture
def token_file(tmp_path):
    """1,000 ids in order, so that a sample's place can be read off its first input."""
    path = tmp_path / "tokens.bin"
    np.arange(1000, dtype=np.uint16).tofile(path)
    return path


@pytest.fixture
def text_folder(tmp_path):
    """60 files, each of a character of its own."""
    for number in range(60):
        (tmp_path / f"{number}.txt").write_text(chr(33 + number) * 100)
    return tmp_path


def sources(token_file, text_folder):
    return [
        Toy(dim=3, num_waves=16),
        Tokens(token_file, vocab_size=1000, context_length=10),
        Text(str(text_folder / "*.txt"), context_length=10, held_out=0.2),
    ]


@pytest.mark.parametrize("which", range(3), ids=["toy", "tokens", "text"])
class TestEverySource:
    @pytest.fixture
    def source(self, which, token_file, text_folder):
        return sources(token_file, text_folder)[which]

    def test_is_a_source(self, source):
        assert isinstance(source, Source)

    def test_the_order_depends_only_on_the_seed(self, source, which, token_file, text_folder):
        again = sources(token_file, text_folder)[which]
        first = take(source.training_batches(8, seed=1), 30)
        assert same(first, take(again.training_batches(8, seed=1), 30))
        assert not same(first, take(source.training_batches(8, seed=2), 30))

    @pytest.mark.parametrize("start_step", [1, 7, 150])
    def test_starting_at_a_step_equals_skipping_to_it(self, source, start_step):
        skipped = take(source.training_batches(8, seed=1), start_step + 20)[start_step:]
        assert same(take(source.training_batches(8, seed=1, start_step=start_step), 20), skipped)

    def test_batches_are_whole(self, source):
        assert {len(x) for x, _ in take(source.training_batches(7, seed=0), 100)} == {7}

    def test_held_out_samples_are_the_same_every_time_and_nested(self, source):
        four = rows(source.held_out_batches(3, 4))
        assert len(four) == 4
        assert four == rows(source.held_out_batches(3, 4)) == rows(source.held_out_batches(4, 4))
        assert rows(source.held_out_batches(2, 2)) == four[:2]

    def test_held_out_samples_are_never_trained_on(self, source):
        held_out = set(rows(source.held_out_batches(8, source.held_out_samples or 500)))
        assert held_out.isdisjoint(rows(take(source.training_batches(8, seed=0), 300)))

    def test_the_fingerprint_is_of_what_it_was_made_of(
        self, source, which, token_file, text_folder
    ):
        made = sources(token_file, text_folder)
        assert source.fingerprint == made[which].fingerprint
        assert len({other.fingerprint for other in made}) == len(made)


def test_toy_samples_are_fresh_and_its_targets_the_teacher_plus_noise():
    toy = Toy(noise=0.1)
    x, y = next(toy.training_batches(50_000, seed=0))
    assert x.shape == (50_000, 8)
    assert y.shape == (50_000, 1)
    assert len(x.unique(dim=0)) == 50_000
    assert toy.teacher(x).var().item() == pytest.approx(1, rel=0.02)
    assert (y - toy.teacher(x)).std().item() == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("kept", [0, 1024, 3000, 2**21])
def test_toy_samples_are_the_same_whether_kept_or_made_again(kept, monkeypatch):
    expected = take(Toy(dim=3, num_waves=16).training_batches(64, seed=0), 60)
    monkeypatch.setattr("flops_fit.datasets.toy.KEPT_SAMPLES", kept)
    toy = Toy(dim=3, num_waves=16)
    for batch_size, seed in ((64, 0), (32, 0), (64, 1), (64, 0)):
        batches = take(toy.training_batches(batch_size, seed), 60)
        if (batch_size, seed) == (64, 0):
            assert same(batches, expected)
        for x, y in batches:  # what a caller does to them is the caller's business
            x.zero_()
            y.zero_()
    assert same(take(toy.training_batches(64, seed=0, start_step=21), 39), expected[21:])


def test_toy_says_what_cannot_be():
    with pytest.raises(ConfigError, match="num_waves 0"):
        Toy(num_waves=0)


def test_an_epoch_has_every_window_once_and_a_batch_may_straddle_two(token_file):
    source = Tokens(token_file, vocab_size=1000, context_length=10, held_out=0.1)
    assert source.unique_samples == 89  # 900 tokens, one more than 89 x 10 needed
    batches = take(source.training_batches(10, seed=0), 18)
    starts = [row[0] for row in rows(batches)]
    assert sorted(starts[:89]) == sorted(starts[89:178]) == list(range(0, 890, 10))
    assert starts[:89] != starts[89:178]


def test_targets_are_the_inputs_moved_on_by_one(token_file):
    source = Tokens(token_file, vocab_size=1000, context_length=10)
    for x, y in [*take(source.training_batches(4, seed=0), 5), *source.held_out_batches(4, 4)]:
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(y, x + 1)
        assert x.is_contiguous()
        assert y.is_contiguous()


def test_the_tail_of_a_token_file_is_held_out(token_file):
    source = Tokens(token_file, vocab_size=1000, context_length=10, held_out=0.2)
    assert source.held_out_samples == 19
    assert min(min(row) for row in rows(source.held_out_batches(8, 19))) == 800


def test_tokens_may_hold_out_a_file_of_their_own(token_file, tmp_path):
    np.arange(100, dtype=np.uint16)[::-1].tofile(tmp_path / "held_out.bin")
    source = Tokens(token_file, 1000, 10, held_out_path=tmp_path / "held_out.bin")
    assert source.unique_samples == 99
    assert source.held_out_samples == 9


def test_tokens_read_uint32(tmp_path):
    np.full(100, 70_000, dtype=np.uint32).tofile(tmp_path / "t.bin")
    source = Tokens(tmp_path / "t.bin", 70_001, 10, dtype="uint32", held_out=0.5)
    assert next(source.training_batches(2, seed=0))[0].unique().tolist() == [70_000]


def test_tokens_say_what_is_wrong_with_a_file(token_file, tmp_path):
    odd, none = tmp_path / "odd.bin", tmp_path / "none.bin"
    odd.write_bytes(b"abc")
    none.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"token id 999, dataset.vocab_size is 999.*1000"):
        Tokens(token_file, vocab_size=999, context_length=10)
    with pytest.raises(ConfigError, match=r"no token file.*missing"):
        Tokens(tmp_path / "missing", vocab_size=10, context_length=10)
    with pytest.raises(ConfigError, match="3 bytes"):
        Tokens(odd, vocab_size=10, context_length=10)
    with pytest.raises(ConfigError, match="0 bytes"):
        Tokens(none, vocab_size=10, context_length=10)
    with pytest.raises(ConfigError, match="dtype is int8"):
        Tokens(token_file, vocab_size=10, context_length=10, dtype="int8")
    with pytest.raises(ConfigError, match="50 tokens, a sample needs 513"):
        Tokens(token_file, vocab_size=1000, context_length=512)
    with pytest.raises(ConfigError, match=r"held_out is 1\.5"):
        Tokens(token_file, vocab_size=1000, context_length=10, held_out=1.5)


def shards(folder, *lengths, first=0):
    """Files of ids that go on from one to the next, so that a sample's place can be read off."""
    folder.mkdir(exist_ok=True)
    start = first
    for number, length in enumerate(lengths):
        np.arange(start, start + length, dtype=np.uint16).tofile(folder / f"{number:02}.bin")
        start += length
    return folder


def starts(batches):
    return [row[0] for row in rows(batches)]


def test_sharded_tokens_are_one_stream_and_no_sample_crosses_files(tmp_path):
    folder = shards(tmp_path / "shards", 105, 7, 11, 400, 477)
    source = Tokens(f"{folder}/*.bin", 1000, 10, held_out=0.2)
    expected = [*range(0, 100, 10), 112, *range(123, 513, 10), *range(523, 793, 10)]
    assert source.unique_samples == len(expected)
    epoch = take(source.training_batches(7, seed=0), 11)  # of 77 samples
    assert sorted(starts(epoch)) == expected
    held_out = list(source.held_out_batches(8, source.held_out_samples))
    assert sorted(starts(held_out)) == list(range(800, 990, 10))
    for x, y in [*epoch, *held_out]:
        assert torch.equal(y, x + 1)
        assert x.dtype == torch.int64
        assert x.is_contiguous()


def test_a_cut_that_falls_between_shards_leaves_them_whole(tmp_path):
    folder = shards(tmp_path / "shards", 500, 300, 200)
    source = Tokens(f"{folder}/*.bin", 1000, 10, held_out=0.2)
    assert (source.unique_samples, source.held_out_samples) == (49 + 29, 19)
    assert min(starts(source.held_out_batches(8, 19))) == 800


def test_one_file_is_the_same_data_however_it_is_named(token_file):
    named = Tokens(token_file, vocab_size=1000, context_length=10)
    for path in (str(token_file), [token_file], f"{token_file.parent}/*.bin"):
        other = Tokens(path, vocab_size=1000, context_length=10)
        assert other.fingerprint == named.fingerprint
        assert same(
            take(other.training_batches(8, seed=3), 20), take(named.training_batches(8, seed=3), 20)
        )
    assert named.fingerprint == (
        "38d7039bb2f5571a80c4798622d4411e2abd47e7659bdae3f8791da9f6c21256"
    )  # of 2f39a4a: studies that are there go on


def test_the_fingerprint_of_shards_knows_content_and_order_but_no_names(tmp_path):
    folder, renamed = shards(tmp_path / "a", 300, 300, 400), tmp_path / "b"
    renamed.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        (renamed / f"shard-{number}").write_bytes(path.read_bytes())
    files = sorted(folder.iterdir())
    original = Tokens(files, 1000, 10).fingerprint
    assert Tokens(f"{renamed}/*", 1000, 10).fingerprint == original
    other_cut = shards(tmp_path / "c", 300, 301, 399)
    others = [files[::-1], files[:2], f"{other_cut}/*.bin"]
    assert original not in {Tokens(paths, 1000, 10).fingerprint for paths in others}


def test_of_many_large_shards_no_more_is_read_than_of_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "HASHED_BLOCK_BYTES", 64)
    monkeypatch.setattr(source_module, "HASHED_WHOLE_BYTES", 640)
    stream = tuple(np.arange(length, dtype=np.uint16) for length in (400, 800, 1200))
    read = [
        sum(block.nbytes for block in hashed_blocks(tokens, share))
        for tokens, share in zip(stream, shares_of(stream), strict=True)
    ]
    assert read == [64, 192, 320]


def test_held_out_shards_of_their_own_must_not_be_trained_on(tmp_path):
    random = np.random.default_rng(0).integers(1000, size=(4, 2000), dtype=np.uint16)
    for number, tokens in enumerate(random):
        tokens.tofile(tmp_path / f"{number}.bin")
    files = sorted(tmp_path.glob("*.bin"))
    source = Tokens(files[:2], 1000, 10, held_out_path=files[2:])
    assert (source.unique_samples, source.held_out_samples) == (398, 398)
    with pytest.raises(ConfigError, match="held-out samples are in the training data"):
        Tokens(files[:3], 1000, 10, held_out_path=files[2:])


def test_shards_say_what_is_wrong_with_them(tmp_path):
    folder = shards(tmp_path / "shards", 30, 8, 40)
    first = folder / "00.bin"
    with pytest.raises(ConfigError, match=r"00\.bin twice"):
        Tokens([first, f"{folder}/*.bin"], 1000, 10)
    with pytest.raises(ConfigError, match=r"no token files .*/\*\.npy: nothing matches"):
        Tokens(f"{folder}/*.npy", 1000, 10)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: there is none that ends in \.bin or \.npy"):
        Tokens(tmp_path / "empty", 1000, 10)
    with pytest.raises(ConfigError, match="is an empty list"):
        Tokens([], 1000, 10)
    with pytest.raises(ConfigError, match=r"no token file .*missing"):
        Tokens([first, tmp_path / "missing"], 1000, 10)
    with pytest.raises(ConfigError, match=r"02\.bin holds token id 77"):
        Tokens(f"{folder}/*.bin", 77, 10)
    with pytest.raises(ConfigError, match=r"3 files.* with 40 tokens at most, a sample needs 101"):
        Tokens(f"{folder}/*.bin", 1000, 100, held_out_path=first)


IDS = np.random.default_rng(0).integers(0, 50_257, 6000)


def llm_c(path, ids, magic=20240520, told=None):
    """A file as llm.c writes it."""
    header = np.zeros(256, dtype=np.int32)
    header[:3] = magic, 1, len(ids) if told is None else told
    dtype = {20240520: np.uint16, 20240801: np.uint32}[magic]
    path.write_bytes(header.tobytes() + ids.astype(dtype).tobytes())


@pytest.mark.parametrize("shape", ["llm.c", "llama", "<u2", "<u4", "<i4", "<i8", "flat"])
def test_the_same_ids_are_read_in_all_their_shapes(tmp_path, shape):
    path = tmp_path / "ids"
    match shape:
        case "llm.c":
            llm_c(path, IDS)
        case "llama":
            llm_c(path, IDS, magic=20240801)
        case "flat":
            IDS.astype(np.uint16).tofile(path)
        case _:
            with path.open("wb") as file:
                np.save(file, IDS.astype(shape))
    source = Tokens(path, 50_257, 10, held_out=0.1)
    assert (source.unique_samples, source.held_out_samples) == (539, 59)
    batches = take(source.training_batches(7, seed=0), 77)  # an epoch of 539 samples
    expected = IDS[:5390].reshape(539, 10).tolist()
    assert sorted(row for x, _ in batches for row in x.tolist()) == sorted(expected)


@pytest.mark.parametrize(
    ("name", "written", "dtype", "said"),
    [
        ("a.bin", IDS.astype(np.uint32), "uint16", "as uint32 its ids are all .*dtype=uint32"),
        ("a.bin", IDS.astype(np.int64), "uint16", "set dataset.dtype=int64"),
        ("a.bin", IDS.astype(np.int64), "uint32", "set dataset.dtype=int64"),
        ("a.bin", IDS.astype(np.uint16), "uint32", "set dataset.dtype=uint16"),
        ("a.bin", IDS.astype(np.uint16), "int32", "set dataset.dtype=uint16"),
        ("a.bin", IDS.astype(np.uint32) + 9, "uint32", "set it to at least 502"),
        ("a.bin", IDS.astype(np.int32) - 999, "int32", "holds the id -.*take what stands"),
        ("a.npy", IDS.astype(np.int32) - 999, "uint16", "holds the id -"),
        ("a.npy", IDS.astype(np.uint16) + 9, "uint16", "set it to at least 502"),
        ("a.npy", IDS.astype(np.float32), "uint16", r"is an array \(6000,\) of float32"),
        ("a.npy", IDS.astype(">u2"), "uint16", "of >u2"),
        ("a.npy", IDS.reshape(60, 100), "uint16", r"\(60, 100\) of int64: token ids are one row"),
    ],
)
def test_ids_of_another_type_or_vocabulary_are_refused(tmp_path, name, written, dtype, said):
    path = tmp_path / name
    written.tofile(path) if name == "a.bin" else np.save(path, written)
    with pytest.raises(ConfigError, match=said):
        Tokens(path, 50_257, 10, dtype=dtype)


def test_files_that_are_none_of_token_ids_are_refused(tmp_path):
    path = tmp_path / "ids.bin"
    llm_c(path, IDS, told=6001)
    with pytest.raises(
        ConfigError, match=r"header of llm\.c, which tells of 6001 tokens, and 6000"
    ):
        Tokens(path, 50_257, 10)
    np.savez(tmp_path / "a", IDS)
    with pytest.raises(ConfigError, match="is an archive"):
        Tokens(tmp_path / "a.npz", 50_257, 10)
    header = np.zeros(256, np.int32)
    header[:3] = 12345, 1, len(IDS)
    (tmp_path / "b.bin").write_bytes(header.tobytes() + IDS.astype(np.uint16).tobytes())
    with pytest.raises(ConfigError, match="a header that isn't known"):
        Tokens(tmp_path / "b.bin", 50_257, 10)
    for text in ('{"ids": [1, 2, 3]}\n' * 1000, "größer als ø " * 500):
        (tmp_path / "train.jsonl").write_bytes(text.encode()[:5000])
        with pytest.raises(ConfigError, match="holds text, no ids"):
            Tokens(tmp_path / "train.jsonl", 50_257, 10)
    assert Tokens(tmp_path / "train.jsonl", 256, 10, dtype="uint8").unique_samples > 400
    np.save(tmp_path / "cut.npy", IDS)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="can't be read as a numpy array"):
        Tokens(tmp_path / "cut.npy", 50_257, 10)


@pytest.mark.parametrize(
    "names",
    [
        ("fineweb_train_000001.bin", "fineweb_train_000002.bin", "fineweb_val_000000.bin"),
        ("train/0.bin", "train/1.bin", "val/0.bin"),
        ("train.bin", "train2.bin", "validation.bin"),
        ("a.bin", "b.bin", "test.bin"),
        ("train-0.bin", "train-1.bin", "val.bin", "test.bin"),
    ],
)
@pytest.mark.parametrize("glob", ["", "/**/*.bin"])
def test_names_tell_what_is_held_out_of_a_folder(tmp_path, names, glob):
    folder = tmp_path / "validated-test-data"  # words that all have in common tell nothing
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        ids = np.arange(1000 * number, 1000 * number + 500, dtype=np.uint16)
        llm_c(folder / name, ids) if number % 2 else ids.tofile(folder / name)
    source = Tokens(f"{folder}{glob}", 9000, 10)
    assert (source.unique_samples, source.held_out_samples) == (98, 49)
    epoch = take(source.training_batches(7, seed=0), 14)
    assert {start // 1000 for start in starts(epoch)} == {0, 1}
    assert {start // 1000 for start in starts(source.held_out_batches(49, 49))} == {2}
    listed = Tokens([folder / name for name in names], 9000, 10, held_out=0.2)
    assert (
        len({start // 1000 for start in starts(take(listed.training_batches(7, seed=0), 25))}) > 2
    )


def test_more_held_out_samples_than_there_are_is_an_error(token_file):
    source = Tokens(token_file, vocab_size=1000, context_length=10)
    with pytest.raises(ValueError, match="500 held-out samples asked for, 4 are there"):
        next(source.held_out_batches(4, 500))


def test_text_is_bytes_split_by_file(text_folder):
    source = Text(str(text_folder / "*.txt"), context_length=10, held_out=0.2)
    epoch = take(source.training_batches(8, seed=0), source.unique_samples // 8)
    training = set(itertools.chain(*rows(epoch)))
    held_out = set(itertools.chain(*rows(source.held_out_batches(8, source.held_out_samples))))
    assert held_out & training <= {0}  # the byte between files
    assert 5 < len(held_out) < 20  # of 60 files, one byte value each


def test_text_knows_content_only(text_folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for number, path in enumerate(sorted(text_folder.iterdir(), reverse=True)):
        (elsewhere / f"renamed-{number}").write_bytes(path.read_bytes())
        (elsewhere / f"copy-{number}").write_bytes(path.read_bytes())
    original = Text(str(text_folder / "*.txt"), context_length=10)
    assert Text(str(elsewhere), context_length=10).fingerprint == original.fingerprint
    (elsewhere / "renamed-0").write_text("changed")
    assert Text(str(elsewhere), context_length=10).fingerprint != original.fingerprint


def test_the_fingerprint_changes_with_how_text_is_cut(text_folder):
    cuts = [{"context_length": 10}, {"context_length": 11}, {"context_length": 10, "held_out": 0.3}]
    assert len({Text(str(text_folder), **cut).fingerprint for cut in cuts}) == 3


def test_text_takes_files_folders_and_globs(text_folder):
    by_folder = Text(str(text_folder), context_length=10)
    by_list = Text([str(path) for path in text_folder.iterdir()], context_length=10)
    by_globs = Text([f"{text_folder}/?.txt", f"{text_folder}/*[0-9].txt"], context_length=10)
    assert by_folder.fingerprint == by_list.fingerprint == by_globs.fingerprint


def test_text_says_what_is_wrong(text_folder):
    with pytest.raises(ConfigError, match=r"nothing matches"):
        Text(str(text_folder / "*.md"))
    with pytest.raises(ConfigError, match=r"1 files and held_out 0\.1 leave the"):
        Text(str(text_folder / "1.txt"), held_out=0.1)
    with pytest.raises(ConfigError, match="vocab_size is 100"):
        Text(str(text_folder), vocab_size=100)


def test_python_source_is_the_standard_library_without_installed_packages():
    source = PythonSource()
    assert source.vocab_size == 256
    assert source.tokens_per_sample == source.context_length == 128
    assert 5e6 < (source.unique_samples + source.held_out_samples) * 128 < 1e8
    assert 0.02 < source.held_out_samples / source.unique_samples < 0.1
    assert source.fingerprint == PythonSource().fingerprint


@pytest.mark.parametrize(("size", "seen"), [(2**21 - 7, True), (2**24, False)])
def test_content_is_hashed_whole_up_to_a_limit_and_in_spread_blocks_above(size, seen, monkeypatch):
    monkeypatch.setattr(source_module, "HASHED_WHOLE_BYTES", 4 * source_module.HASHED_BLOCK_BYTES)
    content = np.zeros(size, np.uint16)
    original = content_hash(content)
    assert sum(block.nbytes for block in hashed_blocks(content)) == 4 * 2**20
    for place, changes in ((0, True), (size // 2 + 5, seen), (size - 1, True)):
        content[place] = 1
        assert (content_hash(content) != original) == changes
        content[place] = 0


def test_hashes_tell_types_shapes_and_settings_apart():
    zeros = np.zeros(8, np.uint8)
    others = [zeros.view(np.uint16), zeros.reshape(2, 4), np.zeros(9, np.uint8)]
    hashes = {content_hash(array) for array in (zeros, *others)} | {content_hash(zeros, 1)}
    assert len(hashes) == 5
