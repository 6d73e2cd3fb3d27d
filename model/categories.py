"""The classes of a data set and of a network: index, id and name kept together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Category:
    """One class: its index in the network's output, its id in the annotations, its name."""

    index: int
    id: int
    name: str


@dataclass(frozen=True)
class CategoryTable:
    """The classes in the order of the network's outputs; kept in every checkpoint."""

    categories: tuple[Category, ...]

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.categories)

    @property
    def ids(self) -> tuple[int, ...]:
        """Annotation ids by class index."""
        return tuple(category.id for category in self.categories)

    @property
    def names(self) -> tuple[str, ...]:
        """Names by class index."""
        return tuple(category.name for category in self.categories)

    def index_by_id(self) -> dict[int, int]:
        """Map an annotation's category id to its class index."""
        return {category.id: category.index for category in self.categories}

    def to_json(self) -> list[dict[str, Any]]:
        """Return a form that JSON can hold: ``[{"index", "id", "name"}, ...]``."""
        return [{"index": c.index, "id": c.id, "name": c.name} for c in self.categories]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> CategoryTable:
        """Read back what :meth:`to_json` gave."""
        return cls(tuple(Category(int(r["index"]), int(r["id"]), str(r["name"])) for r in rows))

    def differences(self, other: CategoryTable) -> list[str]:
        """Say which of ``other``'s categories this table lacks by id *and* name; order is free."""
        mine = {category.id: category.name for category in self.categories}
        messages = []
        for category in other.categories:
            known = mine.get(category.id)
            if known is None:
                messages.append(f"category {category.id} {category.name!r} is unknown here")
            elif known != category.name:
                messages.append(
                    f"category {category.id} is {category.name!r} there and {known!r} here"
                )
        return messages
