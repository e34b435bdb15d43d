#!/usr/bin/env python3
"""Reads what Linli gateways say: a worked example of docs/wire.md, with Python's standard library alone.

    mosquitto_sub -h broker.example -q 1 -c -i my-reader -F '%t %x' \\
        -t 'linli/v1/+/telemetry' -t 'linli/v1/+/alert/+' -t 'linli/v1/+/status' | python3 consume.py

Prints, each as one line of JSON, every value with its quality, every transition of an alert once, every change of a
gateway's state, what was lost, and frames that have not arrived. mosquitto_sub acknowledges what it hands over: who must
not lose anything acknowledges only after the rows are safe, as `linli ingest` does. The payload comes as hexadecimal
digits, since a packed message is no text. Those packed with zstd need Python 3.14 or the package zstandard.
"""
import gzip
import json
import sys

QUALITY = ["good", "uncertain", "over_range", "under_range", "bad_comm", "bad_sensor", "bad_maintenance"]


def zstd():
    """What unpacks zstd here, or None."""
    try:
        from compression import zstd  # Python 3.14
        return zstd.decompress
    except ImportError:
        pass
    try:
        import zstandard
        return lambda b: zstandard.ZstdDecompressor().decompressobj().decompress(b)
    except ImportError:
        return None


def split_lines(text):
    """Lines of a message; a line break within quotes belongs to its line."""
    line = ""
    for piece in text.split("\n"):
        line = line + "\n" + piece if line else piece
        if line.startswith("#") or line.replace("\\\\", "").replace('\\"', "").count('"') % 2 == 0:
            yield line
            line = ""


def split_outside_quotes(text, separator):
    """Splits at separators that are neither escaped nor within quotes."""
    parts, start, quoted, i = [], 0, False, 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == '"':
            quoted = not quoted
        elif text[i] == separator and not quoted:
            parts.append(text[start:i])
            start = i + 1
        i += 1
    return parts + [text[start:]]


def value(text):
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"'):
        return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return int(text[:-1]) if text.endswith("i") else float(text)


def parse_line(line):
    """Line protocol: measurement and tags, fields, time in nanoseconds since 1970."""
    head, fields, at = split_outside_quotes(line, " ")
    measurement, *tags = split_outside_quotes(head, ",")
    unescape = lambda s: s.replace("\\ ", " ").replace("\\,", ",").replace("\\=", "=")
    tags = {k: unescape(v) for k, v in (t.split("=", 1) for t in tags)}
    fields = {k: value(v) for k, v in (f.split("=", 1) for f in split_outside_quotes(fields, ","))}
    return measurement, tags, fields, int(at)


def words(comment):
    return dict(w.split("=", 1) for w in comment.split() if "=" in w)


class Reader:
    def __init__(self, out):
        self.out = out
        self.quality = {}  # of a series: what was said last; a field without _q still has it
        self.next = {}  # (node, epoch): the frame that should come next with late=0
        self.revisions = {}  # of an alert
        self.states = {}
        self.unzstd = zstd()
        self.warned = False

    def unpack(self, payload):
        """The text of a telemetry message, or None where nothing here can unpack it."""
        if payload[:2] == b"\x1f\x8b":
            payload = gzip.decompress(payload)
        elif payload[:4] == b"\x28\xb5\x2f\xfd":
            if not self.unzstd:
                if not self.warned:
                    print("telemetry packed with zstd is passed over: it needs Python 3.14 or the package zstandard "
                          "(or compression: gzip or none in the site file)", file=sys.stderr, flush=True)
                self.warned = True
                return None
            payload = self.unzstd(payload)
        return payload.decode()

    def message(self, topic, payload):
        _, _, node, *rest = topic.split("/")
        if "." not in node:  # RabbitMQ makes slashes of dots
            node += "." + rest.pop(0)
        kind = rest[0]
        if kind == "telemetry":
            text = self.unpack(payload)
            if text is not None:
                self.telemetry(node, text)
        elif kind == "alert" and payload:  # an empty one only clears what was retained
            self.alert(node, json.loads(payload))
        elif kind == "status" and payload:
            status = json.loads(payload)
            if self.states.get(node) != status["state"]:
                self.states[node] = status["state"]
                self.out({"node": node, "state": status["state"], "reason": status.get("reason")})

    def telemetry(self, node, text):
        lines = split_lines(text)
        header = words(next(lines))
        first, last = map(int, header["seq"].split("-"))
        late = header["late"] == "1"
        if not late:
            expected = self.next.get((node, header["epoch"]), first)
            if first > expected:  # they may still come, with late=1
                self.out({"node": node, "missing": [expected, first - 1]})
            self.next[node, header["epoch"]] = max(expected, last + 1)
        for line in lines:
            if line.startswith("# linli lost "):
                lost = words(line)
                self.out({"node": node, "lost": lost["seq"], "count": int(lost["count"]), "reason": lost["reason"]})
            elif line and not line.startswith("#"):
                measurement, tags, fields, at = parse_line(line)
                subject = tags.get("device") or tags.get("rule") + "/" + tags.get("subject")
                points = {k[:-2] if k.endswith("_q") else k for k in fields}
                for point in sorted(points):
                    series = (late, node, subject, point)
                    q = self.quality[series] = fields.get(point + "_q", self.quality.get(series, 0))
                    self.out({"node": node, "class": measurement, "of": subject, "zone": tags.get("zone"), "point": point,
                              "value": fields.get(point), "quality": QUALITY[q], "time": at})

    def alert(self, node, event):
        alert = event["data"]
        if alert["revision"] > self.revisions.get(alert["id"], 0):  # an older one, or the same again, changes nothing
            self.revisions[alert["id"]] = alert["revision"]
            self.out({"node": node, "alert": alert["alert"], "subject": alert["subject"], "severity": alert["severity"],
                      "state": alert["state"], "what": event["type"].rsplit(".", 1)[1], "title": alert["title"]["zh"]})


def main():
    reader = Reader(lambda row: print(json.dumps(row, ensure_ascii=False), flush=True))
    for line in sys.stdin:
        topic, _, payload = line.rstrip("\n").partition(" ")
        reader.message(topic, bytes.fromhex(payload))


if __name__ == "__main__":
    main()
