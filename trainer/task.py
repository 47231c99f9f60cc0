"""Task: what a user writes, and how `file.py:Class` or `package.module:Class` becomes one.

Free of TensorFlow until a method of a task is called.
"""

import difflib
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError


class Task:
    """A model and its data. `model` and `train_data` are required; all else is optional.

    `params` of the job file arrive as arguments of the constructor. All variables that can be reached from the task's attributes
    and the model's (tf.Variable, keras.Variable, layers, metrics, a second optimizer, in lists, dicts and objects of your own;
    made in `model`) are saved and restored.
    """

    batched: bool | None = None
    """Whether the elements of datasets and generators are batches (True) or single examples (False). None: orch finds out, by the
    model's declared inputs; where it has none, by how a dataset was made and the shapes of its first element."""

    def model(self) -> Any:
        """The keras.Model to train, compiled or not. Of a compiled one, its own loss, optimizer and metrics are used.

        Called in the strategy's scope, after Keras' random state was seeded with train.seed.
        """
        raise ConfigError(f"{type(self).__name__} has no model()", remedy="Return a keras.Model from it.")

    def train_data(self) -> Any:
        """Training data, one of:

        - arrays: (x, y), (x, y, sample_weight), or a dict or an array when there is no y; x and y may be dicts, tuples or
          lists of arrays. Shuffled by orch from train.seed; the first dimension of each counts examples. NumPy arrays,
          tensors, sparse and ragged ones, pandas columns and frames, and texts are taken as Keras' fit takes them.
        - trainer.data.Examples, read by number when they are needed, or any object with a length and items by number, such
          as a dataset of Hugging Face or torch. Shuffled by orch as arrays are; each worker reads its own part alone. An
          object whose items are batches is read in its own order, as a generator of batches.
        - a tf.data.Dataset in its own order. One that shuffles is made anew by this method for each reading, seeded by
          train.seed, so that its order is that of a fresh dataset on every worker and after a restart.
        - a function that returns a generator, or this method as a generator itself. Called once an epoch; it must yield the
          same each time. numpy.random and random are seeded for it.
        - a keras.utils.PyDataset, taken batch by batch in the order of its numbers. Its on_epoch_end is called at the end of
          each epoch of training; an evaluation does not call it. Its `workers` are threads.

        A dataset or a generator gives single examples, or batches, which are used as they are (see `batched`): then
        train.global_batch_size does not count, and an epoch is one pass.

        After a restart, a dataset or a generator is read from its beginning up to where training was: arrays, Examples and
        PyDatasets have no such cost.
        """
        raise ConfigError(
            f"{type(self).__name__} has no train_data()",
            remedy="Return arrays (x, y), Examples, a tf.data.Dataset, a keras.utils.PyDataset, or a generator from it.",
        )

    def evaluation_data(self) -> Any:
        """Held-out data in one of the forms of train_data, or None. Every example counts exactly once, so it must end."""
        return None

    def loss(self) -> Any:
        """The loss: anything that model.compile takes. Needed unless the model is compiled, or trains by train_step."""
        return None

    def optimizer(self) -> Any:
        """The optimizer: anything that model.compile takes."""
        return "adam"

    def metrics(self) -> Any:
        """Metrics for training and evaluation: anything that model.compile takes."""
        return []

    def callbacks(self) -> Sequence[Any]:
        """keras.callbacks.Callback objects, on every worker, called as Keras' fit calls them and with the same logs.

        What they remember is part of every checkpoint, so that a restart does not show: attributes that are numbers, text,
        arrays, and lists and dicts of these. A warning names what cannot be kept. Of several workers the chief's write files
        and print. BackupAndRestore is not called: orch's checkpoints do its work. `model.stop_training = True` ends training
        at the end of the epoch or, set in a hook of a batch, of that step; the chief's counts. Where training ends within an
        epoch, on_epoch_end is called for what was trained of it.

        A callback that overrides a hook of batches is called for each of them: a block of steps is then one step, which
        costs a small model much of its speed. Hooks of epochs cost nothing. A callback may predict with the model; its
        evaluate is refused with several workers, where evaluation_data gives the numbers.
        """
        return []

    def train_step(self, model: Any, optimizer: Any, batch: Any) -> dict[str, Any]:
        """One update by a tf.GradientTape of your own; compiled, so write it with TensorFlow or keras.ops.

        Written as for one device: `batch` is the whole global batch, in the form that train_data gives. With several replicas
        each runs it; a layer that is called computes the replica's slice of what it is given and returns the outputs for all
        of it, and a tape gives the gradients of variables for the whole batch. So losses, clipping and metrics need no thought.

        Returns:
            Scalars by name. The result() of a keras.Metric goes on counting through an epoch; any other value is averaged
            over the steps of the epoch.
        """
        import keras
        import tensorflow as tf

        with tf.GradientTape() as tape:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
            loss = model.compute_loss(x, y, predict(model, batch, training=True), sample_weight)
            scaled = optimizer.scale_loss(loss)
        weights = model.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights, strict=True))
        return {"loss": loss}

    def evaluate_step(self, model: Any, batch: Any) -> dict[str, Any]:
        """An evaluation of your own: scalars over `batch` by name, without `val_`; averaged over all examples.

        Default: the model's test_step, which Keras gives every compiled model.
        """
        raise NotImplementedError

    def share(self, mean: Any) -> Any:
        """The mean itself. There for tasks of the time when a train_step saw its replica's part of the batch alone."""
        return mean


def predict(model: Any, batch: Any, *, training: bool) -> Any:
    """The model's predictions for a batch in one of Keras' forms: x, (x, y) or (x, y, sample_weight)."""
    import keras

    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return model(x, training=training) if getattr(model, "_call_has_training_arg", True) else model(x)


def overrides(task: Task, method: str) -> bool:
    """Whether the user's class has a method of its own."""
    return getattr(type(task), method) is not getattr(Task, method)


def model_overrides(model: Any, *methods: str) -> bool:
    """Whether the class of a keras.Model has one of the methods of its own."""
    import keras

    return any(getattr(type(model), method) is not getattr(keras.Model, method) for method in methods)


def load_task(name: str, params: Mapping[str, Any], root: str | Path | None = None) -> Task:
    """The task of a job file: its class found, imported and constructed.

    Args:
        name: `file.py:Class`, the path relative to `root`, or `package.module:Class`.
        params: arguments for the constructor.
        root: the job file's folder; default: the working directory.

    Raises:
        ConfigError: no such file, module or class; it does not import (the cause is what the user's code raised); not a
            Task; parameters that the constructor does not take.
    """
    source, _, class_name = name.rpartition(":")
    folder = Path(root or ".").resolve()
    module = _from_file(folder, source) if source.endswith(".py") or "/" in source else _from_package(folder, source)
    found = getattr(module, class_name, None)
    if found is None:
        remedy = _nearest(class_name, module)
        if _means_own_trainer(source, folder):
            remedy = f"trainer is orch's own package; one of yours is loaded by file: {_as_file(source)}:{class_name}"
        raise ConfigError(f"{source} has no class {class_name}", remedy=remedy)
    if not inspect.isclass(found) or not issubclass(found, Task):
        raise ConfigError(
            f"{name} is not a Task", remedy=f"Write `class {class_name}(Task)` with `from trainer.task import Task`."
        )
    _check_params(found, params, name)
    return found(**params)


def _from_file(folder: Path, source: str) -> types.ModuleType:
    path = (folder / source).resolve()
    if not path.is_file():
        beside = [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(f"there is no file {path}", remedy=f"{hint}train.task is relative to the job file's folder.")
    # Last on sys.path, so that a user's package called `trainer` or `tensorflow` never stands in for the real one.
    for place in (str(path.parent), str(folder)):
        if place not in sys.path:
            sys.path.append(place)
    # By a name of its own, unless an import of that name would find this very file: a task that imports its own module
    # (for keras.saving, or pickling) then gets the same objects.
    module_name = path.stem if _finds(path) else f"orch_task_{path.stem}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file", remedy="Write train.task as file.py:Class.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise _does_not_import(source, error) from error
    return module


def _finds(path: Path) -> bool:
    """Whether `import stem` would load the file at `path`."""
    try:
        spec = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path


def _from_package(folder: Path, source: str) -> types.ModuleType:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        # A module that the user's module lacks is the user's error, with its traceback; the module itself is ours to explain.
        if error.name is None or not (source == error.name or source.startswith(f"{error.name}.")):
            raise _does_not_import(source, error) from error
        remedy = (
            f"A package of yours that is called trainer is loaded by file: {_as_file(source)}:Class"
            if source.partition(".")[0] == "trainer"
            else f"It is neither installed nor in {folder}. A file is written with its ending: file.py:Class"
        )
        raise ConfigError(f"there is no module {source}", remedy=remedy) from None
    except Exception as error:
        raise _does_not_import(source, error) from error


def _means_own_trainer(source: str, folder: Path) -> bool:
    """Whether a module of `trainer`, which is orch's, is one of a package of the user's as well."""
    return source.partition(".")[0] == "trainer" and (folder / _as_file(source)).is_file()


def _as_file(source: str) -> str:
    return f"{source.replace('.', '/')}.py"


def _does_not_import(source: str, error: Exception) -> ConfigError:
    return ConfigError(f"{source} does not import: {type(error).__name__}: {error}")


def _nearest(class_name: str, module: types.ModuleType) -> str:
    tasks = [
        key
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Task) and value is not Task
    ]
    near = difflib.get_close_matches(class_name, tasks, 1)
    if near:
        return f"Did you mean {near[0]}?"
    return f"Its tasks: {', '.join(sorted(tasks))}" if tasks else "It defines no Task."


def _check_params(found: type[Task], params: Mapping[str, Any], name: str) -> None:
    # object's own constructor shows (*args, **kwargs), which would take anything.
    takes_none = found.__init__ is object.__init__
    signature = inspect.Signature() if takes_none else inspect.signature(found)
    try:
        signature.bind(**params)
    except TypeError as error:
        taken = [str(parameter) for parameter in signature.parameters.values()]
        raise ConfigError(
            f"train.params does not fit {name}: {error}",
            remedy=f"It takes: {', '.join(taken)}" if taken else "It takes no parameters.",
        ) from None
