# SPDX-License-Identifier: Apache-2.0
"""Sections of a config as keyword arguments, and what is wrong with them."""

import difflib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping

import ml_collections

NOTHING: Mapping[str, object] = types.MappingProxyType({})


def plain(settings: ml_collections.ConfigDict | Mapping) -> dict:
  """A section of a config as a dict."""
  is_config = isinstance(settings, ml_collections.ConfigDict)
  return settings.to_dict() if is_config else dict(settings)


def check_keywords(
  factory: Callable,
  section: str,
  name: str,
  keywords: Mapping[str, object],
  handed: Mapping[str, object] = NOTHING,
) -> None:
  """Raises TypeError for a keyword that a factory lacks, or one it lacks.

  Args:
    factory: what will be called.
    section: the config's section, for messages.
    name: the factory's name there.
    keywords: what the config gives.
    handed: what is given beside.
  """
  parameters = [
    p
    for p in inspect.signature(factory).parameters.values()
    if p.name not in handed
  ]
  known = [
    p.name
    for p in parameters
    if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
  ]
  for keyword in keywords:
    if keyword not in known:
      raise TypeError(
        f'{section}.{keyword} is no setting of {name!r}.'
        f'{near(keyword, known)} To start from its own settings, use '
        '--config=experiments/configs/compose.py:TASK,NETWORK,LEARNER.'
      )
  for p in parameters:
    needed = p.kind is p.KEYWORD_ONLY and p.default is p.empty
    if needed and keywords.get(p.name) is None:
      raise TypeError(
        f'{section}.{p.name} has no default; {name!r} needs a value.'
      )


def near(word: str, known: Iterable[str]) -> str:
  """A suggestion for a misspelt word, or nothing."""
  matches = difflib.get_close_matches(word, list(known), n=1)
  return f' Did you mean {matches[0]!r}?' if matches else ''
