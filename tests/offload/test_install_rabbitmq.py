"""What installing RabbitMQ leaves behind: the package, and nothing else, however the installation ends.

The script runs as it is, in a mount namespace in which the folders that it changes are empty. Stand-ins for ``apt-get``
and ``update-rc.d`` are called; ``systemctl`` is the real one. The real package is not installed here.
"""

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.namespaces import cannot, need
from tests.scripts import ROOT

HIDDEN = "/run /usr/sbin /usr/lib/rabbitmq /usr/lib/systemd/system /etc/systemd/system"
ENABLED = "/etc/systemd/system/multi-user.target.wants"
POLICY = "/usr/sbin/policy-rc.d"

_APT = """#!/bin/sh
[ "$1" = install ] || exit 0
cp -P /usr/sbin/policy-rc.d "$SCRATCH/policy-during-install"
for unit in rabbitmq-server.service epmd.service epmd.socket; do
    [ -e "/usr/lib/systemd/system/$unit" ] && continue
    printf '[Unit]\\n[Install]\\nWantedBy=multi-user.target\\n' >"/usr/lib/systemd/system/$unit"
    systemctl --quiet enable "$unit"
done
[ -z "$SIGNAL" ] || kill -s "$SIGNAL" "$PPID"
exit "$APT_ENDS_WITH"
"""
_UPDATE_RC = """#!/bin/sh
echo "$@" >>"$SCRATCH/update-rc.d"
"""
_INSIDE = f"""
set -eu
for folder in {HIDDEN}; do
    [ ! -d "$folder" ] || mount -t tmpfs tmpfs "$folder"
done
eval "$BEFORE"
code=0
sh "$SCRIPT" || code=$?
echo "$code" >"$SCRATCH/code"
ls {ENABLED} >"$SCRATCH/enabled" 2>/dev/null || :
[ ! -e {POLICY} ] || cp -p {POLICY} "$SCRATCH/policy"
"""


@dataclass(frozen=True)
class Left:
    """What is there after the script ended.

    Attributes:
        code: that it ended with.
        enabled: units that start at boot.
        policy: the content of ``policy-rc.d``; None: there is no such file.
        policy_during_install: its content while the package was installed.
        disabled_scripts: what ``update-rc.d`` was called with.
        temporary: files that the script left in TMPDIR.
    """

    code: int
    enabled: list[str]
    policy: str | None
    policy_during_install: str
    disabled_scripts: str
    temporary: list[str]


def install(scratch: Path, *, sent: str = "", before: str = "", apt_ends_with: int = 0) -> Left:
    """Run the script and return what it left.

    Args:
        scratch: an empty folder.
        sent: the signal that reaches the script while the package is installed.
        before: shell commands that prepare the machine.
        apt_ends_with: the exit code of ``apt-get``.
    """
    need("systemctl", "systemd")
    need("unshare", "util-linux")
    programs, temporary = scratch / "programs", scratch / "tmp"
    temporary.mkdir()
    programs.mkdir()
    for name, text in (("apt-get", _APT), ("update-rc.d", _UPDATE_RC)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}", "SCRATCH": str(scratch), "SIGNAL": sent, "BEFORE": before,
        "APT_ENDS_WITH": str(apt_ends_with), "TMPDIR": str(temporary),
        "SCRIPT": str(ROOT / "offload" / "install-rabbitmq.sh"),
    }  # fmt: skip
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", "--mount", *user, "sh", "-c", _INSIDE]
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, which a shell cannot undo
    try:
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    finally:
        signal.signal(signal.SIGHUP, former)
    if not (scratch / "code").exists():
        cannot(f"a mount namespace cannot be made here: {done.stderr}")

    def content(name: str) -> str | None:
        return (scratch / name).read_text() if (scratch / name).exists() else None

    return Left(
        int(content("code") or -1), (content("enabled") or "").split(), content("policy"),
        content("policy-during-install") or "", content("update-rc.d") or "",
        [path.name for path in temporary.iterdir()],
    )  # fmt: skip


@pytest.mark.parametrize(("sent", "code"), [("", 0), ("HUP", 129), ("INT", 130), ("PIPE", 141), ("TERM", 143)])
def test_no_enabled_unit_and_no_policy_remain_however_the_installation_ends(
    tmp_path: Path, sent: str, code: int
) -> None:
    left = install(tmp_path, sent=sent)
    assert left.policy_during_install == "#!/bin/sh\nexit 101\n"
    assert (left.code, left.enabled, left.policy, left.temporary) == (code, [], None, [])


def test_a_failed_installation_leaves_nothing_enabled(tmp_path: Path) -> None:
    left = install(tmp_path, apt_ends_with=100)
    assert (left.code, left.enabled, left.policy) == (0, [], None)


@pytest.mark.parametrize("sent", ["", "HUP"])
def test_an_existing_policy_stays_unchanged(tmp_path: Path, sent: str) -> None:
    left = install(tmp_path, sent=sent, before=f"printf 'of the user' >{POLICY}")
    assert left.policy == left.policy_during_install == "of the user"
    assert left.enabled == []


@pytest.mark.parametrize("enabled", [True, False])
def test_existing_units_stay_enabled_or_disabled(tmp_path: Path, enabled: bool) -> None:
    lines = [
        f"printf '[Unit]\\n[Install]\\nWantedBy=multi-user.target\\n' >/usr/lib/systemd/system/{unit}"
        for unit in ("epmd.service", "epmd.socket")
    ]
    if enabled:
        lines.append("systemctl --quiet enable epmd.service epmd.socket")
    left = install(tmp_path, before="\n".join(lines))
    assert left.enabled == (["epmd.service", "epmd.socket"] if enabled else [])


def test_the_sysv_init_script_is_disabled_too(tmp_path: Path) -> None:
    script = "mount -t tmpfs tmpfs /etc/init.d; touch /etc/init.d/rabbitmq-server"
    assert install(tmp_path, before=script).disabled_scripts == "rabbitmq-server disable\n"
