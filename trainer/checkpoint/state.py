"""The state of a training: every variable of model, optimizer and task, copied for a save and given back after one.

Beside them lie blobs, arrays of any shape by name: what the training remembers that is no variable.

Imports TensorFlow. Variables are known by their position, since Keras' paths are neither unique nor stable. Those that
differ between replicas (moving statistics of BatchNormalization, metrics in flight) are kept once for each replica. Nothing
that a save does writes to a variable.
"""

import contextlib
import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.checkpoint.replicas import Replicas, flat_bytes, raw, value_of
from trainer.checkpoint.restore import Restored
from trainer.checkpoint.snapshot import ALIGNMENT_BYTES, Item, SnapshotMemory, plan
from trainer.errors import ConfigError, OrchError
from trainer.exit_codes import ExitCode
from trainer.wire.writer import Tensor

_BLOB = "host/"
"""What the keys of blobs begin with."""
_DIFFERENCES_SHOWN = 20
# Statistics of normalisation layers and counters are smaller; a frozen kernel may be larger, and is equal everywhere.
_SMALL_BYTES = 1 << 20


class StatesDiffer(OrchError):
    """Workers that should hold the same weights do not."""

    code = ExitCode.LOST_PEER


@dataclass(frozen=True)
class _Slot:
    """One variable and where it stands."""

    key: str
    path: str
    variable: Any
    shape: tuple[int, ...]
    dtype: str
    may_differ: bool
    """Whether replicas may hold different values: nothing in training keeps these equal."""


class TrainingState:
    """All that a training must have to go on: every variable of model, optimizer and task."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.Optimizer | None,
        extra: Sequence[Any] = (),
        metrics: Sequence[Any] = (),
        blobs: Callable[[], Mapping[str, np.ndarray]] = dict,
    ) -> None:
        """`model` and `optimizer` are built.

        Args:
            extra: variables that are neither the model's nor the optimizer's, in a fixed order.
            metrics: the states of metrics within an epoch. An older checkpoint may lack them.
            blobs: gives what is to be saved beside the variables, by name; it is asked on the chief alone.
        """
        self._replicas = Replicas(strategy)
        self._blobs = blobs
        self.restored_blobs: dict[str, np.ndarray] = {}
        """Those of the checkpoint that was assigned; none of one that has none."""
        trainable = {id(variable) for variable in model.trainable_variables}
        known: set[int] = set()
        parts: list[tuple[str, Sequence[Any]]] = [
            ("model", model.variables),
            ("optimizer", optimizer.variables if optimizer is not None else []),
            ("metrics", metrics),
            ("task", extra),
        ]
        self._slots = [
            _slot(f"{part}/{index}", variable, may_differ=part == "task" or _may_differ(variable, part, trainable))
            for part, variables in parts
            for index, variable in enumerate(_once(variables, known))
        ]

    @property
    def variables(self) -> int:
        """How many there are."""
        return len(self._slots)

    def without(self, variables: Sequence[tf.Variable]) -> list[tf.Variable]:
        """Those of some plain variables that are not part of the state."""
        known = {id(component.handle) for slot in self._slots for component in self._replicas.components(slot.variable)}
        return [variable for variable in variables if id(variable.handle) not in known]

    @property
    def size_bytes(self) -> int:
        """Bytes that a save will need: what to reserve in the snapshot's memory before training begins.

        A save may need more when large variables that are not trained differ between replicas after all.
        """
        total = 0
        for slot in self._slots:
            size = int(np.prod(slot.shape)) * tf.as_dtype(slot.dtype).size
            copies = self._replicas.count if slot.may_differ and size <= _SMALL_BYTES else 1
            total += copies * (size + ALIGNMENT_BYTES)
        return total

    def copy(self, memory: SnapshotMemory | None) -> tuple[list[Tensor], int] | None:
        """Copy the state into `memory`: its layout, and the bytes used. With None, take part in the collective only.

        All workers call it after the same step; the chief gives its memory.

        Raises:
            ConfigError: a variable of a type that a checkpoint cannot hold.
            NotEnoughMemory: no room for the copy.
        """
        differing = self._differing()
        if memory is None:
            return None
        blobs = [
            Item(f"{_BLOB}{name}", f"{_BLOB}{name}", array.dtype.name, array.shape, partial(np.asarray, array))
            for name, array in self._blobs().items()
        ]
        if not differing and not blobs:
            memory.copy(self._items, *self._plan)
            return self._plan
        items: list[Item] = []
        for item in self._items:
            copies = differing.get(item.key)
            if copies is None:
                items.append(item)
            else:
                items += [
                    replace(item, key=f"{item.key}@replica/{replica}", read=partial(np.asarray, value))
                    for replica, value in enumerate(copies)
                ]
        items += blobs
        layout, size_bytes = plan(items)
        memory.copy(items, layout, size_bytes)
        return layout, size_bytes

    @functools.cached_property
    def _plan(self) -> tuple[list[Tensor], int]:
        return plan(self._items)

    @functools.cached_property
    def _items(self) -> list[Item]:
        """What a save copies where replicas do not differ. Made once: a state may have thousands of small variables."""
        return [
            Item(
                key=slot.key,
                path=slot.path,
                dtype=slot.dtype,
                shape=slot.shape,
                read=partial(value_of, self._replicas.components(slot.variable)[0]),
            )
            for slot in self._slots
        ]

    def assign(self, restored: Restored) -> None:
        """Give every variable its value back, and each replica its own where replicas differed.

        With another number of replicas all get the mean of what differed; of integers, replica 0's.

        Raises:
            ConfigError: the checkpoint does not fit the model; nothing was assigned.
        """
        copies = _by_slot(restored)
        self._check_fits(restored, copies)
        for slot in self._slots:
            if slot.key not in copies:
                continue  # a metric, of which an older checkpoint knows nothing
            values = copies[slot.key]
            if len(values) not in (1, self._replicas.count):
                values = [_mean(values)]
            self._assign_local(slot.variable, values)
        # Copies: what was read is let go.
        self.restored_blobs = blobs_of(restored)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within it, any variable may be changed; afterwards all are as before.

        Takes memory for what is changed alone: TensorFlow gives a variable new memory where somebody still holds its old value.
        """
        before = [
            (component, value_of(component))
            for slot in self._slots
            for component in self._replicas.components(slot.variable)
        ]
        yield
        for component, value in before:
            if not np.array_equal(flat_bytes(value), flat_bytes(value_of(component))):
                component.assign(value)

    def check_equal(self) -> None:
        """Compare what must be the same on all replicas. A collective: all workers call it, after a restore.

        Raises:
            StatesDiffer: some variable differs; the message names it.
        """
        slots = [slot for slot in self._slots if not slot.may_differ]
        table = self._replicas.checksums([slot.variable for slot in slots])
        for column in np.flatnonzero((table != table[0]).any(axis=0))[:1]:
            replica = int(np.flatnonzero(table[:, column] != table[0, column])[0])
            raise StatesDiffer(
                f"replica {replica} holds another value of {slots[column].path} than replica 0",
                remedy="If it happens again, train_step changes variables without combining them over replicas.",
            )

    def weights_sha256(self) -> str:
        """SHA-256 over all variables of model and optimizer: path, dtype, shape and bytes of each, in order of path.

        Ties go by position in model.variables, then optimizer.variables. Of variables that differ between replicas, the
        mean. A collective: all workers call it.
        """
        differing = self._differing()
        digest = hashlib.sha256()
        for slot in sorted(
            (slot for slot in self._slots if slot.key.startswith(("model/", "optimizer/"))), key=lambda slot: slot.path
        ):
            copies = differing.get(slot.key) or self._replicas.local_values(slot.variable)[:1]
            shape = ",".join(map(str, slot.shape))
            digest.update(f"{slot.path}\0{slot.dtype}\0{shape}\0".encode())
            digest.update(flat_bytes(_mean(copies)).data)
        return digest.hexdigest()

    @contextlib.contextmanager
    def mean_unsynchronised(self) -> Iterator[None]:
        """Within it, the model's variables that differ between replicas hold their mean on all; then each its own again.

        For evaluation, export and callbacks. What is given another value meanwhile keeps that. Integers (states of random
        seeds) stay as they are. A collective at its beginning: all workers enter it together.
        """
        own: list[tuple[Any, np.ndarray, list[np.ndarray]]] = []
        for slot, copies in self._unsynchronised():
            mean = _mean(copies)
            own.append((slot.variable, mean, [np.array(value) for value in self._replicas.local_values(slot.variable)]))
            self._assign_local(slot.variable, [mean])
        try:
            yield
        finally:
            for variable, mean, values in own:
                for component, value in zip(self._replicas.components(variable), values, strict=False):
                    if np.array_equal(flat_bytes(np.asarray(value_of(component))), flat_bytes(mean)):
                        component.assign(value)

    def settle(self) -> None:
        """As mean_unsynchronised, for good. A collective."""
        for slot, copies in self._unsynchronised():
            self._assign_local(slot.variable, [_mean(copies)])

    def _unsynchronised(self) -> list[tuple[_Slot, list[np.ndarray]]]:
        """Those variables of the model that differ between replicas and have a mean, with each replica's value."""
        slots = [
            slot
            for slot in self._slots
            if slot.may_differ and slot.key.startswith("model/") and tf.as_dtype(slot.dtype).is_floating
        ]
        return self._copies(slots)

    def _differing(self) -> dict[str, list[np.ndarray]]:
        """Every replica's value of those variables that differ just now, by key. The same keys on all workers."""
        return {slot.key: copies for slot, copies in self._copies([slot for slot in self._slots if slot.may_differ])}

    def _copies(self, slots: list[_Slot]) -> list[tuple[_Slot, list[np.ndarray]]]:
        """Of some variables that may differ, those that do, with every replica's value."""
        if self._replicas.count == 1 or not slots:
            return []
        table = self._replicas.checksums([slot.variable for slot in slots])
        chosen = [slot for slot, differs in zip(slots, (table != table[0]).any(axis=0), strict=True) if differs]
        return list(zip(chosen, self._replicas.gather_values([slot.variable for slot in chosen]), strict=True))

    def _assign_local(self, variable: Any, values: Sequence[np.ndarray]) -> None:
        """One value for all replicas, or one for each of them."""
        for local, component in enumerate(self._replicas.components(variable)):
            component.assign(values[self._replicas.local_ids[local]] if len(values) > 1 else values[0])

    def _check_fits(self, restored: Restored, copies: dict[str, list[np.ndarray]]) -> None:
        stored = {tensor.key.partition("@")[0]: tensor for tensor in restored.commit.tensors}
        any_metrics = any(key.startswith("metrics/") for key in stored)
        differences = [
            f"{slot.path}: is new in the model"
            for slot in self._slots
            if (slot.key not in stored or slot.key not in copies)
            and not (slot.key.startswith("metrics/") and not any_metrics)
        ]
        known = {slot.key for slot in self._slots}
        differences += [
            f"{tensor.path}: is no longer in the model"
            for key, tensor in stored.items()
            if key not in known and not key.startswith(_BLOB)
        ]
        for slot in self._slots:
            if (tensor := stored.get(slot.key)) is None:
                continue
            if tuple(tensor.shape) != slot.shape:
                differences.append(f"{slot.path}: shape {list(slot.shape)}, in the checkpoint {tensor.shape}")
            elif tensor.dtype != slot.dtype:
                differences.append(f"{slot.path}: dtype {slot.dtype}, in the checkpoint {tensor.dtype}")
            elif without_numbers(tensor.path) != without_numbers(slot.path):
                differences.append(f"{slot.path}: stands where the checkpoint has {tensor.path}")
        if differences:
            shown = differences[:_DIFFERENCES_SHOWN]
            if len(differences) > len(shown):
                shown.append(f"and {len(differences) - len(shown)} more")
            raise ConfigError(
                f"the checkpoint {restored.commit.ref.name} does not fit the model:\n  " + "\n  ".join(shown),
                remedy="Train the model that was saved, or start from nothing (--fresh, or another run.directory).",
            )


def blobs_of(restored: Restored) -> dict[str, np.ndarray]:
    """What lay beside the variables, by name."""
    return {key.removeprefix(_BLOB): np.array(array) for key, array in restored.arrays.items() if key.startswith(_BLOB)}


def without_numbers(path: str) -> str:
    """A Keras path without the numbers that Keras adds to names used before: sequential_1/dense_3 -> sequential/dense.

    They count what the process made earlier, and say nothing of the model.
    """
    return re.sub(r"_\d+(?=_|/|$)", "", path)


def _once(variables: Sequence[Any], known: set[int]) -> list[Any]:
    """Those that are not known yet; they are from then on."""
    fresh = []
    for variable in variables:
        if id(raw(variable)) not in known:
            known.add(id(raw(variable)))
            fresh.append(variable)
    return fresh


def _slot(key: str, variable: Any, *, may_differ: bool) -> _Slot:
    return _Slot(
        key=key,
        path=getattr(variable, "path", None) or variable.name.partition(":")[0],
        variable=variable,
        shape=tuple(int(size) for size in variable.shape),
        dtype=np.dtype(tf.as_dtype(variable.dtype).as_numpy_dtype).name,
        may_differ=may_differ,
    )


def _may_differ(variable: Any, part: str, trainable: set[int]) -> bool:
    # By synchronisation and aggregation alone nothing can be told: Keras 3 makes weights, Adam's moments and moving
    # statistics all with ON_WRITE and NONE. What the optimizer updates is equal, since gradients are combined before.
    if part == "metrics":
        return False  # every replica counts the global batch
    if getattr(raw(variable), "synchronization", None) == tf.VariableSynchronization.ON_READ:
        return True
    return part == "model" and id(variable) not in trainable


def _by_slot(restored: Restored) -> dict[str, list[np.ndarray]]:
    """The stored copies of each variable: one, or one for each replica in their order."""
    numbered: dict[str, dict[int, np.ndarray]] = {}
    for key, array in restored.arrays.items():
        base, _, replica = key.partition("@replica/")
        numbered.setdefault(base, {})[int(replica or 0)] = array
    return {base: [copies[index] for index in sorted(copies)] for base, copies in numbered.items()}


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of floats, in their own dtype; of anything else the first."""
    first = values[0]
    if first.dtype.kind in "iub" or len(values) == 1:
        return first
    wide = np.complex128 if first.dtype.kind == "c" else np.float64
    return np.asarray(np.mean([value.astype(wide) for value in values], axis=0)).astype(first.dtype)
