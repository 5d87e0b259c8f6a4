"""Config groups: their options, shipped and the user's own, and the folders they stand in."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flops_fit.errors import ConfigError
from flops_fit.files import shipped_configs
from flops_fit.signatures import did_you_mean

USER_CONFIGS = "conf"
"""A user's own configs in the working directory, found without being named."""

SUFFIXES = (".yaml", ".yml")
"""With which an option may be named; one without them is a file that ends in the first."""


@dataclass(frozen=True)
class Group:
    """A config group in a verb's defaults. `default` is the option chosen by itself, if any."""

    name: str
    default: str | None
    is_optional: bool


@cache
def groups_of(verb: str) -> Mapping[str, Group]:
    """Name -> group, of all that the verb's config begins with."""
    from omegaconf import OmegaConf  # a tenth of a second, which `flops-fit --help` needs not

    found: dict[str, Group] = {}
    config: Any = OmegaConf.to_container(OmegaConf.load(shipped_configs() / f"{verb}.yaml"))
    for entry in config.get("defaults", ()):
        if isinstance(entry, Mapping):
            found |= {group.name: group for group in _groups(entry)}
        elif (shipped_configs() / f"{entry}.yaml").exists():
            found |= groups_of(entry)
    return found


def _groups(entry: Mapping[str, str | None]) -> Iterator[Group]:
    for name, default in entry.items():
        if not name.startswith("override "):
            yield Group(name.removeprefix("optional "), default, name.startswith("optional "))


def choices_of_hydra() -> Mapping[str, str]:
    """Group -> option of the config that Hydra has composed; none before."""
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}


@dataclass(frozen=True)
class Folders:
    """Folders of configs in the order in which Hydra reads them: the shipped ones go first."""

    paths: tuple[Path, ...]

    @classmethod
    def of_user(cls, folder: str | Path) -> Folders:
        """The shipped ones and this one of the user's."""
        return cls((shipped_configs(), Path(folder)))

    @classmethod
    def of_hydra(cls, hydra_config: Any = None) -> Folders:
        """Where Hydra looked, in its order, for this config, or the one that it runs."""
        from hydra.core.hydra_config import HydraConfig

        sources = (hydra_config or HydraConfig.get()).runtime.config_sources
        return cls(tuple(Path(s.path) for s in sources if s.schema == "file" and s.path))

    def has_group(self, group: str) -> bool:
        return any((folder / group).is_dir() for folder in self.paths)

    def options(self, group: str) -> list[str]:
        """Names of the group's options, in the order of the alphabet."""
        files = [file for folder in self.paths for file in folder.glob(f"{group}/*.yaml")]
        return sorted({file.stem for file in files})

    def file(self, group: str, option: str) -> Path | None:
        """Where the option stands; None where there is no such option."""
        name = option if option.endswith(SUFFIXES) else option + SUFFIXES[0]
        files = (folder / group / name for folder in self.paths)
        return next((file for file in files if file.is_file()), None)

    def check_option(self, group: str, option: str) -> None:
        """Raises `ConfigError` where the group has no such option."""
        if self.file(group, option):
            return
        for folder in self.paths:
            other = folder / group / f"{option}.yml"
            if other.is_file():
                raise ConfigError(
                    f"{other} is read only by its whole name: call it {option}.yaml, or choose it "
                    f"with {group}={option}.yml"
                )
        options = self.options(group)
        there_are = f"there are {', '.join(options)}" if options else "there is none"
        guess = did_you_mean(option, options)
        own = self.paths[-1] / group / f"{option}.yaml"
        raise ConfigError(f"{group}={option}: {guess}{there_are}, or write your own {own}")

    def texts(self) -> Iterator[str]:
        """What the users' own files say."""
        for file in (f for folder in self.paths[1:] for f in sorted(folder.rglob("*.y*ml"))):
            yield file.read_text(encoding="utf-8", errors="replace")

    def groups_with_key(self, groups: Sequence[str], key: str) -> list[str]:
        """Those groups in one of whose files the key stands at the top."""
        line = re.compile(rf"^{re.escape(key)}:", re.MULTILINE)
        return [
            group
            for group in groups
            if any(
                line.search(file.read_text(encoding="utf-8", errors="replace"))
                for folder in self.paths
                for file in folder.glob(f"{group}/*.yaml")
            )
        ]

    def with_key(self, group: str, key: str) -> list[str]:
        """The group's options whose own file has the key, `a.b` being b in a."""
        head = key.partition(".")[0]
        return [
            o for o in self.options(group) if re.search(rf"^{head}:", self._text(group, o), re.M)
        ]

    def fed_by(self, group: str, source: str, keys: Collection[str]) -> list[str]:
        """The group's options that read something of the group `source`, and only these keys."""
        reads = re.compile(rf"\$\{{\s*{source}\.(\w+)")
        read = {
            option: set(reads.findall(self._text(group, option))) for option in self.options(group)
        }
        return [option for option, names in read.items() if names and names <= set(keys)]

    def _text(self, group: str, option: str) -> str:
        file = self.file(group, option)
        return file.read_text(encoding="utf-8", errors="replace") if file else ""

    def unread(self, verb: str, groups: Sequence[str]) -> list[str]:
        """Of each of the user's files that a shipped one of the same name goes before: a word on
        what to do."""
        shipped, *own = self.paths
        patterns = (f"{verb}.yaml", "base.yaml", *(f"{group}/*.yaml" for group in groups))
        files = [(folder, file) for p in patterns for folder in own for file in folder.glob(p)]
        return [
            _unread(file, shipped / file.relative_to(folder))
            for folder, file in files
            if (shipped / file.relative_to(folder)).is_file()
        ]


def _unread(file: Path, shipped: Path) -> str:
    text = f"{file} is not read: {shipped}, which ships, goes before it"
    if shipped.parent == shipped_configs():
        return text
    new = f"my_{file.stem}"
    return f"{text}: call it {new}.yaml, say, and choose it with {shipped.parent.name}={new}"
