# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints stay: those that restore, and never another in their place.

Truth: sets of steps by hand, and by a rule over all small cases.
"""

import hashlib
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import pytest

from bionet_learners.training import checkpoints, loop, stopping

STATE = {'w': jnp.arange(3.0)}


def fake(folder, step):
  """A folder whose one file is what its digests say: as whole as any."""
  path = folder / f'checkpoint_{step}'
  path.mkdir(parents=True)
  (path / 'file').write_bytes(b'1')
  digests = {'file': hashlib.sha256(b'1').hexdigest()}
  (path / 'digests.json').write_text(json.dumps(digests))
  return path


def emptied(path):
  shutil.rmtree(path)
  path.mkdir()


def without_a_file(path):
  (path / 'file').unlink()


def with_one_more(path):
  (path / 'more').write_bytes(b'1')


def flipped(path):
  (path / 'file').write_bytes(b'0')


def without_digests(path):
  (path / 'digests.json').unlink()


def with_half_digests(path):
  (path / 'digests.json').write_text('{"file": "')


def linked_to_nothing_whole(path):
  shutil.rmtree(path)
  (path.parent / 'empty').mkdir(exist_ok=True)
  path.symlink_to(path.parent / 'empty')


DAMAGES = [
  emptied,
  without_a_file,
  with_one_more,
  flipped,
  without_digests,
  with_half_digests,
  linked_to_nothing_whole,
]


@pytest.mark.parametrize('damage', DAMAGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize('keep_last, left', [(1, [6]), (2, [4, 6])])
def test_damaged_ones_do_not_count(tmp_path, damage, keep_last, left):
  """Truth: by hand, of 2, 4 and 6 whole, 3, 8 and 99 not.

  3 is older than the last few and goes with them; of the newer ones none does.
  """
  for step in (2, 3, 4, 6, 8, 99):
    fake(tmp_path, step)
  for step in (3, 8, 99):
    damage(tmp_path / f'checkpoint_{step}')
  checkpoints.prune(tmp_path, keep_last)
  assert checkpoints.all_steps(tmp_path) == [*left, 8, 99]


def expected(whole, keep_last, keep):
  """What stays of the steps 1 to 5, by the rule in words."""
  last = sorted(whole)[-keep_last:]
  if len(last) < keep_last:
    return {1, 2, 3, 4, 5}
  best = [step for step in keep if step in whole][:1]
  return {*range(last[0], 6), *best}


@pytest.mark.parametrize('keep_last', [1, 2, 3])
@pytest.mark.parametrize('keep', [(), (1,), (3, 1, 2), (9, 5, 4, 2)])
def test_the_rule_holds_for_any_damage(tmp_path, monkeypatch, keep_last, keep):
  """Truth: the rule, over every set of whole ones among 5.

  The best that stays is the best of those that restore; where that is one of
  the last few, no other stays for it.
  """

  def verify(path):
    if int(path.name.removeprefix('checkpoint_')) not in whole:
      raise checkpoints.CorruptCheckpointError

  monkeypatch.setattr(checkpoints, 'verify', verify)
  for pattern in itertools.product((0, 1), repeat=5):
    whole = {step for step, good in enumerate(pattern, start=1) if good}
    for step in range(1, 6):
      (tmp_path / f'checkpoint_{step}').mkdir(exist_ok=True)
    checkpoints.prune(tmp_path, keep_last, keep)
    left = set(checkpoints.all_steps(tmp_path))
    assert left == expected(whole, keep_last, keep), pattern
    # What must hold of any rule: none that restores went for one that does not.
    assert len(whole & left) >= min(keep_last, len(whole))


@pytest.mark.parametrize('number', ['007', '7', '+7', '07'])
def test_only_a_name_that_would_be_written_is_a_checkpoint(tmp_path, number):
  """Truth: the step that names it; another spelling is a user's folder."""
  fake(tmp_path, number)
  for step in (8, 9):
    fake(tmp_path, step)
  checkpoints.prune(tmp_path, 1)
  left = sorted(path.name for path in tmp_path.iterdir())
  assert left == ['checkpoint_9'] if number == '7' else len(left) == 2


def test_a_linked_checkpoint_is_pruned_and_its_target_stays(tmp_path):
  """Truth: the link alone is the folder's; a linked folder is pruned, too."""
  store, folder = tmp_path / 'store', tmp_path / 'checkpoints'
  (tmp_path / 'disk').mkdir()
  folder.symlink_to(tmp_path / 'disk')
  path = checkpoints.save_checkpoint(STATE, store, 1)
  for step in (1, 2):
    (folder / f'checkpoint_{step}').symlink_to(path)
  assert checkpoints.all_steps(folder) == [1, 2]
  checkpoints.prune(folder, 1)  # 2 is whole: it leads to a whole one
  assert checkpoints.all_steps(folder) == [2]
  # Written again, the link gives way; nothing is written through it.
  before = (path / 'digests.json').read_bytes()
  checkpoints.save_checkpoint({'w': jnp.ones(3)}, folder, 2)
  assert not (folder / 'checkpoint_2').is_symlink()
  assert [file.name for file in folder.iterdir()] == ['checkpoint_2']
  assert (path / 'digests.json').read_bytes() == before
  checkpoints.verify(path)


@pytest.mark.parametrize('there', ['a file', 'a link to nothing'])
def test_what_bears_the_name_of_a_checkpoint_gives_way(tmp_path, there):
  """Truth: the checkpoint that is saved."""
  path = tmp_path / 'checkpoint_3'
  if there == 'a file':
    path.write_text('1')
  else:
    path.symlink_to(tmp_path / 'nothing')
  checkpoints.save_checkpoint(STATE, tmp_path, 3)
  checkpoints.verify(path)
  assert [file.name for file in tmp_path.iterdir()] == ['checkpoint_3']


@pytest.mark.parametrize('step', [-1, 1.5])
def test_a_step_that_would_not_be_found_is_refused(tmp_path, step):
  """Truth: the message names it; nothing is written."""
  with pytest.raises(ValueError, match=f'^step={step}: must be a whole'):
    checkpoints.save_checkpoint(STATE, tmp_path / 'new', step)
  assert not (tmp_path / 'new').exists()


TABLE = [0.5, 0.9, 0.6, 0.8, 0.1, 0.2]


def trained(folder, num_epochs, **settings):
  """Epochs of one batch; the state counts them, a table scores them."""
  scores = jnp.float32(TABLE)
  return loop.train_loop(
    {'done': jnp.int32(0)},
    lambda state, batch, key: (
      {'done': state['done'] + 1},
      {'loss': jnp.float32(1)},
    ),
    [jnp.zeros(1)],
    num_epochs,
    num_batches=1,
    rng_key=jax.random.key(4),
    checkpoint_dir=folder,
    val_step_fn=lambda state, batch, key: (
      state,
      {'score': scores[state['done'] - 1]},
    ),
    val_data_iterator_fn=[jnp.zeros(1)],
    early_stopping=stopping.EarlyStopping('score'),
    keep_best=folder is not None,
    **settings,
  )


@pytest.mark.parametrize('keep_last', [1, 2])
def test_a_loop_goes_on_past_a_damaged_one_of_any_number(
  tmp_path, keep_last, capsys
):
  """Truth: the history of the uninterrupted loop; its last state is there.

  The best, of epoch 2, is damaged while the loop stands still, too: from then
  on the best that restores stays, that of epoch 4.
  """
  whole, history = trained(None, 6)
  folder = tmp_path / 'parts'
  trained(folder, 3, keep_last=keep_last)
  (folder / 'checkpoint_99').mkdir()
  (folder / 'checkpoint_5').mkdir()
  without_digests(folder / 'checkpoint_2')
  for num_epochs in (4, 6, 6):
    state, parts = trained(folder, num_epochs, keep_last=keep_last)
  assert int(state['done']) == int(whole['done']) == 6
  assert parts == history
  assert 'checkpoint_99 is damaged' in capsys.readouterr().err
  left = [*range(7 - keep_last, 7)]
  assert checkpoints.all_steps(folder) == sorted({*left, 4, 99})
  for step in {*left, 4}:
    checkpoints.verify(folder / f'checkpoint_{step}')
