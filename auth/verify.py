#!/usr/bin/env python3
"""Checks the SA1 test vectors without any of bondgate's code, with nothing but Python's standard library.

    verify.py [FILE...]     default: vectors/text.json and vectors/sa1.json beside this script

Everything is computed here from docs/registration-auth.md: key derivation, SipHash-2-4, gate tag, cookie, MACs, link
keys, trailers, AES-128-GMAC, stock tickets, the receiver's verdict on every recorded datagram and on every single-bit flip of M1
and M3, and the text forms of keys and the provisioning URI. Prints what was checked; exits 1 at the first mismatch. Also a reference for whoever writes a client.
"""
import hashlib
import hmac as _hmac
import ipaddress
import json
import os
import struct
import sys
import zlib


class Mismatch(Exception):
    pass


def check(what, got, expected):
    if got != expected:
        show = lambda v: v.hex() if isinstance(v, (bytes, bytearray)) else repr(v)
        raise Mismatch(f"{what}:\n  computed {show(got)}\n  recorded {show(expected)}")


# ---- primitives -----------------------------------------------------------------------------------------------------

def hmac(key, *parts):
    return _hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def hkdf(secret, info):
    """HKDF-SHA-256 with SA1's salt; one block is all that is needed."""
    return hmac(hmac(b"srtla-sa1", secret), info, b"\x01")


def siphash24(key, data):
    """SipHash-2-4; the 8 bytes come out little-endian, as the function is defined."""
    mask = (1 << 64) - 1
    k0, k1 = struct.unpack("<QQ", key)
    a, b, c, d = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573

    def rotate(x, n):
        return (x << n | x >> (64 - n)) & mask

    def rounds(n, a, b, c, d):
        for _ in range(n):
            a = (a + b) & mask
            c = (c + d) & mask
            b = rotate(b, 13) ^ a
            d = rotate(d, 16) ^ c
            a = rotate(a, 32)
            c = (c + b) & mask
            a = (a + d) & mask
            b = rotate(b, 17) ^ c
            d = rotate(d, 21) ^ a
            c = rotate(c, 32)
        return a, b, c, d

    whole = len(data) // 8 * 8
    words = list(struct.unpack(f"<{whole // 8}Q", data[:whole]))
    words.append(int.from_bytes(data[whole:] + bytes(7 - len(data) % 8) + bytes([len(data) & 255]), "little"))
    for word in words:
        a, b, c, d = rounds(2, a, b, c, d ^ word)
        a ^= word
    a, b, c, d = rounds(4, a, b, c ^ 0xFF, d)
    return struct.pack("<Q", a ^ b ^ c ^ d)


def siphash_known_answers():
    """From the appendix of the SipHash paper and its reference vectors: key 00..0f, data 00, 01, 02, ..."""
    key = bytes(range(16))
    check("SipHash of nothing", siphash24(key, b"").hex(), "310e0edd47db6f72")
    check("SipHash of 15 bytes", siphash24(key, bytes(range(15))).hex(), "e545be4961ca29a1")


def aes_sbox():
    """Inverse in GF(2^8) mod x^8+x^4+x^3+x+1, then the affine map (FIPS 197, 5.1.1)."""
    power, log, x = [0] * 255, [0] * 256, 1
    for n in range(255):
        power[n], log[x] = x, n
        x ^= x << 1 ^ (0x11B if x & 0x80 else 0)
    box = [0x63]
    for x in range(1, 256):
        inverse = power[-log[x] % 255]
        turned = inverse << 1 ^ inverse << 2 ^ inverse << 3 ^ inverse << 4 ^ inverse
        box.append((turned ^ turned >> 8) & 0xFF ^ 0x63)
    return box


SBOX = aes_sbox()


def aes128(key, block):
    """One block (FIPS 197)."""
    double = lambda x: (x << 1 ^ (0x1B if x & 0x80 else 0)) & 0xFF
    round_key, constant = list(key), 1
    state = [a ^ b for a, b in zip(block, round_key)]
    for n in range(10):
        word = [SBOX[round_key[at]] for at in (13, 14, 15, 12)]
        word[0] ^= constant
        constant = double(constant)
        for at in range(16):
            round_key[at] ^= word[at] if at < 4 else round_key[at - 4]
        state = [SBOX[state[at * 5 % 16]] for at in range(16)]
        if n < 9:
            for c in range(0, 16, 4):
                column, every = state[c:c + 4], state[c] ^ state[c + 1] ^ state[c + 2] ^ state[c + 3]
                for r in range(4):
                    state[c + r] ^= every ^ double(column[r] ^ column[(r + 1) % 4])
        state = [a ^ b for a, b in zip(state, round_key)]
    return bytes(state)


def gmac(key, nonce, data):
    """AES-128-GCM of an empty text with `data` beside it (SP 800-38D); the nonce has 12 bytes."""
    h = int.from_bytes(aes128(key, bytes(16)), "big")
    padded = data + bytes(-len(data) % 16) + struct.pack(">QQ", 8 * len(data), 0)
    y = 0
    for at in range(0, len(padded), 16):
        x, v, y = y ^ int.from_bytes(padded[at:at + 16], "big"), h, 0
        for bit in range(127, -1, -1):
            if x >> bit & 1:
                y ^= v
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    mask = int.from_bytes(aes128(key, nonce + b"\0\0\0\1"), "big")
    return (y ^ mask).to_bytes(16, "big")


def gmac_known_answers():
    """AES from appendix B of FIPS 197, GMAC from the first case of the GCM proposal: all zero, nothing to protect."""
    key, text = "2b7e151628aed2a6abf7158809cf4f3c", "3243f6a8885a308d313198a2e0370734"
    check("AES-128", aes128(bytes.fromhex(key), bytes.fromhex(text)).hex(), "3925841d02dc09fbdc118597196a0b32")
    check("GMAC of nothing", gmac(bytes(16), bytes(12), b"").hex(), "58e2fccefa7e3061367f1d57a4e7455a")


# ---- layout and derivations -----------------------------------------------------------------------------------------

def address(text):
    host, port = text.rsplit(":", 1)
    ip = ipaddress.ip_address(host.strip("[]"))
    packed = ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
    return packed + struct.pack(">H", int(port))


def sender_half(i, message, sender_time_ms):
    head = struct.pack(
        ">4sBBBB8s16s16sIIQ", b"SLA1", 1, 1, message, i["flags_offered"], bytes.fromhex(i["key_id"]),
        bytes.fromhex(i["group"]), bytes.fromhex(i["link_nonce"]), i["link_id"], i["gate_epoch"], sender_time_ms)
    return (head + siphash24(bytes.fromhex(i["gate_key"]), head) + listener_id(i) + stream_bind(i)
            + struct.pack(">HH12x", i["links"], i["caps"]))


def listener_id(i):
    return hashlib.sha256(i["listener_name"].encode() + b"\0" + bytes.fromhex(i["instance_key_id"])).digest()[:16]


def stream_bind(i):
    return hashlib.sha256(i["tenant"].encode() + b"\0" + i["stream"].encode()).digest()[:24]


def cookie_key(secret, epoch):
    return hmac(secret, b"SA1-CE", struct.pack(">I", epoch))


def cookie(key, source, half, nonce, server_time_ms, accepted):
    return hmac(key, b"SA1-CK", source, half[0:6], half[7:56], half[72:128], nonce,
                struct.pack(">QB", server_time_ms, accepted))[:16]


# ---- the receiver ---------------------------------------------------------------------------------------------------

class Receiver:
    """Reads as docs/registration-auth.md 5 says, with unlimited budgets and an empty replay filter."""

    def __init__(self, inputs):
        self.key_id = bytes.fromhex(inputs["key_id"])
        secret = bytes.fromhex(inputs["device_secret"])
        self.k_c, self.k_s = hkdf(secret, b"c2s"), hkdf(secret, b"s2c")
        self.gates = {inputs["gate_epoch"]: bytes.fromhex(inputs["gate_key"])}
        self.cookie_secret = bytes.fromhex(inputs["cookie_secret"])
        self.listener = listener_id(inputs)
        self.cookie_keys = {}

    def layout(self, packet, packet_type, message):
        """The first thing the layout forbids, or None."""
        if len(packet) != 258:
            return "length"
        if packet[:2] != packet_type:
            return "type"
        if packet[2:6] != b"SLA1":
            return "magic"
        if packet[6:8] != b"\1\1":
            return "version"
        if packet[8] not in (1, 3):
            return "message"
        if packet[9] & 0xE0:
            return "flags"
        if any(packet[118:130]):
            return "reserved"
        if message == 3:
            if packet[130:132] != b"\1\1":
                return "version"
            if packet[132] != 2:
                return "message"
            if packet[133] & ~(packet[9] & 7):
                return "flags"
            if any(packet[186:226]):
                return "reserved"
        if packet[8] != message:
            return "message"
        if message == 1 and any(packet[130:226]):
            return "reserved"
        return None

    def aim(self, packet):
        if packet[74:90] != self.listener:
            return "listener"
        return self.gate(packet)

    def gate(self, packet):
        key = self.gates.get(struct.unpack(">I", packet[54:58])[0])
        if key is None:
            return "gate_epoch"
        return None if siphash24(key, packet[2:66]) == packet[66:74] else "gate_tag"

    def clock_ok(self, packet, wall_ms):
        time_ms = struct.unpack(">Q", packet[58:66])[0]
        return time_ms != 0 and not packet[9] & 8 and abs(time_ms - wall_ms) <= 90_000

    def hello(self, packet, case):
        flaw = self.layout(packet, b"\x92\x00", 1)
        known = packet[10:18] == self.key_id
        mac_ok = len(packet) == 258 and packet[226:] == hmac(self.k_c, b"SA1-M1", packet[:226])
        if flaw == "version":
            return ("nak:" if self.gate(packet) is None and known and mac_ok else "silence:") + flaw
        flaw = flaw or self.aim(packet)
        if flaw:
            return "silence:" + flaw
        if not known:
            return "silence:unknown_key"
        if not mac_ok:
            return "silence:mac1"
        if case["key_expired"]:
            return "nak:key_expired"
        if not case["clockless_allowed"] and not self.clock_ok(packet, case["wall_ms"]):
            return "nak:clock"
        return "hello"

    def cookie_flaw(self, packet, case):
        epoch, server_time_ms = struct.unpack(">IQ", packet[134:146])
        current = case["boot_ms"] // 120_000
        if epoch not in (current, current - 1):
            return "cookie_epoch"
        nonce = packet[146:162]
        if not 0 <= case["boot_ms"] - int.from_bytes(nonce[:6], "big") <= 30_000:
            return "cookie_age"
        key = self.cookie_keys.setdefault(epoch, cookie_key(self.cookie_secret, epoch))
        right = cookie(key, address(case["from"]), packet[2:130], nonce, server_time_ms, packet[133])
        return None if right == packet[162:178] else "cookie_mac"

    def join(self, packet, case):
        flaw = self.layout(packet, b"\x92\x01", 3) or self.aim(packet)
        if flaw:
            return "silence:" + flaw
        flaw = self.cookie_flaw(packet, case)
        if packet[10:18] != self.key_id:
            return "silence:unknown_key"
        if packet[226:] != hmac(self.k_c, b"SA1-M3", packet[:226]):
            return "silence:" + (flaw or "mac3")
        if case["key_expired"]:
            return "nak:key_expired"
        if flaw is None:
            return "join"
        if case["clockless_allowed"] or case["group_lives"] or self.clock_ok(packet, case["wall_ms"]):
            return "rechallenge:" + flaw
        return "silence:stale"


# ---- the checks -----------------------------------------------------------------------------------------------------

def check_derived(i, d):
    secret = bytes.fromhex(i["device_secret"])
    nonce = struct.pack(">Q", i["m2_boot_ms"])[2:] + bytes.fromhex(i["m2_random"])
    k_link = hmac(hkdf(secret, b"ses"), b"SA1-L", bytes.fromhex(i["group"]), bytes.fromhex(i["link_nonce"]), nonce,
                  struct.pack(">I", i["link_id"]))
    epoch = i["m2_boot_ms"] // 120_000
    computed = {
        "k_c": hkdf(secret, b"c2s"), "k_s": hkdf(secret, b"s2c"), "k_x": hkdf(secret, b"ses"),
        "listener_id": listener_id(i), "stream_bind": stream_bind(i),
        "k_ck": cookie_key(bytes.fromhex(i["cookie_secret"]), epoch),
        "k_link": k_link, "k_link_c2s": hmac(k_link, b"c2s"), "k_link_s2c": hmac(k_link, b"s2c"),
        "k_data_c2s": hmac(hmac(k_link, b"c2s"), b"SA1-D")[:16],
        "k_data_s2c": hmac(hmac(k_link, b"s2c"), b"SA1-D")[:16],
    }
    check("cookie_epoch", epoch, d["cookie_epoch"])
    check("names of derived values", sorted([*computed, "cookie_epoch"]), sorted(d))
    for name, value in computed.items():
        check(name, value, bytes.fromhex(d[name]))
    return len(d)


def check_packets(i, p):
    """Builds all messages anew and compares every byte."""
    secret = bytes.fromhex(i["device_secret"])
    k_c, k_s = hkdf(secret, b"c2s"), hkdf(secret, b"s2c")

    def closed(key, label, packet):
        assert len(packet) == 226
        return packet + hmac(key, label, packet)

    half = sender_half(i, 1, i["m1_sender_time_ms"])
    m1 = closed(k_c, b"SA1-M1", b"\x92\x00" + half + bytes(96))
    nonce = struct.pack(">Q", i["m2_boot_ms"])[2:] + bytes.fromhex(i["m2_random"])
    epoch = i["m2_boot_ms"] // 120_000
    proof = cookie(cookie_key(bytes.fromhex(i["cookie_secret"]), epoch), address(i["from"]), half, nonce,
                   i["m2_server_time_ms"], i["flags_accepted"])
    block = struct.pack(">BBBBIQ16s16sHHHH8x", 1, 1, 2, i["flags_accepted"], epoch, i["m2_server_time_ms"], nonce,
                        proof, 16, 1000, 30, 0)
    m2 = closed(k_s, b"SA1-M2", b"\x92\x01" + half + block + bytes(32))
    half = sender_half(i, 3, i["m3_sender_time_ms"])
    m3 = closed(k_c, b"SA1-M3", b"\x92\x01" + half + block + bytes(32))
    head = struct.pack(">HBBIH8x", 0x9202, 1, 0, i["link_id"], i["link_handle"])
    m4 = head + hmac(k_s, b"SA1-M4", head, m3[226:])[:16]
    head = struct.pack(">HBBI10x", 0x9212, 1, i["refusal_code"], i["retry_after_s"])
    computed = {
        "m1": m1, "m2": m2, "m3": m3, "m4": m4,
        "nak_to_m1": head + hmac(k_s, b"SA1-NK", head, m1[226:])[:16],
        "nak_to_m3": head + hmac(k_s, b"SA1-NK", head, m3[226:])[:16],
    }
    check("names of packets", sorted(computed), sorted(p))
    for name, value in computed.items():
        check(name, value, bytes.fromhex(p[name]))
    return len(p)


def check_trailers(d, trailers):
    for n, t in enumerate(trailers):
        packet = bytes.fromhex(t["packet"]) + struct.pack(">I", t["counter"])
        tag = hmac(bytes.fromhex(d["k_link_" + t["direction"]]), packet)[:16]
        check(f"trailer {n}", packet + tag, bytes.fromhex(t["sealed"]))
    return len(trailers)


def check_data_trailers(d, trailers):
    for n, t in enumerate(trailers):
        counter = struct.pack(">I", t["counter"])
        tag = gmac(bytes.fromhex(d["k_data_" + t["direction"]]), bytes(8) + counter, bytes.fromhex(t["packet"]) + counter)
        check(f"data trailer {n}", counter + tag, bytes.fromhex(t["trailer"]))
    return len(trailers)


def check_tickets(tickets):
    for n, t in enumerate(tickets):
        half = bytes([0x81, 1, t["owner_shard"], 0]) + struct.pack(">I", t["epoch"]) + bytes(88)
        key = hmac(bytes.fromhex(t["key"]), b"bondgate ticket epoch v1", struct.pack(">I", t["epoch"]))
        half += hmac(key, bytes.fromhex(t["sender_half"]), half)
        check(f"ticket {n}", half, bytes.fromhex(t["receiver_half"]))
    return len(tickets)


def check_arrivals(inputs, arrivals):
    receiver = Receiver(inputs)
    for case in arrivals:
        packet = bytes.fromhex(case["packet"])
        verdict = (receiver.join if case["read_as"] == "m3" else receiver.hello)(packet, case)
        check(f"arrival '{case['name']}'", verdict, case["verdict"])
    return len(arrivals)


def check_flips(inputs, packets, flips):
    """Every single-bit flip of M1 and M3, in the receiver's worst case: silence, and for the recorded reasons."""
    receiver = Receiver(inputs)
    case = {"key_expired": False, "clockless_allowed": True, "group_lives": True, "from": inputs["from"],
            "boot_ms": inputs["m2_boot_ms"] + 40, "wall_ms": inputs["m3_sender_time_ms"] + 20}
    tried = 0
    for name, read in (("m1", receiver.hello), ("m3", receiver.join)):
        packet, reasons = bytes.fromhex(packets[name]), {}
        for bit in range(len(packet) * 8):
            flipped = bytearray(packet)
            flipped[bit // 8] ^= 1 << bit % 8
            fate, reason = read(bytes(flipped), case).split(":")
            check(f"{name} with bit {bit} flipped", fate, "silence")
            reasons[reason] = reasons.get(reason, 0) + 1
            tried += 1
        check(f"reasons of the flips of {name}", reasons, flips[name])
        for length in range(len(packet)):
            check(f"{name} of {length} bytes", read(packet[:length], case), "silence:length")
    return tried


# ---- text forms -----------------------------------------------------------------------------------------------------

KINDS = {"device_key": ("bgk_", 40), "gate_key": ("bgg_", 20), "stream_token": ("bgt_", 20), "listener": ("bgl_", 16)}
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def encode_text(kind, payload):
    prefix, _ = KINDS[kind]
    data = payload + struct.pack(">I", zlib.crc32(prefix.encode() + payload))
    characters = -(-len(data) * 8 // 5)
    number = int.from_bytes(data, "big") << (characters * 5 - len(data) * 8)
    return prefix + "".join(ALPHABET[number >> 5 * n & 31] for n in reversed(range(characters)))


def decode_text(kind, text):
    """The payload, or the name of what is wrong."""
    prefix, length = KINDS[kind]
    text = text.strip().lower()
    if text[:4] != prefix:
        return "wrong_kind" if text[:4] in [other for other, _ in KINDS.values()] else "no_prefix"
    body = text[4:].replace("i", "1").replace("l", "1").replace("o", "0")
    if any(c not in ALPHABET for c in body):
        return "character"
    characters = -(-(length + 4) * 8 // 5)
    if len(body) != characters:
        return "too_short" if len(body) < characters else "too_long"
    number, unused = 0, characters * 5 - (length + 4) * 8
    for c in body:
        number = number << 5 | ALPHABET.index(c)
    data = (number >> unused).to_bytes(length + 4, "big")
    right = number & ((1 << unused) - 1) == 0 and \
        struct.pack(">I", zlib.crc32(prefix.encode() + data[:length])) == data[length:]
    return data[:length] if right else "mistyped"


def check_texts(v):
    for t in v["texts"]:
        payload = bytes.fromhex(t["payload"])
        check("text of a " + t["kind"], encode_text(t["kind"], payload), t["text"])
        check("bytes of a " + t["kind"], decode_text(t["kind"], t["text"]), payload)
    for n, t in enumerate(v["reads"]):
        read = decode_text(t["kind"], t["text"])
        check(f"reading {n}", "ok" if isinstance(read, bytes) else read, t["verdict"])
    for t in v["tokens"]:
        digest = hashlib.sha256(decode_text("stream_token", t["text"])).hexdigest()
        check("hash of a token", digest, t["hash"])
        check("ID of a token", digest[:12], t["id"])
    return len(v["texts"]) + len(v["reads"]) + len(v["tokens"])


def check_uris(uris):
    def payload(kind, text):
        read = decode_text(kind, text)
        check("what is wrong with the " + kind, None if isinstance(read, bytes) else read, None)
        return read

    for u in uris:
        scheme, rest = u["uri"].split("://")
        server, query = rest.split("?")
        part = dict(pair.split("=") for pair in query.split("&"))
        check("scheme", scheme, "srtla")
        check("server", server, u["server"])
        for name in ("device", "tenant", "stream"):
            check(name, part.pop(name, ""), u[name])
        check("listener", payload("listener", part.pop("listener")).hex(), u["listener_id"])
        key = payload("device_key", part.pop("key"))
        check("key ID", key[:8].hex(), u["key_id"])
        check("secret", key[8:].hex(), u["secret"])
        gate = payload("gate_key", part.pop("gate")) if "gate" in part else None
        check("gate epoch", gate and struct.unpack(">I", gate[:4])[0], u["gate_epoch"])
        check("gate key", gate and gate[4:].hex(), u["gate_key"])
        check("other parts", part, {})
        check("stream binding", (stream_bind(u) if u["stream"] else bytes(24)).hex(), u["stream_bind"])
    return len(uris)


def main():
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors")
    paths = sys.argv[1:] or [os.path.join(beside, name) for name in ("text.json", "sa1.json")]
    try:
        siphash_known_answers()
        gmac_known_answers()
        for path in paths:
            with open(path, encoding="utf-8") as file:
                v = json.load(file)
            if "texts" in v:
                print(check_texts(v), "text forms")
                print(check_uris(v["uris"]), "URIs")
                continue
            print(check_derived(v["inputs"], v["derived"]), "derived values")
            print(check_packets(v["inputs"], v["packets"]), "packets")
            print(check_trailers(v["derived"], v["trailers"]), "trailers")
            print(check_data_trailers(v["derived"], v["data_trailers"]), "trailers of SRT packets")
            print(check_tickets(v["tickets"]), "tickets")
            print(check_arrivals(v["inputs"], v["arrivals"]), "verdicts")
            print(check_flips(v["inputs"], v["packets"], v["flips"]), "flips, 0 taken")
    except Mismatch as mismatch:
        print("MISMATCH", mismatch)
        return 1
    print("all as specified")
    return 0


if __name__ == "__main__":
    sys.exit(main())
