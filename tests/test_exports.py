"""The public names of the three packages exist, and are imported when first used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import master_shim

PACKAGES = ("store", "master_shim", "trionode")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_is_there_once_and_in_order(package: str):
    module = importlib.import_module(package)
    exported: list[str] = module.__all__
    assert exported == sorted(set(exported), key=lambda name: (not name[0].isupper(), name))
    for name in exported:
        assert getattr(module, name) is not None


def test_the_names_users_write_are_exported():
    from master_shim import DirectoryPackages, MasterShim, MasterShimMiddleware
    from trionode import Settings, app, create_app, load_settings

    assert all(map(callable, (DirectoryPackages, MasterShim, MasterShimMiddleware)))
    assert all(map(callable, (Settings, app, create_app, load_settings)))


def test_the_shim_is_loaded_when_it_is_first_used():
    program = (
        "import sys, master_shim; before = 'master_shim.app' in sys.modules;"
        "master_shim.MasterShim; print(before, 'master_shim.app' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["False", "True"]


def test_a_name_that_is_not_exported_is_refused_in_words():
    with pytest.raises(AttributeError, match="module 'master_shim' has no attribute 'Nothing'"):
        master_shim.Nothing  # noqa: B018 - the look-up is the test


def test_importing_the_node_reads_no_setting():
    """`app` reads its settings at its first call, so that `hypercorn trionode:app` can report a wrong one."""
    program = "import trionode"
    environ = {"MAIN_SERVER_URL": "nonsense", "PATH": ""}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True, timeout=30)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed(package: str):
    from importlib.resources import files

    assert (files(package) / "py.typed").is_file()
