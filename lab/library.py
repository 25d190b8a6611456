"""The images that a lab's registry holds from the start: busybox, and the guestbook of `examples/guestbook`.

They are built from Debian's statically linked busybox when a lab is raised; the same files give the same digests.
The registry has one more name, docker.io: nodes find `busybox` there as they would in the wide world.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from lab import images
from lab.balancer import enter_network
from lab.images import BuiltImage, File
from lab.topology import REGISTRY_ADDRESS, REGISTRY_PORT, LabError, Topology

REGISTRY_START_S = 30.0  # it answers within a fraction of a second unless the machine is busy
PATH = "PATH=/usr/local/bin:/usr/bin:/bin"

# The store keeps entries in a file, one a line, newest last; GET lists them, POST adds one.
STORE_ENTRIES = b"""#!/bin/sh
if [ "$REQUEST_METHOD" = POST ]; then
    entry=$(head -c "${CONTENT_LENGTH:-0}" | tr -d '\\r' | tr '\\n' ' ' | head -c 200)
    [ -n "$entry" ] && printf '%s\\n' "$entry" >> /data/entries
fi
printf 'Content-Type: text/plain\\r\\n\\r\\n'
cat /data/entries 2>/dev/null
exit 0
"""
STORE_START = b"""#!/bin/sh
echo "guestbook store on $(hostname), entries in /data"
mkdir -p /data
trap 'kill $!; echo "guestbook store stops"; exit 0' TERM INT
httpd -f -vv -p 6380 -h /srv &
wait $!
"""

# The frontend answers every request with who it is and what the store holds; ?entry=... signs the book.
# (`timeout wget`, because wget -T of Debian 12's busybox ends in a segmentation fault.)
FRONTEND_PAGE = b"""#!/bin/sh
store=http://store:6380/cgi-bin/entries
entry=$(httpd -d "$(printf '%s' "$QUERY_STRING" | sed -n 's/^entry=//p' | tr '+' ' ')")
if [ -n "$entry" ]; then
    entries=$(timeout 3 wget -q -O - --post-data "$entry" "$store") || problem=yes
else
    entries=$(timeout 3 wget -q -O - "$store") || problem=yes
fi
printf 'Content-Type: text/plain\\r\\n\\r\\n'
printf '%s, says %s (%s)\\n' "${GREETING:-Hello}" "$(hostname)" "$VERSION"
[ -n "$problem" ] && echo "the store does not answer at $store"
printf '%s\\n' "$entries" | sed '/^$/d; s/^/  * /'
exit 0
"""
FRONTEND_INDEX = b"""#!/bin/sh
exec /srv/cgi-bin/guestbook
"""
FRONTEND_START = b"""#!/bin/sh
echo "guestbook frontend $VERSION on $(hostname), port 8080"
trap 'kill $!; echo "guestbook frontend stops"; exit 0' TERM INT
httpd -f -vv -p 8080 -h /srv &
wait $!
"""


def _frontend(base: list[File], version: str) -> BuiltImage:
    files = [
        File("/srv/cgi-bin/guestbook", FRONTEND_PAGE, 0o755),
        File("/srv/cgi-bin/index.cgi", FRONTEND_INDEX, 0o755),
        File("/usr/bin/frontend", FRONTEND_START, 0o755),
    ]
    return images.build([base, files], command=("/usr/bin/frontend",), env=(PATH, f"VERSION={version}"))


def _store(base: list[File]) -> BuiltImage:
    files = [
        File("/srv/cgi-bin/entries", STORE_ENTRIES, 0o755),
        File("/usr/bin/store", STORE_START, 0o755),
        File("/data", directory=True, mode=0o777),
    ]
    return images.build([base, files], command=("/usr/bin/store",), env=(PATH,))


def catalogue() -> list[tuple[str, str, BuiltImage]]:
    """(repository, tag, image) of everything in stock."""
    base = images.busybox_files()
    busybox = images.busybox_image()
    return [
        ("library/busybox", "latest", busybox),
        ("library/busybox", "1.36", busybox),
        ("guestbook/frontend", "v1", _frontend(base, "v1")),
        ("guestbook/frontend", "v2", _frontend(base, "v2")),
        ("guestbook/store", "v1", _store(base)),
    ]


def push_all(topology: Topology, wanted: list[tuple[str, str, BuiltImage]]) -> None:
    """Upload images to the lab's registry; call it in a thread of its own, which it moves into the lab's network.

    Raises:
        LabError: the registry does not answer in time, or refuses.
    """
    enter_network(topology.switch)
    url = f"http://{REGISTRY_ADDRESS}:{REGISTRY_PORT}"
    left = REGISTRY_START_S
    for repository, tag, image in wanted:
        while True:
            try:
                images.push(image, url, repository, tag)
                break
            except ConnectionError as error:
                left -= 0.05
                if left <= 0:
                    raise LabError(f"the lab's registry does not answer: {error}") from error
                time.sleep(0.05)
            except (OSError, RuntimeError) as error:
                raise LabError(f"{repository}:{tag} could not be put into the lab's registry: {error}") from error


def in_thread(work: Callable[[], None]) -> Future[None]:
    """Run `work` in a thread of its own: one that enters a namespace must not serve anybody else afterwards."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="lab-library", daemon=True).start()
    return done


async def stock(topology: Topology, progress: Callable[[str], None]) -> None:
    """Fill the registry. Raises LabError."""
    wanted = catalogue()
    await asyncio.wrap_future(in_thread(lambda: push_all(topology, wanted)))
    progress(f"the registry holds {', '.join(sorted({f'{name}:{tag}' for name, tag, _ in wanted}))}")
