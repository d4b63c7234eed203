"""MLflow: logs for MLflow."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statetrain import jsons
from statetrain.callback import Callback
from statetrain.callbacks.logger import Counters, Items, alone
from statetrain.errors import ConfigError
from statetrain.logs.loggables import Audio, File, Histogram, Image, Loggable, Settings, Text, Value
from statetrain.logs.sources import Source
from statetrain.naming import encodable
from statetrain.outcome import Failed, Interrupted, Outcome

if TYPE_CHECKING:
    from statetrain.context.context import Context

_STATUS: dict[type, str] = {Failed: "FAILED", Interrupted: "KILLED"}
_NO_CURVES = ("step", "epoch_complete")
_AT_ONCE = 100  # parameters that a store takes in one request
_LONGEST = 240  # characters of a name


class MLflow(Callback):
    """Writes each row of the history as metrics of a run of MLflow, at the number of steps.

    Among the callbacks it logs the history; in a `Logger`, what that is told to: numbers as
    metrics, settings as parameters, and arrays, texts, pictures, sounds and files as artifacts, in
    a folder for each name. Of characters that MLflow allows in no name, there stands the number:
    `=` is `_x3d_`.

    A run that is continued is the same one to MLflow. What an interrupted process wrote after the
    point where it goes on cannot be taken back; the steps where it did go on are a tag,
    `resumed_at_steps`.

    Args:
        experiment: its name; it is made if it is missing.
        name: the run's name; None lets MLflow find one.
        uri: the store: a local database, with artifacts in a folder `mlruns` next to it; or the
            address of a server.
        tags: of the run.

    Raises:
        ImportError: MLflow is not installed.
    """

    ranks = "first"
    anywhere = True  # it logs what is there
    reads = ("step",)  # the axis of its curves

    takes: frozenset[type] = frozenset({Value, Text, Image, Audio, File, Settings})
    what: tuple[Source, ...] = ()

    def __init__(
        self,
        experiment: str = "statetrain",
        name: str | None = None,
        *,
        uri: str = "sqlite:///mlflow.db",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise ImportError(
                "MLflow needs mlflow; install it with: pip install 'statetrain[mlflow]'"
            )
        self.experiment, self.name, self.uri, self.tags = (
            experiment,
            name,
            str(uri),
            dict(tags or {}),
        )
        self._client: Any = None
        self._run: str | None = None
        self._resumed_at: list[int] = []
        self.wrapped = alone(self)

    def redirect(self, folder: Path) -> None:
        """Writes into a database in another folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"

    def check_context(self, ctx: Context) -> None:
        """Checks that the store can be reached."""
        self.check()

    # ------------------------------------------------------------ what a logger calls

    def check(self) -> None:
        """Checks that the store can be reached."""
        try:
            self._connect()
        except Exception as error:  # whatever a store may raise, it is no use
            raise ConfigError(
                f"MLflow cannot use the store {self.uri!r}: {type(error).__name__}:"
                f" {f'{error}'.strip()}"
            ) from error

    def _connect(self) -> tuple[Any, str]:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        found = client.get_experiment_by_name(self.experiment)
        return client, str(
            client.create_experiment(self.experiment, self._artifacts())
            if found is None
            else found.experiment_id
        )

    def _artifacts(self) -> str | None:
        """The folder for artifacts of a local database: next to it.

        MLflow would take the folder in which the process was started.
        """
        if not self.uri.startswith("sqlite:///"):
            return None
        return (
            Path(self.uri.removeprefix("sqlite:///")).resolve().parent
            / "mlruns"
            / _safe(self.experiment)
        ).as_uri()

    def open(self, ctx: Context, fresh: bool) -> bool:
        """Begins a run, or continues one."""
        self._client, experiment = self._connect()
        if fresh:
            self._run, self._resumed_at = None, []
        if self._run is not None:
            self._resumed_at.append(ctx.step)
            self._client.set_tag(
                self._run, "resumed_at_steps", ", ".join(map(str, self._resumed_at))
            )
            self._client.update_run(self._run, status="RUNNING")
            return True
        self._run = self._client.create_run(
            experiment, run_name=self.name, tags=self.tags
        ).info.run_id
        return fresh

    def log(self, items: Items, counters: Counters) -> None:
        """Writes metrics, parameters and artifacts."""
        from mlflow.entities import Metric

        step, now = int(counters["step"]), int(time.time() * 1000)
        numbers = _numbers_in(items, counters)
        metrics = [Metric(name, float(number), now, step) for name, number in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)
        for name, item in items.items():
            if isinstance(item, Settings):
                self._log_settings(item)
            elif not _is_number(item):
                self._log_file(name, item, step)

    def _log_settings(self, settings: Settings) -> None:
        from mlflow.entities import Param

        values = settings.data.items()
        params = [Param(_safe(key), encodable(str(value))[:6000]) for key, value in values]
        for i in range(0, len(params), _AT_ONCE):
            self._client.log_batch(self._run, params=params[i : i + _AT_ONCE])

    def _log_file(self, name: str, item: Loggable, step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = _write_file(item, Path(folder), step)
            self._client.log_artifact(self._run, str(file), _safe(name))

    def close(self, outcome: Outcome | None) -> None:
        """Ends the run."""
        client, self._client = self._client, None
        if client is not None:
            client.set_terminated(self._run, _STATUS.get(type(outcome), "FINISHED"))

    def state_dict(self) -> dict[str, Any]:
        """The run's name within MLflow, and where it was continued."""
        return {"run": self._run, "resumed_at": list(self._resumed_at)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._run, self._resumed_at = state["run"], list(state["resumed_at"])

    def __repr__(self) -> str:
        return f"MLflow({self.experiment!r}, uri={self.uri!r})"


def _numbers_in(items: Items, counters: Counters) -> dict[str, Any]:
    """The numbers that become curves; counters too, unless there are settings alone."""
    numbers: dict[str, Any] = {}
    if not all(isinstance(item, Settings) for item in items.values()):
        numbers = {name: count for name, count in counters.items() if name not in _NO_CURVES}
    for name, item in items.items():
        if isinstance(item, Value) and item.number is not None:
            numbers[_safe(name)] = item.number
    return numbers


def _is_number(item: Loggable) -> bool:
    return isinstance(item, Value) and item.number is not None


def _write_file(item: Loggable, folder: Path, step: int) -> Path:
    """A file with what is not a number."""
    file = folder / f"step_{step}"
    match item:
        case Image():
            file = file.with_suffix(".png")
            file.write_bytes(item.png())
        case Audio():
            file = file.with_suffix(".wav")
            file.write_bytes(item.wav())
        case Text():
            file = file.with_suffix(".txt")
            file.write_text(encodable(item.data), encoding="utf-8")
        case File():
            file = folder / f"step_{step}_{_safe(item.path.name)}"
            shutil.copyfile(item.path, file)
        case Value():
            file = file.with_suffix(".json")
            file.write_text(jsons.dumps(jsons.jsonable(item.data)), encoding="utf-8")
        case Histogram() | Settings():
            raise AssertionError("these are no files")
    return file


def _safe(name: str) -> str:
    """A name that MLflow takes: letters, digits and a few signs between slashes, no `..`."""
    parts = [
        re.sub(r"[^A-Za-z0-9_.\- ]", lambda found: f"_x{ord(found[0]):x}_", part)
        for part in name.split("/")
    ]
    return (
        "/".join(re.sub(r"^\.|\.\.|^ +$", "_x2e_", part) for part in parts if part)[:_LONGEST]
        or "_"
    )
