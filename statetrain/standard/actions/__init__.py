"""The work of the standard lifecycle's states, and the effects of its arrows, by scope.

Each is a function of the context. They only call what the context holds, so this folder needs no
torch. Their docstrings are what the tables and the pictures say; what they declare of the context
is what the data flow is computed from. What does two things is composed of both with
`statetrain.contracts.composing.then`.
"""

from statetrain.standard.actions.batch import average_by_count as average_by_count
from statetrain.standard.actions.batch import average_window as average_window
from statetrain.standard.actions.batch import backward as backward
from statetrain.standard.actions.batch import close_batch as close_batch
from statetrain.standard.actions.batch import count_loss as count_loss
from statetrain.standard.actions.batch import grad_norm as grad_norm
from statetrain.standard.actions.batch import loss as loss
from statetrain.standard.actions.batch import open_batch as open_batch
from statetrain.standard.actions.batch import pred as pred
from statetrain.standard.actions.batch import read_batch as read_batch
from statetrain.standard.actions.batch import release_generators as release_generators
from statetrain.standard.actions.batch import weighed_backward as weighed_backward
from statetrain.standard.actions.drawing import AGAIN as AGAIN
from statetrain.standard.actions.drawing import count_batch as count_batch
from statetrain.standard.actions.drawing import draw as draw
from statetrain.standard.actions.drawing import draw_ahead as draw_ahead
from statetrain.standard.actions.drawing import draw_prefetched as draw_prefetched
from statetrain.standard.actions.drawing import open_train as open_train
from statetrain.standard.actions.drawing import seed_batch as seed_batch
from statetrain.standard.actions.ending import say_why as say_why
from statetrain.standard.actions.evaluating import DropData as DropData
from statetrain.standard.actions.evaluating import OpenData as OpenData
from statetrain.standard.actions.evaluating import ReopenData as ReopenData
from statetrain.standard.actions.evaluating import close_valid as close_valid
from statetrain.standard.actions.evaluating import count_valid_batch as count_valid_batch
from statetrain.standard.actions.evaluating import keep_pred as keep_pred
from statetrain.standard.actions.evaluating import seed_valid_batch as seed_valid_batch
from statetrain.standard.actions.evaluating import valid_draw as valid_draw
from statetrain.standard.actions.evaluating import valid_loss as valid_loss
from statetrain.standard.actions.late import add_to_mean as add_to_mean
from statetrain.standard.actions.late import count_finite_loss as count_finite_loss
from statetrain.standard.actions.late import drop_mask as drop_mask
from statetrain.standard.actions.late import raise_masked as raise_masked
from statetrain.standard.actions.late import report as report
from statetrain.standard.actions.late import settle as settle
from statetrain.standard.actions.late import stop_masked as stop_masked
from statetrain.standard.actions.late import tell_masked as tell_masked
from statetrain.standard.actions.late import update_finite as update_finite
from statetrain.standard.actions.pausing import pause as pause
from statetrain.standard.actions.refusing import ask_to_stop as ask_to_stop
from statetrain.standard.actions.refusing import discard_window as discard_window
from statetrain.standard.actions.refusing import end_epoch_early as end_epoch_early
from statetrain.standard.actions.refusing import hold as hold
from statetrain.standard.actions.refusing import hold_window as hold_window
from statetrain.standard.actions.refusing import note_refusal as note_refusal
from statetrain.standard.actions.refusing import put_buffers_back as put_buffers_back
from statetrain.standard.actions.refusing import raise_non_finite as raise_non_finite
from statetrain.standard.actions.refusing import refuse_batch as refuse_batch
from statetrain.standard.actions.refusing import stop_non_finite as stop_non_finite
from statetrain.standard.actions.running import begin as begin
from statetrain.standard.actions.running import close_epoch as close_epoch
from statetrain.standard.actions.running import count_epoch as count_epoch
from statetrain.standard.actions.running import drop_sums as drop_sums
from statetrain.standard.actions.running import open_epoch as open_epoch
from statetrain.standard.actions.running import record as record
from statetrain.standard.actions.running import reopen_epoch as reopen_epoch
from statetrain.standard.actions.scaling import scaled_backward as scaled_backward
from statetrain.standard.actions.scaling import unscale as unscale
from statetrain.standard.actions.stepping import count_round as count_round
from statetrain.standard.actions.stepping import count_step as count_step
from statetrain.standard.actions.stepping import replay as replay
from statetrain.standard.actions.stepping import select_first as select_first
from statetrain.standard.actions.stepping import select_next as select_next
from statetrain.standard.actions.stepping import step as step
from statetrain.standard.actions.stepping import update_weights as update_weights
