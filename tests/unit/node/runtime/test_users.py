import pytest

from node.runtime.interface import RuntimeFailure, Security
from node.runtime.users import User, resolve

PASSWD = "root:x:0:0:root:/root:/bin/sh\n# comment\nwww:x:33:34:www:/var/www:/bin/false\nbroken:line\n"
GROUP = "root:x:0:\nwheel:x:10:root,www\ngit:x:900:www\nwww:x:34:\n"


@pytest.mark.parametrize(
    ("image_user", "security", "user"),
    [
        ("", Security(), User(0, 0, (0, 10), "/root")),
        ("www", Security(), User(33, 34, (10, 34, 900), "/var/www")),
        ("33", Security(), User(33, 34, (10, 34, 900), "/var/www")),
        ("www:git", Security(), User(33, 900, (10, 900), "/var/www")),
        ("5000", Security(), User(5000, 0, (0,), "/")),
        ("5000:6000", Security(), User(5000, 6000, (6000,), "/")),
        ("www:git", Security(run_as_user=1000), User(1000, 0, (0,), "/")),
        ("www", Security(run_as_group=7, supplemental_groups=(8,)), User(33, 7, (7, 8, 10, 900), "/var/www")),
    ],
)
def test_users_are_found_in_the_images_own_files(image_user, security, user):
    assert resolve(image_user, security, PASSWD, GROUP) == user


@pytest.mark.parametrize(
    ("image_user", "security", "why"),
    [
        ("ghost", Security(), "unable to find user 'ghost'"),
        ("www:ghosts", Security(), "unable to find group 'ghosts'"),
        ("", Security(run_as_non_root=True), "image will run as root"),
        ("www", Security(run_as_non_root=True), "non-numeric user"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(image_user, security, why):
    with pytest.raises(RuntimeFailure, match=why):
        resolve(image_user, security, PASSWD, GROUP)


def test_a_number_satisfies_run_as_non_root():
    assert resolve("33", Security(run_as_non_root=True), PASSWD, GROUP).uid == 33
    assert resolve("", Security(run_as_non_root=True, run_as_user=33), PASSWD, GROUP).uid == 33


def test_an_image_without_such_files_runs_as_root():
    assert resolve("", Security(), "", "") == User(0, 0, (0,), "/")
