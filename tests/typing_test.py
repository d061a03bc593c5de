# SPDX-License-Identifier: Apache-2.0
"""What pyright says of code that users write against the public types.

`typing/accepted.py` must have no error; `typing/refused.py` must have one in
each line that ends in `# refused`, and none elsewhere.
"""

import json
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent / 'typing'
MARK = '# refused'


def marked():
  """`(file, line)` of each marked line, lines counted from 1."""
  return {
    (path.name, number)
    for path in FOLDER.glob('*.py')
    for number, line in enumerate(path.read_text().splitlines(), 1)
    if line.endswith(MARK)
  }


def test_pyright_accepts_what_fits_and_refuses_what_does_not():
  """Truth: the marks; each type has a line that fits and one that does not."""
  answer = subprocess.run(
    [
      *(sys.executable, '-m', 'pyright', '--outputjson'),
      *('--pythonpath', sys.executable, str(FOLDER)),
    ],
    cwd=FOLDER.parents[1],
    capture_output=True,
    text=True,
    check=False,
  )
  report = json.loads(answer.stdout)
  assert report['summary']['filesAnalyzed'] == 2
  found = {
    (pathlib.Path(note['file']).name, note['range']['start']['line'] + 1): note[
      'message'
    ]
    for note in report['generalDiagnostics']
    if note['severity'] == 'error'
  }
  unexpected = {at: found[at] for at in found.keys() - marked()}
  assert not unexpected
  assert not marked() - found.keys(), 'pyright accepts a line marked as refused'
  assert len(marked()) > 20
