"""Profile: where the time of a run goes, by state and by callback."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define

from statetrain.callback import Call, Callback
from statetrain.checkpoints.progress import is_fresh
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import START

if TYPE_CHECKING:
    from statetrain.context.context import Context

ProfileRow = dict[str, Any]

_WAITING = ("draw", "valid_draw", "predict_draw")  # the roles of states that draw batches


@define(eq=False)
class _Spent:
    """What one kind of work has taken."""

    seconds: float = 0.0
    calls: int = 0


class Profile(Callback):
    """Measures how long each state and each hook of a callback takes.

    A state's seconds are those of its action, of the guards that are asked in it, and of the
    effects of the arrows out of it. The state `draw` draws a batch and places it, so its seconds
    are waiting for data. What belongs to no state (the machine's own work, and that of measuring)
    is the rest of `total`.

        profile = st.Profile()
        st.fit(..., callbacks=[profile])
        print(profile)

    The rows of the history get the columns `seconds_train` and `seconds_valid`: what was spent in
    training, and in validation and other evaluations, since the row before.

    A run that is resumed from a checkpoint keeps counting: what was measured before is saved
    with it.

    Of several ranks, rank 0 measures, and tells how many seconds each rank has spent in the
    meetings of all, see `waited`.

    On a device, work that was only queued costs nothing where it is queued, and its time where
    something waits for it. Calls are wrapped when the machine is made, so a run that does not
    measure is not slowed down.

    Args:
        clock: seconds from any moment on.
    """

    ranks = "first"

    reads = {
        "on_transition": ("epoch?",),
        "on_resume": ("state", "machine"),
        "on_enter_record": ("row_due",),
        "on_exit_record": ("news",),
    }
    writes = {"on_enter_record": ("history.seconds_train", "history.seconds_valid")}
    anywhere = True

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        # By state and hook; the state's own work has no hook
        self._spent: dict[tuple[str, str], _Spent] = {}
        self._began: float | None = None
        self._waiting: set[str] = set()  # the states in which batches are drawn
        self._reset()

    def _reset(self) -> None:
        for spent in self._spent.values():  # those who measure hold on to them
            spent.seconds, spent.calls = 0.0, 0
        self._visits: dict[str, int] = {}
        self._waited: list[dict[str, float]] = []  # by rank
        self._total = 0.0
        self._opened: dict[str, float] = {}  # when a scope was
        self._in: dict[str, float] = {}  # seconds since the last row

    # ------------------------------------------------------------ measuring

    def check_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Notes in which states the run waits for data."""
        self._waiting |= {state.name for state in lifecycle.by_role(*_WAITING)}

    def wrap_call(self, function: Call, state: str, hook: str) -> Call:
        """The function, with the time that it takes added to its state's or its hook's."""
        if hook.startswith("Profile.") or state == START:
            return function
        spent, clock = self._spent.setdefault((state, hook), _Spent()), self._clock

        def measured(ctx: Context) -> Any:
            began = clock()
            try:
                return function(ctx)
            finally:
                spent.seconds += clock() - began
                spent.calls += 1

        return measured

    def on_transition(self, ctx: Context) -> None:
        """Counts the visit; the first arrow of a run starts its time."""
        if self._began is None:
            if is_fresh(ctx):
                self._reset()
            self._begin(ctx)
        dest = ctx.transition.dest
        self._visits[dest] = self._visits.get(dest, 0) + 1

    def on_resume(self, ctx: Context) -> None:
        """Keeps counting; the scopes that are open were entered before."""
        self._begin(ctx)
        still_open = [role for role in ("train", "valid") if ctx.scope(role)]
        self._opened = dict.fromkeys(still_open, self._clock())

    def _begin(self, ctx: Context) -> None:
        self._began = self._clock()
        ctx.defer(self._stop)

    def _stop(self) -> None:
        assert self._began is not None
        self._total, self._began = self.total, None
        self._opened.clear()

    # ------------------------------------------------------------ columns of the history

    def on_enter_train(self, ctx: Context) -> None:
        """Training begins, or begins again."""
        self._opened["train"] = self._clock()

    def on_exit_train(self, ctx: Context) -> None:
        """Training pauses or ends."""
        self._close("train")

    def on_enter_valid(self, ctx: Context) -> None:
        """Validation begins."""
        self._opened["valid"] = self._clock()

    def on_exit_valid(self, ctx: Context) -> None:
        """Validation ends."""
        self._close("valid")

    def on_enter_record(self, ctx: Context) -> None:
        """Logs what was spent in both, if there will be a row."""
        if ctx.row_due:
            for name, seconds in self._in.items():
                ctx.log_metric(f"seconds_{name}", seconds, set="")
            self._in.clear()

    def on_exit_record(self, ctx: Context) -> None:
        """Notes what the ranks have told each other."""
        if ctx.news is not None:
            self._waited = ctx.news.waited

    def _close(self, scope: str) -> None:
        now = self._clock()
        self._in[scope] = self._in.get(scope, 0.0) + now - self._opened.pop(scope, now)

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """What has been measured so far."""
        now = self._clock()
        since = {
            name: self._in.get(name, 0.0) + now - self._opened.get(name, now)
            for name in sorted({*self._in, *self._opened})
        }
        spent = [
            [state, hook, one.seconds, one.calls]
            for (state, hook), one in self._spent.items()
            if one.calls
        ]
        return {
            "total": self.total,
            "visits": dict(self._visits),
            "spent": spent,
            "since the last row": since,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._reset()
        self._total, self._visits, self._in = (
            state["total"],
            dict(state["visits"]),
            dict(state["since the last row"]),
        )
        for where, hook, seconds, calls in state["spent"]:
            spent = self._spent.setdefault((where, hook), _Spent())
            spent.seconds, spent.calls = seconds, calls

    # ------------------------------------------------------------ results

    @property
    def total(self) -> float:
        """Seconds that the run has taken, including earlier fits and the run that it resumes."""
        return self._total + (0.0 if self._began is None else self._clock() - self._began)

    @property
    def waiting(self) -> float:
        """Seconds in which the run waited for data."""
        return sum(
            spent.seconds
            for (state, hook), spent in self._spent.items()
            if state in self._waiting and not hook
        )

    @property
    def waited(self) -> dict[str, list[float]]:
        """Seconds that each rank has spent in meetings up to the last row, by what they are for.

        The lists are in the order of ranks; there are none in one process. What is reduced while
        it is computed has the seconds of computing in them: "reduce the gradients" those of the
        backward pass, "gather the weights", of `FSDP`, those of the forward pass. They are of this
        process, without what came before it was resumed.
        """
        meetings = dict.fromkeys(word for rank in self._waited for word in rank)
        return {word: [rank.get(word, 0.0) for rank in self._waited] for word in meetings}

    def table(self) -> list[ProfileRow]:
        """How long each part took, the longest first.

        Returns:
            Rows of `state`, `hook` (`<callback>.<hook>`, or empty for the state's own work),
            `visits` of the state or calls of the hook, `seconds`, and `share` of the total, from 0
            to 1.
        """
        total = self.total
        rows: list[ProfileRow] = [
            {
                "state": state,
                "hook": hook,
                "visits": spent.calls if hook else self._visits.get(state, 0),
                "seconds": spent.seconds,
                "share": spent.seconds / total if total else 0.0,
            }
            for (state, hook), spent in self._spent.items()
            if spent.calls
        ]
        return sorted(rows, key=lambda row: row["seconds"], reverse=True)

    def _repr_html_(self) -> str:
        from statetrain.notebook import table

        rows = [
            [
                row["state"],
                row["hook"],
                f"{row['visits']:,}",
                f"{row['seconds']:.4f}",
                f"{row['share']:.1%}",
            ]
            for row in self.table()
        ]
        head = ("state", "hook", "visits", "seconds", "share")
        return table(head, rows, repr(self)[1:-1], first=20, last=0)  # the longest come first

    def __repr__(self) -> str:
        return f"<Profile: {self.total:.3g} s, {self.waiting:.3g} s of them waiting for data>"

    def __str__(self) -> str:
        """The table for a person."""
        head = ("state", "hook", "visits", "seconds", "share")
        lines = [
            head,
            *(
                (
                    row["state"],
                    row["hook"],
                    str(row["visits"]),
                    f"{row['seconds']:.4f}",
                    f"{row['share']:.1%}",
                )
                for row in self.table()
            ),
        ]
        rest = self.total - sum(row["seconds"] for row in self.table())
        lines += [
            ("the rest", "", "", f"{rest:.4f}", f"{rest / self.total if self.total else 0.0:.1%}"),
            ("total", "", "", f"{self.total:.4f}", ""),
        ]
        text = _aligned(lines, 2)
        if self._waited:
            ranks = [f"rank {rank}" for rank in range(len(self._waited))]
            rows = [
                [word, *(f"{seconds:.4f}" for seconds in by_rank)]
                for word, by_rank in self.waited.items()
            ]
            text += "\n\n" + _aligned([["seconds in meetings", *ranks], *rows], 1)
        return text


def _aligned(lines: Sequence[Sequence[str]], left: int) -> str:
    """A table in text, whose first columns are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
