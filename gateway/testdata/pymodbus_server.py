#!/usr/bin/python3
"""A Modbus TCP server made with pymodbus, which none of us wrote. It serves five kinds of device and writes down what
it served: one JSON line for each read, {"t": ns since 1970, "unit", "fx", "addr", "values"}.

usage: pymodbus_server.py PORT LOGFILE
"""
import json
import struct
import sys
import threading
import time

from pymodbus.datastore import ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartTcpServer

port, log = int(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
lock = threading.Lock()


class Unit(ModbusSlaveContext):
    """A unit whose words come from a function of the number of reads so far."""

    def __init__(self, unit, tables):
        super().__init__(zero_mode=True)
        self.unit, self.tables, self.reads = unit, tables, 0

    def validate(self, fx, address, count=1):
        table = self.tables.get(fx)
        return table is not None and address >= table[0] and address + count <= table[0] + table[1]

    def getValues(self, fx, address, count=1):
        first, _, make = self.tables[fx]
        with lock:
            self.reads += 1
            words = make(self.reads)
            values = words[address - first:address - first + count]
            log.write(json.dumps({"t": time.time_ns(), "unit": self.unit, "fx": fx, "addr": address, "values": values}) + "\n")
        return values

    def setValues(self, fx, address, values):
        pass


def f32(*values):
    """IEEE 754 floats, high word first."""
    words = []
    for v in values:
        words += struct.unpack(">HH", struct.pack(">f", v))
    return words


def u32_low_word_first(v):
    return [v & 0xFFFF, v >> 16]


def s16(v):
    return v & 0xFFFF


def pzem(n):
    """Peacefair PZEM-016, input registers 0 to 9. The energy counter grows with every read: no two reads are alike."""
    power = 1000 + n % 500
    return [2257, *u32_low_word_first(108 + n % 50), *u32_low_word_first(power), *u32_low_word_first(70000 + n), 500, 98, 0]


def sdm120(n):
    """Eastron SDM120, input registers 0 to 0x157."""
    words = [0] * 0x158
    for address, v in {0x00: 229.5 + n % 7 * 0.25, 0x06: 4.125, 0x0C: 940.5 + n % 11, 0x12: 950.0, 0x18: 12.5, 0x1E: 0.99,
                       0x46: 49.98, 0x48: 1234.5 + n * 0.25, 0x4A: 0.0, 0x156: 1234.5 + n * 0.25}.items():
        words[address:address + 2] = f32(v)
    return words


def xy_md02(n):
    """XY-MD02, input registers 1 and 2: temperatures below zero included."""
    return [s16(-55 + n % 100), 300 + n % 200]


def urm15(n):
    """DFRobot URM15, input registers 0 to 6: every fifth reading is "no probe"."""
    return [0x3343, 3, 0x0100, 0x0100, 0xFFFF if n % 5 == 0 else 500 + n % 600, 215, 0]


def inputs(n):
    """Waveshare 8-channel module, discrete inputs 0 to 7: a running light."""
    return [1 if n % 8 == i else 0 for i in range(8)]


units = {
    1: Unit(1, {4: (0, 10, pzem)}),
    2: Unit(2, {4: (0, 0x158, sdm120)}),
    3: Unit(3, {4: (1, 2, xy_md02)}),
    4: Unit(4, {4: (0, 7, urm15)}),
    5: Unit(5, {2: (0, 8, inputs), 1: (0, 8, inputs)}),
}
print("starting", flush=True)
StartTcpServer(context=ModbusServerContext(slaves=units, single=False), address=("127.0.0.1", port))
