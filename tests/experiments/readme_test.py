# SPDX-License-Identifier: Apache-2.0
"""The README's Python does what the README says that it prints."""

import re

from tests.experiments import smoke

NUMBER = re.compile(r'\d+\.?\d*')


def code_and_output():
  """The README's Python, and the block behind it."""
  text = (smoke.REPO / 'README.md').read_text(encoding='utf-8')
  _, _, rest = text.partition('\n```python\n')
  code, _, rest = rest.partition('\n```\n')
  _, _, rest = rest.partition('\n```\n')
  return code, rest.partition('\n```\n')[0] + '\n'


def rounded(text):
  return [round(float(number), 2) for number in NUMBER.findall(text)]


def test_the_python_of_the_readme_prints_what_stands_there(tmp_path, command):
  """Truth: the README; the words are equal, and the numbers to two digits."""
  code, wanted = code_and_output()
  (tmp_path / 'readme.py').write_text(code, encoding='utf-8')
  ran = command(tmp_path / 'readme.py', cwd=tmp_path)
  assert ran['status'] == 0, ran['stderr']
  assert NUMBER.sub('', ran['stdout']) == NUMBER.sub('', wanted)
  assert rounded(ran['stdout']) == rounded(wanted)
