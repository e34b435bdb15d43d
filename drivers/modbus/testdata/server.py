"""A Modbus server that none of us wrote: pymodbus 3.0.0 with a fixed set of values.

server.py tcp HOST:PORT | rtu_over_tcp HOST:PORT | rtu DEVICE
Prints "ready" once it answers. Unit 77 stays silent.
"""
import asyncio
import logging
import struct
import sys

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.framer.rtu_framer import ModbusRtuFramer
from pymodbus.framer.socket_framer import ModbusSocketFramer
from pymodbus.server.async_io import ModbusSerialServer, ModbusTcpServer


def words(fmt, value, little=False):
    data = struct.pack(fmt, value)
    out = [struct.unpack(">H", data[i : i + 2])[0] for i in range(0, len(data), 2)]
    return out[::-1] if little else out


def unit():
    inputs = [0] * 400
    inputs[0:2] = words(">f", 230.5)
    inputs[2:4] = words(">I", 123456, little=True)
    inputs[4] = words(">h", -101)[0]
    inputs[5] = 0x7FFF
    inputs[342:344] = words(">f", -0.25)
    holding = [0] * 40
    holding[1] = 1 << 3
    holding[2] = 5 << 4 | 0x0F
    holding[10] = 40
    holding[12:14] = words(">f", 1.5, little=True)
    discrete = [1] + [0] * 31
    coils = [0, 1] + [0] * 30
    block = ModbusSequentialDataBlock
    return ModbusSlaveContext(
        di=block(0, discrete), co=block(0, coils), hr=block(0, holding), ir=block(0, inputs), zero_mode=True
    )


def conformance():
    """The registers of conformance_test.go."""
    block = ModbusSequentialDataBlock
    return ModbusSlaveContext(
        co=block(0, [int(i % 3 == 0) for i in range(2100)]),
        di=block(0, [int(i % 5 == 0) for i in range(2100)]),
        hr=block(0, [0x1000 + i for i in range(200)]),
        ir=block(0, [0x2000 + i for i in range(200)]),
        zero_mode=True,
    )


async def main():
    kind, where = sys.argv[1], sys.argv[2]
    context = ModbusServerContext(slaves={1: unit(), 2: unit(), 3: conformance()}, single=False)
    if kind == "rtu":
        server = ModbusSerialServer(
            context, framer=ModbusRtuFramer, port=where, baudrate=19200, ignore_missing_slaves=True
        )
        await server.start()
        print("ready", flush=True)
        await server.serve_forever()
        return
    host, port = where.split(":")
    framer = ModbusSocketFramer if kind == "tcp" else ModbusRtuFramer
    server = ModbusTcpServer(
        context, framer=framer, address=(host, int(port)), ignore_missing_slaves=True, allow_reuse_address=True
    )
    task = asyncio.create_task(server.serve_forever())
    await server.serving
    print("ready", flush=True)
    await task


logging.disable(logging.CRITICAL)  # a client that goes away is no news
asyncio.run(main())
