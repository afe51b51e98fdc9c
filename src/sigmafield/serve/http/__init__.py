"""The server's HTTP interface; its files import aiohttp, and are imported when a server is started."""
