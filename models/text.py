"""A text file as data of a character language model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.arguments import check_count, check_share
from models.data import Example, SplitData


class Windows(Dataset[Example]):
    """Stretches of one encoded text: `context` characters as input, and the same shifted by one as target."""

    def __init__(self, codes: Tensor, *, context: int, stride: int) -> None:
        self.codes = codes
        self.context = context
        self.stride = stride

    def __len__(self) -> int:
        return max(0, (len(self.codes) - 1 - self.context) // self.stride + 1)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index * self.stride
        window = self.codes[start : start + self.context + 1].long()
        return window[:-1], window[1:]


class Text(SplitData):
    """Characters of a text file: the first part trains, the rest validates. Inputs and targets: int64 [N, context]."""

    def __init__(
        self,
        path: str,
        batch_size: int = 32,
        *,
        context: int = 64,
        stride: int | None = None,
        validation: float = 0.1,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        """A training window starts every `stride` characters (None: `context`); validation windows never overlap."""
        super().__init__(batch_size, shuffle=shuffle, drop_last=drop_last)
        check_count("context", context)
        check_share("validation", validation)
        if stride is not None:
            check_count("stride", stride)
        self.path = path
        self.context = context
        self.stride = stride or context
        self.validation = validation
        self.vocabulary = ""

    @property
    def vocabulary_size(self) -> int:
        """Number of different characters in the whole text; known after `setup`."""
        assert self.vocabulary, "vocabulary_size is known after setup"
        return len(self.vocabulary)

    def load(self) -> dict[str, Dataset[Example]]:
        """Read and encode the text; a code is a character's place in the sorted set of all characters."""
        text = _read(self.path)
        characters, codes = np.unique(np.array(list(text), dtype="U1").view(np.uint32), return_inverse=True)
        # One byte a character where that is enough; windows become int64 only as they are taken.
        tensor = torch.from_numpy(codes.astype(np.uint8 if len(characters) <= 256 else np.int64))
        self.vocabulary = "".join(map(chr, characters))
        cut = round(len(tensor) * (1.0 - self.validation))
        splits = {"train": Windows(tensor[:cut], context=self.context, stride=self.stride)}
        if self.validation > 0.0:
            splits["validation"] = Windows(tensor[cut:], context=self.context, stride=self.context)
        for name, windows in splits.items():
            if len(windows) == 0:
                raise ValueError(
                    f"`context` must be less than {len(windows.codes)} (the characters of the {name} part), "
                    f"but got {self.context}. Lower it or give a longer text."
                )
        return dict(splits)


def _read(path: str) -> str:
    file = Path(path).expanduser()
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"`data.init_args.path` must be a text in UTF-8, but {path!r} is not: {error}.") from error
    except OSError as error:
        raise ValueError(
            f"`data.init_args.path` must be a readable text file, but got {path!r} ({error.strerror}). "
            f"Put a text there, or give another path; a relative one starts from {Path.cwd()}."
        ) from error
