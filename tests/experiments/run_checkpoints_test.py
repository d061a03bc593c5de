# SPDX-License-Identifier: Apache-2.0
"""Which states a run keeps, and what a run starts from.

Truth: bitwise the states of other runs; borders counted by hand.
"""

import pytest

from bionet_learners.training import scoring as learner_scoring
from experiments import session
from experiments.judge import scoring
from experiments.runs import build, saved, updates
from tests.experiments import smoke

pytestmark = pytest.mark.usefixtures('compiled_once')


@pytest.fixture
def best(tmp_path, monkeypatch, no_figures, compiled_once):
  """A run of 12 updates that was best after 6; one checkpoint at its end."""
  config = smoke.config('copying')
  config.num_updates, config.log_every, config.eval_every = 12, 3, 3
  config.checkpoint_every, config.keep_last, config.keep_best = 0, 1, True
  make_score = learner_scoring.make_score

  def made(*args):
    real = make_score(*args)

    def score(state):
      scores, outputs, trials = real(state)
      accuracy = {0: 0, 3: 0.1, 6: 0.9, 9: 0.3, 12: 0.2}[int(state.step)]
      return {**scores, 'accuracy': accuracy}, outputs, trials

    return score

  with monkeypatch.context() as patch:
    patch.setattr(learner_scoring, 'make_score', made)
    smoke.run(config, tmp_path)
  return tmp_path


def test_the_best_checkpoint_stays(best, capsys):
  """Truth: bitwise the state of a run that ended after 6 updates.

  `evaluate --which=best` scores it, and `last` the one of update 12.
  """
  assert smoke.saved_steps(best) == [6, 12]
  run, state, step = saved.restore(best, 'best')
  assert step == 6
  advance = updates.make_advance_between(run)
  after, _ = advance(updates.place(run, updates.init(run)), 0, 3)
  after, _ = advance(after, 3, 6)
  assert smoke.bits(state) == smoke.bits(after)
  for which, step in (('best', 6), ('last', 12)):
    session.evaluate(str(best), which)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'{best}: {step} updates'
    run, state, _ = saved.restore(best, which)
    scores, _, _ = scoring.score_run(run, state)
    assert smoke.table(lines) == {k: f'{v:.4f}' for k, v in scores.items()}
    assert smoke.read_json(best / 'evaluation.json')['updates'] == step


@pytest.mark.parametrize(
  ('every', 'keep_last', 'kept'),
  [(2, 2, [4, 6]), (2, 1, [6]), (4, 5, [4, 6]), (0, 2, [6])],
)
def test_checkpoints_stand_where_they_are_asked_for(
  every, keep_last, kept, tmp_path, hollow
):
  """Truth: the multiples up to 6 and the end; the last of them, by hand."""
  config = smoke.config('copying')
  config.checkpoint_every, config.keep_last = every, keep_last
  smoke.run(config, tmp_path)
  assert smoke.saved_steps(tmp_path) == kept


@pytest.mark.parametrize(
  'name', ['copying', pytest.param('prototypes', marks=pytest.mark.slow)]
)
def test_a_run_starts_from_what_another_one_learned(
  name, finished, tmp_path, capsys
):
  """Truth: bitwise the other's parameters and constants; all else is fresh.

  Another seed would draw others, and another optimizer keeps another state.
  """
  other, config = finished(name), smoke.config(name)
  config.seed = 1
  config.optimizer.name = 'sgd'
  fresh = updates.init(build.build(config))
  config.init_from = str(other)
  capsys.readouterr()
  state, first = saved.begin(config, build.build(config), tmp_path)
  learned = smoke.final_state(other)
  assert first == int(state.step) == 0
  for part in ('params', 'constants'):
    assert smoke.bits(getattr(state, part)) == smoke.bits(
      getattr(learned, part)
    )
  assert smoke.bits(state.params) != smoke.bits(fresh.params)
  assert smoke.bits(state.opt_state) == smoke.bits(fresh.opt_state)
  assert smoke.bits(state.rule_state) == smoke.bits(fresh.rule_state)
  steps = int(learned.step)
  assert capsys.readouterr().out == (
    f'starting from the parameters of {other}, update {steps}\n'
  )
  assert list(tmp_path.iterdir()) == []


def test_its_own_checkpoint_comes_before_the_others_parameters(
  finished, tmp_path, no_figures
):
  """Truth: the run itself: what it has learned since is not thrown away."""
  config = smoke.config('copying')
  config.init_from = str(finished('copying'))
  smoke.run(config, tmp_path)
  state, first = saved.begin(config, build.build(config), tmp_path)
  assert first == 6
  assert smoke.bits(state) == smoke.bits(smoke.final_state(tmp_path))
  assert smoke.bits(state) != smoke.bits(smoke.final_state(finished('copying')))
