# SPDX-License-Identifier: Apache-2.0
"""Which version of a package is installed."""

from importlib import metadata


def installed_version(distribution: str) -> str:
  """The version of the distribution that installed a package.

  A package is installed by a distribution of its name, or together with the
  other two by the distribution `bionet`.

  Args:
    distribution: the package's distribution, e.g. 'bionet-core'.

  Returns:
    The version; '0+uninstalled' for source files that nothing installed.
  """
  for name in (distribution, 'bionet'):
    try:
      return metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  return '0+uninstalled'
