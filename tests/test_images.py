"""Labelled images: files in their published formats, digits, synthetic images."""

import gzip
import itertools
import os
import pickle
import pickletools
import struct
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from flops_fit.datasets import Cifar10, Digits, Mnist, Source, SyntheticImages
from flops_fit.datasets.images import RARITY
from flops_fit.errors import ConfigError

IMAGES_PER_BATCH = 12


def random_images(seed, *shape):
    """Pixels around 100 with channels of different spread, and labels of every class."""
    generator = np.random.default_rng(seed)
    spread = np.arange(10, 10 * (shape[0] + 1), 10)[:, None, None]
    pixels = 100 + spread * generator.standard_normal((IMAGES_PER_BATCH, *shape))
    return pixels.clip(0, 255).astype(np.uint8), np.arange(IMAGES_PER_BATCH, dtype=np.uint8) % 10


class Python2Pickler(pickle._Pickler):
    """Writes bytes and text as Python 2 wrote its one kind of string."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        content = value if isinstance(value, bytes) else value.encode("latin-1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def cifar10_pickle(path, pixels, labels, module=b"numpy.core.multiarray"):
    """As published: protocol 2, by Python 2, naming numpy 1's modules."""
    content = {
        "batch_label": f"batch {path.name}",
        "labels": labels.tolist(),
        "data": pixels.reshape(len(pixels), -1),
        "filenames": [f"{i}.png" for i in range(len(pixels))],
    }
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", module))


def cifar10_records(path, pixels, labels):
    rows = np.concatenate([labels[:, None], pixels.reshape(len(pixels), -1)], axis=1)
    path.with_name(f"{path.name}.bin").write_bytes(rows.tobytes())


def cifar10_folder(folder, write=cifar10_pickle):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        write(folder / name, *random_images(number, 3, 32, 32))
    return folder


def idx(array):
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def plain(path, content):
    path.write_bytes(content)


def packed(path, content):
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))


def mnist_folder(folder, write=plain):
    folder.mkdir(exist_ok=True)
    for seed, part in enumerate(["train", "t10k"]):
        pixels, labels = random_images(seed, 1, 28, 28)
        write(folder / f"{part}-images-idx3-ubyte", idx(pixels[:, 0]))
        write(folder / f"{part}-labels-idx1-ubyte", idx(labels))
    return folder


def digits():
    pytest.importorskip("sklearn", reason="scikit-learn, which has the digits, is not installed")
    return Digits()


SOURCES = {
    "cifar10": lambda folder: Cifar10(cifar10_folder(folder / "cifar10")),
    "mnist": lambda folder: Mnist(mnist_folder(folder / "mnist")),
    "digits": lambda folder: digits(),
    "endless": lambda folder: SyntheticImages(),
    "fixed number": lambda folder: SyntheticImages(num_samples=100),
}


def take(batches, count):
    return list(itertools.islice(batches, count))


def same(batches, others):
    pairs = zip(itertools.chain(*batches), itertools.chain(*others), strict=True)
    return all(torch.equal(tensor, other) for tensor, other in pairs)


def rows(batches):
    """Each image as something that can be compared and counted."""
    return [bytes(image.numpy()) for images, _ in batches for image in images]


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
class TestEverySource:
    def test_is_a_source_of_normalised_images_and_labels(self, make, tmp_path):
        source = make(tmp_path)
        assert isinstance(source, Source)
        images, labels = next(source.training_batches(8, seed=0))
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert (images.ndim, labels.shape) == (4, (8,))
        assert labels.max() < 10

    def test_the_order_depends_only_on_the_seed(self, make, tmp_path):
        source = make(tmp_path)
        first = take(source.training_batches(8, seed=1), 20)
        assert same(first, take(make(tmp_path).training_batches(8, seed=1), 20))
        assert not same(first, take(source.training_batches(8, seed=2), 20))

    @pytest.mark.parametrize("start_step", [1, 7, 150])
    def test_starting_at_a_step_equals_skipping_to_it(self, make, tmp_path, start_step):
        source = make(tmp_path)
        skipped = take(source.training_batches(8, seed=1), start_step + 5)[start_step:]
        assert same(take(source.training_batches(8, seed=1, start_step=start_step), 5), skipped)

    def test_held_out_images_are_the_same_every_time_nested_and_never_trained_on(
        self, make, tmp_path
    ):
        source = make(tmp_path)
        four = rows(source.held_out_batches(3, 4))
        assert len(four) == 4
        assert (
            four
            == rows(source.held_out_batches(4, 4))
            == rows(make(tmp_path).held_out_batches(2, 4))
        )
        assert rows(source.held_out_batches(2, 2)) == four[:2]
        held_out = rows(source.held_out_batches(8, source.held_out_samples or 500))
        epoch = (source.unique_samples or 500) // 8
        assert set(held_out).isdisjoint(rows(take(source.training_batches(8, seed=0), epoch)))

    def test_the_fingerprint_is_of_what_it_was_made_of(self, make, tmp_path):
        fingerprint = make(tmp_path).fingerprint
        assert fingerprint == make(tmp_path).fingerprint
        assert [make(tmp_path).fingerprint for make in SOURCES.values()].count(fingerprint) == 1


class TestFiles:
    def test_images_come_back_as_they_were_written(self, tmp_path):
        """Up to the normalisation: an image minus another one is so many grey levels."""
        source = Cifar10(cifar10_folder(tmp_path))
        written, labels = random_images(5, 3, 32, 32)  # test_batch
        images, read_labels = next(source.held_out_batches(12, 12))
        order = [next(i for i, w in enumerate(written) if correlated(w, image)) for image in images]
        assert sorted(order) == list(range(12))
        assert read_labels.tolist() == labels[order].tolist()

    def test_both_versions_of_cifar10_are_the_same_data(self, tmp_path):
        python = Cifar10(cifar10_folder(tmp_path / "python"))
        binary = Cifar10(cifar10_folder(tmp_path / "binary", cifar10_records))
        assert python.fingerprint == binary.fingerprint
        assert same(python.held_out_batches(12, 12), binary.held_out_batches(12, 12))
        assert (python.unique_samples, python.held_out_samples) == (60, 12)
        assert python.tokens_per_sample == 64

    def test_pickles_may_be_of_numpy_2(self, tmp_path):
        folder = cifar10_folder(tmp_path / "numpy 1")
        again = tmp_path / "numpy 2"
        again.mkdir()
        for path in folder.iterdir():
            content = path.read_bytes()
            assert b"numpy.core.multiarray" in content
            plain(again / path.name, content.replace(b"numpy.core", b"numpy._core"))
        assert Cifar10(again).fingerprint == Cifar10(folder).fingerprint

    def test_files_of_mnist_may_be_packed(self, tmp_path):
        source = Mnist(mnist_folder(tmp_path / "plain"), patch_size=7)
        same_source = Mnist(mnist_folder(tmp_path / "packed", packed), patch_size=7)
        assert source.fingerprint == same_source.fingerprint
        assert source.tokens_per_sample == 16
        assert source.fingerprint != Mnist(tmp_path / "plain").fingerprint  # patches of 4

    def test_training_images_have_mean_0_and_variance_1_in_every_channel(self, tmp_path):
        source = Cifar10(cifar10_folder(tmp_path))
        images, _ = next(source.training_batches(60, seed=0))
        torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(images.var((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)

    def test_a_changed_pixel_or_label_changes_the_fingerprint(self, tmp_path):
        before = Mnist(mnist_folder(tmp_path)).fingerprint
        for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
            content = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            after = Mnist(tmp_path).fingerprint
            assert after != before
            before = after

    @pytest.mark.parametrize("write", [cifar10_pickle, cifar10_records])
    @pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
    def test_a_missing_batch_is_named(self, tmp_path, write, name):
        (missing,) = cifar10_folder(tmp_path, write).glob(f"{name}*")
        missing.unlink()
        with pytest.raises(ConfigError, match=rf"no file {missing}: dataset.folder must hold"):
            Cifar10(tmp_path)

    @pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
    def test_a_missing_idx_file_is_named(self, tmp_path, name):
        mnist_folder(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(ConfigError, match=rf"no file {tmp_path / name}, nor {name}.gz"):
            Mnist(tmp_path)

    def test_a_pickle_that_would_run_code_does_not(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "was here"),)

        cifar10_folder(tmp_path)
        with (tmp_path / "data_batch_2").open("wb") as file:
            pickle.dump({b"data": Malicious(), b"labels": []}, file)
        with pytest.raises(ConfigError, match=r"data_batch_2 can't be read.*posix\.mkdir"):
            Cifar10(tmp_path)
        assert not (tmp_path / "was here").exists()

    def test_pickles_of_arrays_name_nothing_beyond_them(self, tmp_path):
        """The files of these tests are as strict as those published."""
        content = (cifar10_folder(tmp_path) / "data_batch_1").read_bytes()
        named = {arg for op, arg, _ in pickletools.genops(content) if op.name == "GLOBAL"}
        assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "can't be read as a batch of CIFAR-10"),
            (pickle.dumps([1, 2]), "holds no images and labels"),
            (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}, 4), "labels"),
            (pickle.dumps({b"data": 1, b"labels": [1]}), "reshape"),
            (pickle.dumps({b"data": b"", b"labels": [300]}), "300"),
        ],
    )
    def test_files_that_are_no_batches_are_refused(self, tmp_path, content, message):
        plain(cifar10_folder(tmp_path) / "data_batch_1", content)
        with pytest.raises(ConfigError, match=rf"data_batch_1.*{message}"):
            Cifar10(tmp_path)

    def test_a_binary_batch_that_is_cut_off_is_refused(self, tmp_path):
        path = cifar10_folder(tmp_path, cifar10_records) / "test_batch.bin"
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(ConfigError, match=r"test_batch\.bin has 36,871 bytes.*times 3073"):
            Cifar10(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\0\0", "starts with 00 00:"),
            (idx(np.zeros((2, 3), np.uint8)), "starts with 00 00 08 02.*starts with 00 00 08 03"),
            (b"\0\0\x0d\3" + bytes(12), "00 00 0d 03"),
            (idx(np.zeros((2, 28, 28), np.uint8))[:-1], "has 1,567 values, its head says 1,568"),
        ],
    )
    def test_broken_idx_files_are_refused(self, tmp_path, content, message):
        plain(mnist_folder(tmp_path) / "train-images-idx3-ubyte", content)
        with pytest.raises(ConfigError, match=rf"train-images-idx3-ubyte.*{message}"):
            Mnist(tmp_path)

    def test_a_packed_file_that_is_cut_off_is_refused(self, tmp_path):
        path = mnist_folder(tmp_path, packed) / "t10k-labels-idx1-ubyte.gz"
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(ConfigError, match=r"t10k-labels-idx1-ubyte\.gz can't be unpacked"):
            Mnist(tmp_path)

    def test_more_images_than_labels_are_refused(self, tmp_path):
        plain(mnist_folder(tmp_path) / "train-labels-idx1-ubyte", idx(np.zeros(5, np.uint8)))
        with pytest.raises(ConfigError, match="12 images and 5 labels"):
            Mnist(tmp_path)


def correlated(pixels, image):
    """Whether an image is these pixels, each channel moved and scaled."""
    both = zip(pixels.reshape(len(pixels), -1), image.flatten(1).numpy(), strict=True)
    return all(np.corrcoef(written, read)[0, 1] > 0.999 for written, read in both)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"image_size": 32}, r"28 x 28 pixels in 1 channels, dataset.image_size is 32"),
        ({"channels": 3}, "dataset.channels 3"),
        ({"num_classes": 9}, r"label 9, dataset.num_classes is 9: set it to at least 10"),
        ({"patch_size": 5}, r"patch_size is 5: use one that divides the image_size, 28"),
        ({"patch_size": 0}, "patch_size is 0"),
    ],
)
def test_what_the_config_says_of_images_is_checked(tmp_path, form, message):
    with pytest.raises(ConfigError, match=message):
        Mnist(mnist_folder(tmp_path), **form)


def test_digits_are_those_of_scikit_learn():
    source = digits()
    assert source.unique_samples + source.held_out_samples == 1797
    assert source.held_out_samples == round(0.2 * 1797)
    assert source.tokens_per_sample == 16
    _, labels = next(source.training_batches(source.unique_samples, seed=0))
    _, held_out_labels = next(source.held_out_batches(359, 359))
    counts = torch.cat([labels, held_out_labels]).bincount()
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as published


def test_without_scikit_learn_digits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match="pip install scikit-learn"):
        Digits()


class TestSyntheticImages:
    def draw(self, how_many=5000, **settings):
        source = SyntheticImages(**settings)
        return next(source.training_batches(how_many, seed=0))

    def test_have_a_mean_square_of_1(self):
        images, _ = self.draw(channels=2, noise=0.8)
        assert images.shape == (5000, 2, 12, 12)
        assert images.square().mean().item() == pytest.approx(1, abs=0.02)

    def test_without_noise_and_shifts_are_patterns_shown_ever_more_rarely(self):
        images, labels = self.draw(20_000, num_patterns=64, noise=0, max_shift=0)
        _, which, counts = images.unique(dim=0, return_inverse=True, return_counts=True)
        assert len(counts) == 64
        by_pattern = one_hot(which, 64).T @ one_hot(labels, 10)  # (patterns, classes)
        assert (by_pattern > 0).sum(1).tolist() == [1] * 64  # each of one class
        shares = torch.arange(1, 65) ** -RARITY
        expected = 20_000 * shares / shares.sum()
        by_rank = counts.sort(descending=True).values
        assert ((by_rank - expected).abs() < 4 * expected.sqrt() + 4).all()

    def test_shifts_move_patterns_around_the_edges(self):
        patterns, _ = self.draw(2000, num_patterns=10, noise=0, max_shift=0)
        patterns = patterns.unique(dim=0)
        shifted, _ = self.draw(2000, num_patterns=10, noise=0, max_shift=1)
        moves = itertools.product((-1, 0, 1), repeat=2)
        allowed = {
            rows([(patterns.roll(move, (2, 3)), None)])[i] for move in moves for i in range(10)
        }
        assert set(rows([(shifted, None)])) == allowed

    def test_noise_is_of_the_given_size(self):
        quiet, _ = self.draw(noise=0)
        noisy, _ = self.draw(noise=0.5)
        assert (noisy * 1.25**0.5 - quiet).std().item() == pytest.approx(0.5, rel=0.01)

    def test_images_never_repeat_unless_their_number_is_given(self):
        images, _ = self.draw(3000)
        assert len(images.unique(dim=0)) == 3000
        images, _ = self.draw(3000, num_samples=100)
        assert len(images.unique(dim=0)) == 100

    def test_fewer_fixed_images_are_among_more(self):
        few = set(rows(take(SyntheticImages(num_samples=50).training_batches(50, 0), 1)))
        many = set(rows(take(SyntheticImages(num_samples=2000).training_batches(2000, 0), 1)))
        assert len(few) == 50
        assert few < many

    def test_every_setting_changes_the_fingerprint(self):
        changes = [{}, {"noise": 0.6}, {"max_shift": 2}, {"num_patterns": 99}, {"pattern_seed": 1}]
        changes += [{"num_samples": 99}, {"patch_size": 3}, {"num_classes": 9}]
        assert len({SyntheticImages(**change).fingerprint for change in changes}) == len(changes)

    def test_say_what_cannot_be(self):
        with pytest.raises(ConfigError, match=r"num_patterns 5.*each of the 10 classes"):
            SyntheticImages(num_patterns=5)
        with pytest.raises(ConfigError, match="num_samples is 0"):
            SyntheticImages(num_samples=0)
