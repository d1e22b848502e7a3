"""Text: encoding, windows, the split in order, and files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.text import Text, Windows

SHAKESPEARE = Path(__file__).parent.parent.parent / "shared" / "data" / "tinyshakespeare.txt"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("hello, wörld! 0123456789 " * 40, encoding="utf-8")
    return str(path)


def decoded(data: Text, codes: torch.Tensor) -> str:
    return "".join(data.vocabulary[code] for code in codes.tolist())


def test_the_vocabulary_is_the_sorted_set_of_characters(file: str) -> None:
    data = Text(file)
    data.setup()
    assert data.vocabulary == "".join(sorted(set(Path(file).read_text(encoding="utf-8"))))
    assert data.vocabulary_size == len(data.vocabulary)


def test_training_windows_give_back_the_first_part_of_the_text_and_targets_are_the_next_characters(file: str) -> None:
    data = Text(file, batch_size=4, context=10, shuffle=False)
    data.setup()
    text = Path(file).read_text(encoding="utf-8")
    batches = list(data.train_dataloader())
    inputs = torch.cat([batch[0] for batch in batches])
    targets = torch.cat([batch[1] for batch in batches])
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (89, 10)  # 900 of 1000 characters; the last window lacks a target
    assert decoded(data, inputs.flatten()) == text[:890]
    assert decoded(data, targets.flatten()) == text[1:891]


def test_validation_is_the_rest_of_the_text_without_overlap(file: str) -> None:
    data = Text(file, context=10, stride=3)
    data.setup()
    loader = data.val_dataloader()
    assert not isinstance(loader, list)
    ((inputs, _),) = loader
    assert decoded(data, inputs.flatten()) == Path(file).read_text(encoding="utf-8")[900:990]


@pytest.mark.parametrize(
    ("length", "context", "stride", "starts"),
    [
        (10, 4, 4, [0, 4]),
        (9, 4, 4, [0, 4]),
        (8, 4, 4, [0]),
        (10, 4, 1, [0, 1, 2, 3, 4, 5]),
        (5, 4, 9, [0]),
        (4, 4, 4, []),
    ],
)
def test_windows_start_every_stride_as_long_as_a_target_remains(
    length: int, context: int, stride: int, starts: list[int]
) -> None:
    windows = Windows(torch.arange(length, dtype=torch.uint8), context=context, stride=stride)
    assert [int(windows[index][0][0]) for index in range(len(windows))] == starts
    with pytest.raises(IndexError):
        windows[len(starts)]


def test_more_than_256_characters_are_still_told_apart(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 4
    (tmp_path / "many.txt").write_text(text, encoding="utf-8")
    data = Text(str(tmp_path / "many.txt"), context=8, shuffle=False)
    data.setup()
    assert data.vocabulary_size == 300
    assert decoded(data, torch.cat([batch[0] for batch in data.train_dataloader()]).flatten()) == text[: 134 * 8]


def test_a_second_setup_reads_nothing(file: str) -> None:
    data = Text(file)
    data.setup()
    Path(file).unlink()
    data.setup("validate")
    assert data.vocabulary_size > 0


def test_without_validation_all_of_the_text_trains(file: str) -> None:
    data = Text(file, validation=0.0)
    data.setup()
    assert list(data.splits) == ["train"]
    assert data.val_dataloader() == []


def test_a_missing_file_is_named_with_the_argument_and_the_remedy(tmp_path: Path) -> None:
    data = Text(str(tmp_path / "absent.txt"))
    with pytest.raises(
        ValueError, match=r"`data.init_args.path` must be .*absent.txt.* Put a text there, or give another"
    ):
        data.setup()


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"`data.init_args.path` must be a text in UTF-8"):
        Text(str(tmp_path / "noise.bin")).setup()


@pytest.mark.parametrize("text", ["", "x" * 650])
def test_a_text_shorter_than_a_window_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "short.txt").write_text(text)
    with pytest.raises(ValueError, match=r"`context` must be less than .* Lower it or give a longer text"):
        Text(str(tmp_path / "short.txt"), context=65).setup()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"context": 0}, "`context` must be a whole number of at least 1, but got 0"),
        ({"stride": 0}, "`stride` must be a whole number of at least 1, but got 0"),
        ({"validation": 1.0}, r"`validation` must be a share in \[0, 1\), but got 1.0"),
        ({"batch_size": -4}, "`batch_size` must be a whole number of at least 1, but got -4"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Text("never-read.txt", **arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="tinyshakespeare.txt is not at ../shared/data")
def test_tiny_shakespeare_has_65_characters_and_costs_one_byte_each() -> None:
    data = Text(str(SHAKESPEARE))
    data.setup()
    train = data.splits["train"]
    assert isinstance(train, Windows)
    assert data.vocabulary_size == 65
    assert len(train.codes) == 1_003_855
    assert train.codes.element_size() == 1
