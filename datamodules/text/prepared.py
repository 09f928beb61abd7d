"""Data modules of packed blocks on disk, and the one that reads what `tandem prepare` wrote."""

from pathlib import Path
from typing import Any

import yaml

from tandem_pl.datamodules.batching import ConfiguredDataModule
from tandem_pl.datamodules.clusters.targets import cached_folder, shares_of_clusters
from tandem_pl.errors import InputError

from .block_folder import MANIFEST, open_blocks, read_manifest, summarize


class PackedTextDataModule(ConfiguredDataModule):
    """Base of data modules that serve a folder of packed blocks.

    A sample is `{"input_ids": LongTensor[block_size]}`. A subclass says where the folder is.
    """

    def find_folder(self) -> Path:
        """Return the folder of blocks."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Open the blocks of every split and domain."""
        folder = self.find_folder()
        self.manifest = read_manifest(folder)
        self.corpus, splits = str(folder), self.manifest["splits"]
        self.target_clusters = shares_of_clusters(self.manifest)
        self.cluster_folder = cached_folder(self.manifest)
        train = splits["train"].items()  # folders of older versions have no digests
        self.digests = {domain: row["digest"] for domain, row in train if "digest" in row}
        opened = open_blocks(folder, self.manifest)
        self.train_sets = dict(opened["train"])
        self.target_sets = dict(opened["target"])
        self.test_sets = dict(opened["test"])
        super().setup(stage)

    def summary(self) -> list[dict[str, Any]]:
        """Return one row a domain: documents, tokens and blocks; see `block_folder.summarize`."""
        return summarize(read_manifest(self.find_folder()))


class PreparedTextDataModule(PackedTextDataModule):
    """Blocks of tokens from a folder that `tandem prepare` wrote; nothing is built here.

    A sample is `{"input_ids": LongTensor[block_size]}`. The folder may be moved or copied: a
    checkpoint asks for the same content and not for the same path.

    Args:
        manifest: `manifest.yaml` of the folder, or the folder.
        batching: see `ConfiguredDataModule`.

    Attributes:
        vocab_size: ids lie in `[0, vocab_size)`; the network's `vocab_size` must be no smaller.
        block_size: tokens in a sample.
        tokenizer_name: `"bytes"`, or the folder of the tokenizer, for `load_tokenizer`.

    Raises:
        InputError: no manifest there, or, in `setup`, blocks that are missing or cut short.
    """

    def __init__(self, manifest: str, **batching: Any) -> None:
        super().__init__(**batching)
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
        except InputError:
            raise
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

    def find_folder(self) -> Path:
        """Return the folder of the manifest."""
        return self.folder

    def _identity(self) -> dict[str, Any]:
        # Equal numbers of blocks may hold other text.
        return {**super()._identity(), "corpus": self.fingerprint}
