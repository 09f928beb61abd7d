"""A corpus that `tandem prepare` made, as a data module."""

from pathlib import Path
from typing import Any, Literal

import yaml

from tandem_pl.datamodules.mixture import MixtureDataModule
from tandem_pl.errors import InputError

from .packed_blocks import open_blocks
from .packing import MANIFEST, read_manifest, summarize


class PreparedTextDataModule(MixtureDataModule):
    """Blocks of tokens from a folder that `tandem prepare` wrote; nothing is built here.

    A sample is `{"input_ids": LongTensor[block_size]}`. The folder may be moved or copied: its
    content, and not its place, is what a checkpoint asks for again.

    Args:
        manifest: `manifest.yaml` of the folder, or the folder.
        batch_size: samples a batch.
        weights: where the mixture starts, in any of the ways `MixtureDataModule` takes.
        target_weights: shares of the target domains, written alike; None: equal.
        seed: of the order of samples.
        num_workers: of the data loaders.
        epoch_batches: batches an epoch without a reweighting callback; None: the data once.
        allocation: `"debt"` or `"multinomial"`, see `MixtureDataModule`.
        eval_batch_size: of validation and test; None: `batch_size`.
        validate_target: whether `fit` also validates, on the target data.

    Attributes:
        vocab_size: ids lie in `[0, vocab_size)`; the network's `vocab_size` must be no smaller.
        block_size: tokens a sample.
        tokenizer_name: `"bytes"`, or the folder of the tokenizer, for `load_tokenizer`.

    Raises:
        InputError: no manifest there, or, in `setup`, blocks that are missing or cut short.
    """

    def __init__(
        self,
        manifest: str,
        batch_size: int = 32,
        weights: str | dict[str, float] | None = None,
        target_weights: str | dict[str, float] | None = None,
        seed: int = 0,
        num_workers: int = 0,
        epoch_batches: int | None = None,
        allocation: Literal["debt", "multinomial"] = "debt",
        eval_batch_size: int | None = None,
        validate_target: bool = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            weights=weights,
            target_weights=target_weights,
            seed=seed,
            num_workers=num_workers,
            epoch_batches=epoch_batches,
            allocation=allocation,
            eval_batch_size=eval_batch_size,
            validate_target=validate_target,
        )
        path = Path(manifest).expanduser()
        self.folder = path if path.is_dir() else path.parent
        try:
            if not path.exists():
                raise FileNotFoundError(path)
            if path.is_file() and path.name != MANIFEST:
                raise ValueError(path)
            self.manifest = read_manifest(self.folder)
            self.vocab_size = int(self.manifest["vocab_size"])
            self.block_size = int(self.manifest["block_size"])
            self.fingerprint = str(self.manifest["fingerprint"])
            folder = self.manifest["tokenizer"]["folder"]
        except FileNotFoundError as error:
            raise InputError(
                f"manifest={manifest!r} does not exist; give OUT/{MANIFEST} of a folder that "
                "`tandem prepare --out OUT` wrote."
            ) from error
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            raise InputError(
                f"manifest={manifest!r} is not the manifest of a prepared corpus; give "
                f"OUT/{MANIFEST} of a folder that `tandem prepare --out OUT` wrote."
            ) from error
        self.tokenizer_name = str(self.folder / folder) if folder else "bytes"

    def setup(self, stage: str | None = None) -> None:
        """Open the blocks of every split and domain."""
        opened = open_blocks(self.folder, self.manifest)
        self.train_sets = dict(opened["train"])
        self.target_sets = dict(opened["target"])
        self.test_sets = dict(opened["test"])
        super().setup(stage)

    def summary(self) -> list[dict[str, Any]]:
        """One row a domain: documents, tokens and blocks; see `packing.summarize`."""
        return summarize(self.manifest)

    def _identity(self) -> dict[str, Any]:
        # Equal numbers of blocks may hold other text.
        return {**super()._identity(), "corpus": self.fingerprint}
