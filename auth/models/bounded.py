#!/usr/bin/env python3
"""A bounded check of SA1's handshake: every run of a few sessions against an attacker who owns the network.

Standard library only. It stands beside the ProVerif models in this folder, which cover any number of sessions but need
a program that is not installed everywhere; this one runs anywhere and covers little, but covers that completely.

Attacker. Messages are fields in clear and MACs. The attacker sees and keeps every message, withholds, repeats, redirects
and forges source addresses, and puts together any message out of any field values there are and any MAC seen (or made
with a key of its own). A MAC cannot be made or opened without its key. So the only messages that matter are those whose MAC
is one of those seen, with the fields under the MAC as they are there and the others chosen at will: these are all tried.

Bound. On the path: one device key known to two listeners, up to two hellos, two source addresses, two flag values each way,
up to three challenges, up to three joins per hello. Off the path: one device key owned by the attacker, one victim
address, two hellos, two challenges. Within that the search is exhaustive. Time is not modelled: nothing ever expires.

Properties, as correspondences "this happens only after that, with the same listener, group, link, stream, flags, nonce":
    Q1 accept  the receiver accepts only what the device joined         (device authenticated)
    Q2 join    the device joins only what the receiver challenged       (receiver authenticated)
    Q3 done    the device believes only in links the receiver accepted  (completion)
    Q4 chal    the receiver challenges only what the device greeted
    Q2i, Q3i   as Q2 and Q3, and each at most as often                   (injective)
    up         not a violation: a link does come up, the search is not empty

Every mutant must fail as expected beside it, and the attack is printed; so must the design hold. Exit 0 if all is as
expected, else 1.
"""

import sys
import time

FIELDS = ("kid", "lid", "G", "L", "lnk", "b", "fl")


class Design:
    """What is under which MAC, and how the two sides behave; a mutant differs in one respect."""

    def __init__(self, unsigned=(), uncookied=(), m4_names=False, in_order=False, while_up=False):
        self.unsigned = frozenset(unsigned)      # left out of MAC1, MAC2, MAC3
        self.uncookied = frozenset(uncookied)    # left out of the cookie
        self.m4_names = m4_names                 # M4 tagged over names instead of MAC3
        self.in_order = in_order                 # the sender ignores challenges older than the one it answered last
        self.while_up = while_up                 # the sender answers challenges to a hello whose link is up already

    def signed(self, fields):
        return tuple(sorted((n, v) for n, v in fields.items() if n not in self.unsigned))

    def cookie(self, secret, addr, fields):
        bound = {n: v for n, v in fields.items() if n not in ("msg", "time")} | {"addr": addr}
        return ("CK", secret, tuple(sorted((n, v) for n, v in bound.items() if n not in self.uncookied)))

    def m4(self, fields, mac3):
        return ("M4", tuple(fields[n] for n in ("kid", "G", "L", "lnk", "N"))) if self.m4_names else ("M4", mac3)


def complete(signed, domains):
    """All sets of fields that have the signed ones as signed: the others are the attacker's choice."""
    found = [dict(signed)]
    for name, values in domains.items():
        if name not in found[0]:
            found = [fields | {name: value} for fields in found for value in values]
    return found


def show(fields):
    return " ".join(f"{n}={v}" for n, v in fields.items() if n in ("lid", "L", "lnk", "fl", "fa", "N"))


class Search:
    """Breadth first over all states; the first trace to a violation is a shortest one."""

    def __init__(self, limit=2_000_000):
        self.violations, self.states, self.limit = {}, 0, limit

    def run(self, start, steps):
        parents, queue = {start: None}, [start]
        while queue:
            following = []
            for state in queue:
                for said, successor, broken in steps(state):
                    for query in broken:
                        if query not in self.violations:
                            self.violations[query] = self.trace(parents, state) + [said]
                    if successor not in parents:
                        parents[successor] = (state, said)
                        following.append(successor)
            queue = following
            if len(parents) > self.limit:
                raise SystemExit(f"more than {self.limit} states: the bound is too large for this check")
        self.states = len(parents)
        return self

    @staticmethod
    def trace(parents, state):
        said = []
        while parents[state] is not None:
            state, line = parents[state]
            said.append(line)
        return said[::-1]


def with_event(events, kind, params):
    """The events and this one once more, and how often it happened."""
    times = 1 + sum(1 for event in events if event[:2] == (kind, params))
    return events | {(kind, params, times)}, times


def count(events, kind, params):
    return sum(1 for event in events if event[:2] == (kind, params))


def on_path(design, hellos, challenges=2, joins=1, nonces_repeat=False, clock=True, one_secret=False, addrs=("a1", "a2"),
            links=True):
    """The attacker is the network. One honest device, honest listeners, no key known to the attacker. Without `links` a
    receiver accepts each join for itself; with them, what is not newer than the link's last join is no new acceptance.

    State: MACs seen; of each hello the joins sent, N answered last and whether it is up; challenges made; events; the newest N
    accepted of each link.
    """
    listeners = ("l1", "l2")
    domains = {"lid": listeners, "fl": ("f0", "f1"), "fa": ("f0", "f1")}
    secret = {lid: "ck" if one_secret else "ck-" + lid for lid in listeners}
    names = FIELDS + ("fa", "N")

    def params(fields, of=names):
        return tuple(fields[n] for n in of)

    greetings = [dict(fields, msg="hello", time="t0") for fields in hellos]
    macs = frozenset(("M1", design.signed(fields)) for fields in greetings)
    events = frozenset(("hello", params(fields, FIELDS), 1) for fields in greetings)
    # Of each session: the join sent last (fields without addr, MAC3), how many joins, up or not.
    start = (macs, tuple((None, 0, False) for _ in hellos), 0, events, ())

    def challenge(state, fields, lid, said):
        macs, sessions, made, events, newest = state
        if made == challenges:
            return
        fresh = [f"n{made + 1}"] + ([f"n{i}" for i in range(1, made + 1)] if nonces_repeat else [])
        for nonce in fresh:
            for fa in domains["fa"]:
                for addr in addrs:
                    block = fields | {"N": nonce, "fa": fa}
                    ck = design.cookie(secret[lid], addr, block)
                    known = macs | {("M2", design.signed(block | {"ck": ck}))}
                    happened, _ = with_event(events, "chal", params(block))
                    broken = [] if count(events, "hello", params(block, FIELDS)) else ["Q4"]
                    line = f"{said}, {lid} challenges {addr}: {show(block)}"
                    yield line, (known, sessions, made + 1, happened, newest), broken

    def steps(state):
        macs, sessions, made, events, newest = state
        for label, signed, *_ in macs:
            if label == "M1":
                for fields in complete(signed, domains | {"fa": ("f0",)}):
                    fields.pop("fa", None)
                    yield from challenge(state, fields, fields["lid"], f"M1 {show(fields)} to {fields['lid']}")
            elif label == "M3":
                for fields in complete(signed, domains):
                    yield from m3(state, fields, ("M3", signed))
            elif label == "M2":
                for number in range(len(hellos)):
                    yield from m2(state, number, signed)
        for number, (join, sent, up) in enumerate(sessions):
            if join is None or up:
                continue
            fields = dict(join[0])
            if design.m4(fields, join[1]) in macs:
                happened, times = with_event(events, "done", params(fields))
                accepted = count(events, "accept", params(fields))
                broken = ["up"] + ([] if accepted else ["Q3"]) + ([] if times <= accepted else ["Q3i"])
                after = sessions[:number] + ((join, sent, True),) + sessions[number + 1:]
                yield f"M4 to the device: link up, {show(fields)}", (macs, after, made, happened, newest), broken

    def m3(state, fields, mac3):
        macs, sessions, made, events, newest = state
        lid, ck = fields["lid"], fields["ck"]
        block = {n: v for n, v in fields.items() if n != "ck"}
        for addr in addrs:
            if ck != design.cookie(secret[lid], addr, block):
                echoed = {n: v for n, v in block.items() if n not in ("N", "fa")}
                yield from challenge(state, echoed, lid, f"M3 {show(fields)} to {lid} from {addr}: cookie no good")
                continue
            link = (lid, fields["kid"], fields["G"], fields["lnk"])
            last, at = dict(newest).get(link, ("", addr))
            if links and (fields["N"] < last or (fields["N"] == last and addr != at)):
                continue  # old
            known, happened, broken = macs | {design.m4(fields, mac3)}, events, []
            is_repeated = fields["N"] == last if links else ("taken", mac3, 1) in events
            if not is_repeated:
                joined = count(events, "join", params(fields))
                happened, _ = with_event(events, "accept", params(fields))
                broken = [] if joined else ["Q1"]
            if links:
                after = tuple(sorted((dict(newest) | {link: (fields["N"], addr)}).items()))
            else:
                happened, after = happened | {("taken", mac3, 1)}, newest
            yield f"M3 to {lid} from {addr}: accepted, {show(fields)}", (known, sessions, made, happened, after), broken

    def m2(state, number, signed):
        macs, sessions, made, events, newest = state
        join, sent, up = sessions[number]
        if sent == joins or (up and not design.while_up):
            return
        asked = [greetings[number]] + ([dict(join[0])] if join else [])
        for fields in complete(signed, {n: v for n, v in domains.items() if n not in ("lid", "fl")}):
            # What the MAC leaves open, the attacker sets to what the device wants to see.
            fields = {"lid": hellos[number]["lid"], "fl": hellos[number]["fl"]} | fields
            if not any(all(fields[n] == sent_half[n] for n in FIELDS + ("msg", "time")) for sent_half in asked):
                continue
            if join and (fields["N"] == dict(join[0])["N"]):
                continue  # answered already: the same M3 again
            if join and design.in_order and fields["N"] < dict(join[0])["N"]:
                continue
            answer = fields | {"msg": "join", "time": f"t{sent + 1}" if clock else "none"}
            mac3 = ("M3", design.signed(answer))
            happened, times = with_event(events, "join", params(answer))
            challenged = count(events, "chal", params(answer))
            broken = ([] if challenged else ["Q2"]) + ([] if times <= challenged else ["Q2i"])
            after = sessions[:number] + (((tuple(sorted(answer.items())), mac3), sent + 1, False),) + sessions[number + 1:]
            yield f"M2 to the device: joins, {show(answer)}", (macs | {mac3}, after, made, happened, newest), broken

    return Search().run(start, steps)


def off_path(design):
    """The attacker owns a device key and forges any source address, but cannot read what is sent to the victim.

    State: cookies received at the attacker's own address, those sent to the victim (unread), challenges made.
    """
    base = {"kid": "mine", "lid": "l1", "G": "g", "lnk": "1", "b": "b", "fl": "f1", "fa": "f1"}
    halves = [base | {"L": L} for L in ("L1", "L2")]
    addrs = ("attacker", "victim")
    start = (frozenset(), frozenset(), 0)

    def steps(state):
        own, unread, made = state
        # M1, or an M3 with a cookie that is no good: both draw a challenge to the address it came from.
        if made < 2:
            for half in halves:
                for addr in addrs:
                    block = half | {"N": f"n{made + 1}"}
                    made_cookie = (block["N"], half["L"], design.cookie("ck", addr, block))
                    after = (own | {made_cookie}, unread) if addr == "attacker" else (own, unread | {made_cookie})
                    yield f"hello or bad join L={half['L']} from {addr}: challenge {block['N']} to it", (*after, made + 1), []
        # M3 of any half with any cookie the attacker has, from any address. MAC3 is the attacker's to make.
        for half in halves:
            for nonce, _, ck in own:
                for addr in addrs:
                    if ck == design.cookie("ck", addr, half | {"N": nonce}):
                        said = f"join L={half['L']} N={nonce} with its cookie from {addr}: accepted"
                        yield said, state, ["victim" if addr == "victim" else "own"]

    return Search().run(start, steps)


def stock(sees_path):
    """Stock tickets: MAC over the sender half, no address, no nonce. An honest sender with a half of its own; the attacker
    has its own address and half, forges sources, and sees the honest sender's packets only if `sees_path`."""
    start = (frozenset({"mine"}), frozenset(), frozenset())  # halves known, tickets known, halves ever issued for

    def steps(state):
        halves, tickets, issued = state
        for half in halves:
            yield f"REG1 half={half} from attacker: ticket", (halves, tickets | {half}, issued | {half}), []
        seen = (halves | {"honest"}, tickets | {"honest"}) if sees_path else (halves, tickets)
        yield "the honest sender registers", (*seen, issued | {"honest"}), []
        for half in tickets:
            for addr in ("attacker", "victim"):
                broken = [f"{addr} in {half}'s group"] + ([] if half in issued else ["ticket never issued"])
                yield f"REG2 half={half} with its ticket from {addr}: link", state, broken

    return Search().run(start, steps)


def hello(number, **changes):
    fields = {"kid": "k", "lid": "l1", "G": "g", "L": f"L{number}", "lnk": "1", "b": "b", "fl": "f1"}
    return fields | changes


def main():
    two_listeners = [hello(1), hello(2, lid="l2", lnk="2")]
    two_flags = [hello(1), hello(2, fl="f0", b="b2")]
    one = [hello(1)]
    no_lid = Design(unsigned={"lid"})
    no_flags = Design(unsigned={"fl", "fa"}, uncookied={"fl", "fa"})
    no_addr = Design(uncookied={"addr"})
    sa1, m4_names = Design(), Design(m4_names=True)
    in_order, while_up = Design(in_order=True), Design(while_up=True)
    all_six = {"up", "Q1", "Q2", "Q3", "Q4", "Q2i", "Q3i"}
    thrice = dict(challenges=3, joins=3, addrs=("a1",))
    repeats = dict(thrice, nonces_repeat=True, links=False)
    stock_members = {"attacker in mine's group", "victim in mine's group"}
    # What is checked; what must be reached (and nothing else may be); how. A challenge replayed while no link is up yet
    # is joined again (Q2i): harmless, for the link comes up once.
    checks = [
        ("SA1, two hellos to two listeners", {"up"}, lambda: on_path(sa1, two_listeners, challenges=3)),
        ("SA1, ... that share a cookie secret", {"up"}, lambda: on_path(sa1, two_listeners, one_secret=True)),
        ("SA1, two hellos to one listener, other flags and stream", {"up"}, lambda: on_path(sa1, two_flags)),
        ("SA1, two addresses, two joins", {"up"}, lambda: on_path(sa1, one, joins=2)),
        ("SA1, three joins of one hello", {"up", "Q2i"}, lambda: on_path(sa1, one, **thrice)),
        ("SA1, ... by a device without a clock", {"up", "Q2i"}, lambda: on_path(sa1, one, clock=False, **thrice)),
        ("SA1, ... that ignores older challenges", {"up"}, lambda: on_path(in_order, one, clock=False, **thrice)),
        ("SA1, a receiver whose nonces repeat", {"up", "Q2i"}, lambda: on_path(sa1, one, **repeats)),
        ("SA1, off-path owner of a key", {"own"}, lambda: off_path(sa1)),
        ("mutant: no listener ID in the MACs", all_six, lambda: on_path(no_lid, two_listeners)),
        ("mutant: no flags in MACs and cookie", all_six, lambda: on_path(no_flags, one)),
        ("mutant: no address in the cookie", {"own", "victim"}, lambda: off_path(no_addr)),
        ("mutant: M4 over names, nonces repeat", {"up", "Q2i", "Q3", "Q3i"}, lambda: on_path(m4_names, one, **repeats)),
        ("mutant: challenges answered while up", {"up", "Q2i", "Q3i"}, lambda: on_path(while_up, one, **thrice)),
        ("stock ticket, off-path", stock_members, lambda: stock(False)),
        ("stock ticket, on-path", stock_members | {"attacker in honest's group", "victim in honest's group"},
         lambda: stock(True)),
    ]
    wrong, began = 0, time.monotonic()
    for name, expected, check in checks:
        start = time.monotonic()
        search = check()
        found = set(search.violations)
        verdict = "as expected" if found == expected else f"WRONG, expected {sorted(expected) or 'none'}"
        wrong += found != expected
        print(f"{name}: {search.states} states, {time.monotonic() - start:.1f} s, reached {sorted(found) or 'none'}: {verdict}")
        wanted = found - expected or found - {"own", "up", "Q2i"}
        if name.startswith("mutant") or found != expected:
            for query in sorted(wanted):
                print(f"    {query}:")
                for number, line in enumerate(search.violations[query], 1):
                    print(f"      {number}. {line}")
    print(f"{len(checks)} checks, {wrong} wrong, {time.monotonic() - began:.1f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
