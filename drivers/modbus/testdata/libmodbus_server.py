"""A Modbus server on libmodbus (Debian: libmodbus5), called through ctypes.

libmodbus_server.py tcp HOST:PORT | rtu DEVICE
Serves the registers of conformance_test.go as unit 3. Prints "ready" once it answers.
"""
import ctypes
import sys

lib = ctypes.CDLL("libmodbus.so.5", use_errno=True)


class Mapping(ctypes.Structure):
    _fields_ = [
        (n, ctypes.c_int)
        for n in ("nb_bits", "start_bits", "nb_input_bits", "start_input_bits")
        + ("nb_input_registers", "start_input_registers", "nb_registers", "start_registers")
    ] + [
        ("bits", ctypes.POINTER(ctypes.c_uint8)),
        ("input_bits", ctypes.POINTER(ctypes.c_uint8)),
        ("input_registers", ctypes.POINTER(ctypes.c_uint16)),
        ("registers", ctypes.POINTER(ctypes.c_uint16)),
    ]


lib.modbus_new_tcp.restype = lib.modbus_new_rtu.restype = ctypes.c_void_p
lib.modbus_mapping_new.restype = ctypes.POINTER(Mapping)


def fail(what):
    sys.exit(f"{what}: errno {ctypes.get_errno()}")


kind, where = sys.argv[1], sys.argv[2]
mapping = lib.modbus_mapping_new(2100, 2100, 200, 200)
m = mapping.contents
for i in range(2100):
    m.bits[i], m.input_bits[i] = int(i % 3 == 0), int(i % 5 == 0)
for i in range(200):
    m.registers[i], m.input_registers[i] = 0x1000 + i, 0x2000 + i

query = (ctypes.c_uint8 * 260)()
if kind == "tcp":
    host, port = where.split(":")
    ctx = ctypes.c_void_p(lib.modbus_new_tcp(host.encode(), int(port)))
    listening = ctypes.c_int(lib.modbus_tcp_listen(ctx, 1))
    if listening.value < 0:
        fail("listen")
    print("ready", flush=True)
    while True:
        if lib.modbus_tcp_accept(ctx, ctypes.byref(listening)) < 0:
            fail("accept")
        while (n := lib.modbus_receive(ctx, query)) >= 0:
            if n > 0:
                lib.modbus_reply(ctx, query, n, mapping)
        lib.modbus_close(ctx)
else:
    ctx = ctypes.c_void_p(lib.modbus_new_rtu(where.encode(), 19200, ctypes.c_char(b"N"), 8, 1))
    lib.modbus_set_slave(ctx, 3)
    if lib.modbus_connect(ctx) < 0:
        fail("connect")
    print("ready", flush=True)
    while True:
        n = lib.modbus_receive(ctx, query)
        if n > 0:
            lib.modbus_reply(ctx, query, n, mapping)
