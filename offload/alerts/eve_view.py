"""Format EVE events as text for people, with or without colour."""

from typing import Final

from offload.alerts.eve import Event
from utils.schema import EDGE, REJECTED

_RED, _YELLOW, _CYAN, _DIM, _BOLD, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[36m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
_WIDTH: Final = 64


def format_alert(alert: Event, *, colour: bool) -> str:
    """Return an alert as one line: time, signature, addresses, packets, certainty, and decider."""
    own = alert["early_exit"]
    is_rejected = own["decider"] == REJECTED
    what = "rejected" if is_rejected else "attack"
    ends = f"{_format_end(alert, 'src')} -> {_format_end(alert, 'dest')}"
    packets = f"{alert['flow']['pkts_toserver']}+{alert['flow']['pkts_toclient']}"
    who = f"exit {own['exit']}, {'edge' if own['decider'] == EDGE else own['decider']}"
    line = (
        f"{alert['timestamp'][11:19]}  {_paint(f'{what:8}', _YELLOW if is_rejected else _RED, colour)}  "
        f"{alert['proto']:5.5}{ends:45}{packets:>9} packets  certainty {own['certainty']:.3f}  "
    )
    return line + _paint(who, _DIM if own["decider"] == EDGE else _CYAN, colour)


def _format_end(alert: Event, side: str) -> str:
    port = alert.get(f"{side}_port")
    return str(alert[f"{side}_ip"]) + ("" if port is None else f":{port}")


def format_summary(stats: Event, *, colour: bool) -> str:
    """Return the counts of a stats event as a table."""
    counts, own = stats["stats"], stats["stats"]["early_exit"]
    drops = counts.get("capture", {}).get("kernel_drops", 0)
    rows = (
        ("packets", counts["decoder"]["pkts"], f"{counts['decoder']['ipv4']} of them IPv4"),
        ("records", own["records"], "two addresses in 15 seconds each"),
        ("alerts", own["alerts"], _describe_limit(own)),
        ("offloaded", own["offloaded"], _format_share(own["offloaded"], own["records"])),
        ("rejected", own["rejected"], _format_share(own["rejected"], own["records"])),
        ("drops", drops + own["late"] + own["left_out"], "packets that came too late or were lost"),
    )
    rule = "-" * _WIDTH
    lines = [f"{name:12}{_paint(f'{value:>9}', _BOLD, colour)}   {remark}" for name, value, remark in rows]
    return "\n".join((rule, *lines, rule))


def _describe_limit(own: Event) -> str:
    return f"suppressed by a limit: {own['attack_suppressed']} attacks, {own['rejected_suppressed']} rejected"


def _format_share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} % of the records" if whole else "of no records"


def _paint(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{_PLAIN}" if colour else text
