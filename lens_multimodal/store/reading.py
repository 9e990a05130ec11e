"""Stored activations, memory-mapped: rows by picture, by image patch, at random."""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lens_multimodal.arguments.boundary import ArgumentTypeError, ArgumentValueError, public
from lens_multimodal.latest import Latest
from lens_multimodal.runs.claim import manifest_of_kind

SHARDS = "shards"
OPEN_AT_ONCE = 256

RowNumbers: TypeAlias = Sequence[int] | Tensor | np.ndarray | pd.Index | pd.Series
"""Numbers of rows, as in the index of `Activations.rows`."""

COLUMNS = ("image_id", "pos", "patch_row", "patch_col", "token", "category", "share")


def shard_file(home: Path, number: int) -> Path:
    return home / SHARDS / f"{number:06d}.safetensors"


class Activations:
    """A finished folder of `write_activations`; opening it reads no activation.

    Attributes:
        folder: where it is.
        manifest: model, digests of the weights, hook points, weight processing, data, versions.
        names: the hook points.
        pictures: ids of the pictures that gave rows, in their order.
        failed: pictures that could not be read, each with its file and the error.

    Raises:
        FileNotFoundError: no such folder, or one that `write_activations` has not finished.
        ValueError: a damaged file, or a folder that holds something else.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = manifest_of_kind(self.folder, "activations", holds="stored activations")
        self.manifest: dict[str, Any] = manifest
        self.names: tuple[str, ...] = tuple(manifest["settings"]["at"])
        n_shards = -(-manifest["data"]["scenes"] // manifest["settings"]["pictures_per_shard"])
        absent = [n for n in range(n_shards) if not shard_file(self.folder, n).is_file()]
        if absent:
            raise FileNotFoundError(
                f"{self.folder} is not finished: {len(absent)} of {n_shards} shards are missing. Start the same "
                f"command again; it continues where it stopped"
            )
        about = [self._about(number) for number in range(n_shards)]
        self.failed: tuple[dict[str, Any], ...] = tuple(failure for own in about for failure in own["failed"])
        of_pictures = [(number, i, n) for number, own in enumerate(about) for i, n in own["pictures"]]
        self.pictures: tuple[int, ...] = tuple(image_id for _, image_id, _ in of_pictures)
        ends = np.cumsum([n for *_, n in of_pictures], dtype=np.int64)
        self._rows_of = {i: (int(end) - n, int(end)) for (_, i, n), end in zip(of_pictures, ends, strict=True)}
        per_shard = [sum(n for _, n in own["pictures"]) for own in about]
        self._starts = np.concatenate([[0], np.cumsum(per_shard)]).astype(np.int64)
        if not len(self):
            raise ValueError(
                f"{self.folder} holds no row: {len(self.failed)} of {manifest['data']['scenes']} pictures could not be "
                f"read, and the others have none of the positions"
            )
        self._open: Latest[int, dict[str, Tensor]] = Latest(OPEN_AT_ONCE)

    def __len__(self) -> int:
        """The number of rows."""
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"Activations({str(self.folder)!r}: {len(self):,} rows of {', '.join(self.names)})"

    def __getstate__(self) -> dict[str, Any]:
        """Without open files, so that the workers of a data loader open their own."""
        return {**self.__dict__, "_open": Latest(OPEN_AT_ONCE)}

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One line for each row: `image_id`, `pos`, `patch_row`, `patch_col`, `token`, `category` (its name), `share`.

        The index is the row's number, as `take` and `batches` want it.
        """
        parts = [self._shard(n) for n in range(len(self._starts) - 1)]
        table = {name: torch.cat([p[f"row.{name}"] for p in parts if p]).numpy() for name in COLUMNS}
        names = np.array([*self.manifest["categories"], None], dtype=object)
        return pd.DataFrame({**table, "category": names[table["category"]]})

    @public
    def take(self, rows: RowNumbers, name: str | None = None) -> Tensor:
        """Rows by number, in the order given, in the stored precision.

        Args: name: a hook point; None for the only one.
        Returns: `[row, ...]`.
        Raises: ArgumentValueError for rows or hook points that are not stored.
        """
        name = self._name(name)
        wanted = _numbers(rows)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise ArgumentValueError(
                f"expected numbers from 0 to {len(self) - 1}, got {wanted.min()} to {wanted.max()}", "rows"
            )
        if not len(wanted):
            return self.take([0], name)[:0]
        order = np.argsort(wanted, kind="stable")
        shard_of = np.searchsorted(self._starts, wanted[order], side="right") - 1
        result: Tensor | None = None
        for shard in np.unique(shard_of):
            places = order[shard_of == shard]
            values = self._shard(int(shard))[name][torch.from_numpy(wanted[places] - self._starts[shard])]
            if result is None:
                result = values.new_empty((len(wanted), *values.shape[1:]))
            result[torch.from_numpy(places)] = values
        assert result is not None
        return result

    @public
    def of_picture(self, image_id: int, name: str | None = None) -> Tensor:
        """All rows of one picture, `[row, ...]`, in the order of its positions.

        Raises: ArgumentValueError for a picture without rows, or an unknown hook point.
        """
        if image_id not in self._rows_of:
            raise ArgumentValueError(f"no picture {image_id!r} among the {len(self.pictures):,} stored", "image_id")
        start, stop = self._rows_of[image_id]
        return self.take(np.arange(start, stop), name)

    @public
    def of_patch(self, row: int, col: int, name: str | None = None) -> Tensor:
        """One image patch of every picture that has it, `[picture, ...]`; `rows` tells which pictures these are.

        Raises: ArgumentValueError for a patch that no picture has, or an unknown hook point.
        """
        found = self.rows.index[(self.rows["patch_row"] == row) & (self.rows["patch_col"] == col)]
        if not len(found):
            raise ArgumentValueError(f"no stored picture has an image patch ({row}, {col})", "row")
        return self.take(found.to_numpy(), name)

    @public
    def batches(
        self,
        batch_size: int,
        name: str | None = None,
        *,
        rows: RowNumbers | None = None,
        seed: int = 0,
        epochs: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[Float[Tensor, "batch d"]]:
        """Random rows, each once an epoch, in batches of one size: what SAELens' trainer takes as its data provider.

        Args:
            name: a hook point; None for the only one.
            rows: draw from these rows only (`store.rows.query("category == 'dog'").index`); None for all.
            seed: of the order, which is different in each epoch.
            epochs: None continues without end. A batch may span two epochs; a remainder too small for a batch is
            dropped.
            dtype: of the batches.

        Raises: ArgumentValueError for a batch larger than what it is drawn from, or an unknown hook point.
        """
        name = self._name(name)
        pool = np.arange(len(self)) if rows is None else _numbers(rows)
        if not 1 <= batch_size <= len(pool):
            raise ArgumentValueError(f"expected 1 to {len(pool)}, the rows drawn from, got {batch_size}", "batch_size")
        if epochs is not None and epochs < 1:
            raise ArgumentValueError(f"expected at least 1, got {epochs}", "epochs")

        def drawn() -> Iterator[Tensor]:
            waiting = np.zeros(0, dtype=np.int64)
            for epoch in count() if epochs is None else range(epochs):
                waiting = np.concatenate([waiting, np.random.default_rng([seed, epoch]).permutation(pool)])
                while len(waiting) >= batch_size:
                    yield self.take(waiting[:batch_size], name).flatten(1).to(dtype)
                    waiting = waiting[batch_size:]

        return drawn()

    @public
    def dataset(self, name: str | None = None, *, dtype: torch.dtype = torch.float32) -> "StoredRows":
        """All rows of one hook point as a torch `Dataset`, for a `DataLoader` with any number of workers."""
        return StoredRows(self, self._name(name), dtype)

    def _name(self, name: str | None) -> str:
        if name is None and len(self.names) > 1:
            raise ArgumentTypeError(f"name one of the hook points {', '.join(self.names)}", "name")
        if name is not None and name not in self.names:
            raise ArgumentValueError(f"{name!r} is not stored; {', '.join(self.names)} are", "name")
        return name or self.names[0]

    def _about(self, number: int) -> dict[str, Any]:
        path = shard_file(self.folder, number)
        try:
            with safe_open(path, "pt") as file:
                found: dict[str, Any] = json.loads(file.metadata()["shard"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and start the same command again") from error
        return found

    def _shard(self, number: int) -> dict[str, Tensor]:
        """The tensors of a shard as views of the mapped file."""

        def mapped() -> dict[str, Tensor]:
            with safe_open(shard_file(self.folder, number), "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

        return self._open.get(number, mapped)


def _numbers(rows: RowNumbers) -> np.ndarray:
    numbers = np.asarray(rows)
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        raise ArgumentTypeError(f"expected numbers of rows, got {numbers.dtype}", "rows")
    return numbers.astype(np.int64).reshape(-1)


class StoredRows(torch.utils.data.Dataset[Tensor]):
    """Rows of one hook point; indexed by row number."""

    def __init__(self, store: Activations, name: str, dtype: torch.dtype) -> None:
        self.store, self.name, self.dtype = store, name, dtype

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, row: int) -> Tensor:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[Tensor]:
        """Several rows at once, which a `DataLoader` prefers."""
        return list(self.store.take(rows, self.name).to(self.dtype))
