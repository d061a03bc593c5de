# SPDX-License-Identifier: Apache-2.0
"""The README's Python does what the README says that it prints."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
NUMBER = re.compile(r'\d+\.?\d*')


def code_and_output():
  """The README's Python, and the block behind it."""
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  _, _, rest = text.partition('\n```python\n')
  code, _, rest = rest.partition('\n```\n')
  _, _, rest = rest.partition('\n```\n')
  return code, rest.partition('\n```\n')[0] + '\n'


def rounded(text):
  return [round(float(number), 2) for number in NUMBER.findall(text)]


def test_the_python_of_the_readme_prints_what_stands_there(tmp_path):
  """Truth: the README; the words are equal, and the numbers to two digits."""
  code, wanted = code_and_output()
  ran = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
  )
  assert ran.returncode == 0, ran.stderr
  assert NUMBER.sub('', ran.stdout) == NUMBER.sub('', wanted)
  assert rounded(ran.stdout) == rounded(wanted)
