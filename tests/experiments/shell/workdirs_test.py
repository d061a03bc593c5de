# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what is found in it, and who may write there.

Truth: the spec of a run, and folders made here by hand.
"""

import json
import os

import pytest

from bionet_learners.training import environment, files
from bionet_tasks.temporal import copying as copying_task
from experiments.configs import copying as copying_config
from experiments.configs import prototypes as prototypes_config
from experiments.shell import workdirs

SPEC = copying_task.copying().spec


@pytest.fixture
def config():
  return copying_config.get_config('smoke')


def _content(folder) -> dict:
  return {
    path: path.read_bytes() for path in folder.rglob('*') if path.is_file()
  }


def _changed(path, **sections) -> None:
  """Changes entries of config.json's sections."""
  file = path / 'config.json'
  content = json.loads(file.read_text())
  for section, entries in sections.items():
    content[section].update(entries)
  file.write_text(json.dumps(content))


def test_what_stands_in_a_folder(config, tmp_path):
  """Truth: the three states of a folder, one after the other."""
  path = tmp_path / 'some' / 'run'
  assert workdirs.find(path, config) == ('nothing', ())
  assert not path.parent.exists()
  workdirs.create(path, config, SPEC)
  assert (path / 'figures').is_dir()
  before = _content(path)
  assert workdirs.find(path, config) == ('unfinished', ())
  assert _content(path) == before
  workdirs.write_json(path / 'result.json', {'updates': 6})
  assert workdirs.find(path, config) == ('finished', ())
  assert workdirs.read_result(path) == {'updates': 6}


def test_a_folder_of_other_things_holds_no_run(config, tmp_path):
  """Truth: what is no config.json."""
  (tmp_path / 'notes.txt').write_text('mine')
  (tmp_path / 'result.json').write_text('{}')
  assert workdirs.find(tmp_path, config).status == 'nothing'


def test_the_config_comes_back(config, tmp_path):
  """Truth: the config that was written."""
  workdirs.create(tmp_path, config, SPEC)
  assert workdirs.read_config(tmp_path).to_dict() == config.to_dict()
  with pytest.raises(FileNotFoundError, match=r'holds no run \(no config.json'):
    workdirs.read_config(tmp_path / 'figures')


def test_devices_may_differ(config, tmp_path):
  """Truth: the law that a run goes on on any number of them."""
  workdirs.create(tmp_path, config, SPEC)
  config.devices = 4
  assert workdirs.find(tmp_path, config) == ('unfinished', ())


@pytest.mark.parametrize(
  ('key', 'value', 'words'),
  [
    ('seed', 3, 'seed is 0 there and 3 here.'),
    ('network.hidden', 5, 'network.hidden is 8 there and 5 here.'),
    ('network.name', 'lstm', "network.name is 'gru' there and 'lstm' here."),
    ('keep_best', True, 'keep_best is False there and True here.'),
    (
      'early_stopping.min_delta',
      0.5,
      'early_stopping.min_delta is 0.0 there and 0.5 here.',
    ),
  ],
)
def test_the_difference_is_named(key, value, words, config, tmp_path):
  """Truth: the one value that was changed; every file stands as it stood."""
  workdirs.create(tmp_path, config, SPEC)
  before = _content(tmp_path)
  config.update_from_flattened_dict({key: value})
  with pytest.raises(ValueError) as error:
    workdirs.find(tmp_path, config)
  message = str(error.value)
  assert message.startswith(f'--workdir={tmp_path} holds a run of another')
  assert f'config: {words}' in message
  assert f'--config.init_from={tmp_path}' in message
  assert _content(tmp_path) == before


def test_the_first_of_many_differences_is_named(config, tmp_path):
  """Truth: the three keys, by their names; devices are none of them."""
  workdirs.create(tmp_path, config, SPEC)
  config.seed, config.devices = 3, 2
  config.network.hidden, config.batch_size = 5, 4
  with pytest.raises(
    ValueError, match=r'batch_size is 8 there and 4 here, and 2 more\. '
  ):
    workdirs.find(tmp_path, config)


def test_a_key_that_only_one_of_them_has_is_named(config, tmp_path):
  """Truth: the keys that the factories of two tasks have."""
  workdirs.create(tmp_path, config, SPEC)
  with config.unlocked():
    del config.task.time_lag
    config.task.number = 3
  with pytest.raises(ValueError, match=r"number is 'not set' there and 3 here"):
    workdirs.find(tmp_path, config)
  with config.unlocked():
    del config.task.number
  with pytest.raises(ValueError, match=r"lag is 2 there and 'not set' here\."):
    workdirs.find(tmp_path, config)


def test_a_config_equals_what_was_read_of_it(tmp_path):
  """Truth: itself, with tuples and references, which JSON does not know."""
  config = prototypes_config.get_config('smoke')
  with config.unlocked():
    config.task.sizes = (1, 2)
  workdirs.create(tmp_path, config, SPEC)
  assert workdirs.find(tmp_path, config).status == 'unfinished'


def test_what_changed_since_is_noted(config, tmp_path):
  """Truth: the versions and the device that were put there by hand."""
  workdirs.create(tmp_path, config, SPEC)
  now = environment.record()
  _changed(
    tmp_path,
    versions={'jax': '0.0.1', 'python': '2.7'},
    device={'kind': 'abacus', 'count': 5},
  )
  found = workdirs.find(tmp_path, config)
  assert found.status == 'unfinished'
  assert set(found.notes) == {
    f'jax was 0.0.1 and is {now["versions"]["jax"]}',
    f'python was 2.7 and is {now["versions"]["python"]}',
    f'device was abacus and is {now["device"]["kind"]}',
  }


def test_one_process_runs_in_a_folder(tmp_path):
  """Truth: the second is refused while the first is there, and not after."""
  path = tmp_path / 'a' / 'run'
  with (
    workdirs.locked(path),
    pytest.raises(ValueError, match=r'run: a process runs there now\.'),
    workdirs.locked(path),
  ):
    raise AssertionError('both are in')
  with workdirs.locked(path), workdirs.locked(tmp_path / 'other'):
    pass
  with pytest.raises(InterruptedError), workdirs.locked(path):
    raise InterruptedError
  with workdirs.locked(path):
    pass


@pytest.mark.parametrize('make', ['locked', 'create'])
def test_a_folder_below_a_file_cannot_be_made(make, config, tmp_path):
  """Truth: the operating system; the file stands."""
  file = tmp_path / 'file'
  file.write_text('mine')
  with pytest.raises(OSError):
    if make == 'create':
      workdirs.create(file / 'run', config, SPEC)
    else:
      with workdirs.locked(file / 'run'):
        raise AssertionError('locked')
  assert file.read_text() == 'mine'


@pytest.mark.parametrize('fails', ['fsync', 'replace'])
def test_a_file_is_whole_or_as_it_was(fails, tmp_path, monkeypatch):
  """Truth: the file from before, until all of the new one is on the disk."""
  path = tmp_path / 'result.json'
  workdirs.write_json(path, {'updates': 1})
  before = path.read_bytes()

  def fail(*_):
    assert path.read_bytes() == before
    raise OSError('no room')

  monkeypatch.setattr(files.os, fails, fail)
  with pytest.raises(OSError, match='no room'):
    workdirs.write_json(path, {'updates': 2})
  assert path.read_bytes() == before
  monkeypatch.undo()
  workdirs.write_json(path, {'updates': 2})
  assert json.loads(path.read_text()) == {'updates': 2}
  assert os.listdir(tmp_path) == ['result.json']
