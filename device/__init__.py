"""The reference device agent: a library to write devices with, a program, and a fleet simulator.

A device in ten lines::

    import asyncio
    from pathlib import Path
    from device.agent import Agent

    async def main() -> None:
        agent = Agent("lamp-7", Path("lamp-7"), "broker.example", 8883, Path("ca.pem"))
        async with agent.running():
            await agent.report("temperature", {"celsius": 21.5})
            await agent.drained()

    asyncio.run(main())

`report` returns once the event is durable on the device; the agent sends it until the history has
it, over any number of reconnects and restarts, and renews its certificate by itself. The identity
comes from `python -m device init` (key and CSR) and `python -m device adopt` (the certificate).
"""
