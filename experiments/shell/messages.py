# SPDX-License-Identifier: Apache-2.0
"""What an error says to a user: one sentence, without its traceback."""

from collections.abc import Collection

from bionet_core import plugins


def text(error: BaseException) -> str:
  """The sentence of an error."""
  if isinstance(error, OSError) and error.strerror and error.filename:
    return f'{error.filename}: {error.strerror}'
  first = error.args[0] if len(error.args) == 1 else None
  if isinstance(first, KeyError):  # ml_collections raises AttributeError of it
    return text(first)
  # str() of a KeyError is the repr of its argument, newlines escaped.
  sentence = str(first or error) or type(error).__name__
  key, *hint = sentence.split('\n')
  if isinstance(error, KeyError) and ' ' not in key:  # nothing but the key
    if not key.startswith("'"):  # a dict's; ml_collections quotes its own
      return f'there is no key {key!r}.'
    return ' '.join([f'the config has no key {key}.', *hint])
  return sentence


def no_key(section: str, key: str, known: Collection[str]) -> str:
  """The sentence for a key that a section of a config lacks."""
  choices = f'are: {", ".join(known)}.' if known else 'is none.'
  return (
    f'{section} has no key {key!r}.{plugins.near(key, known)} There {choices}'
  )
