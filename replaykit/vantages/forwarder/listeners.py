"""The sockets that mappings listen on: one each, but for those of hosts, which share a port."""

from __future__ import annotations

from replaykit.vantages.forwarder.mapping import Mapping
from replaykit.vantages.forwarder.route import Route
from replaykit.vantages.forwarder.tcp import HostListener, PortListener
from replaykit.vantages.forwarder.udp import UdpListener


class Listeners:
    """Those that are open, by the mapping's name."""

    def __init__(self) -> None:
        self._opened: dict[str, Mapping] = {}
        self._own: dict[str, PortListener | UdpListener] = {}
        self._hosts: dict[tuple[str, int], HostListener] = {}

    def open(self, one: Mapping, route: Route) -> None:
        """Raises UsageError where it cannot listen there."""
        if one.protocol == "host":
            place = one.listen, one.source_port
            there = self._hosts.get(place)
            if there is None:
                there = self._hosts[place] = HostListener(*place)
            there.routes[one.host] = route
        else:
            self._own[one.name] = PortListener(route) if one.protocol == "tcp" else UdpListener(route)
        self._opened[one.name] = one

    def reroute(self, one: Mapping, route: Route) -> None:
        """New visitors of one that is open go this way."""
        listener = self._own.get(one.name)
        if listener is not None:
            listener.route = route
        else:
            self._hosts[one.listen, one.source_port].routes[one.host] = route

    def close(self, name: str) -> None:
        one = self._opened.pop(name, None)
        if one is None:
            return
        if one.protocol != "host":
            self._own.pop(name).close()
            return
        place = one.listen, one.source_port
        self._hosts[place].routes.pop(one.host, None)
        if not self._hosts[place].routes:
            self._hosts.pop(place).close()

    def full(self, name: str) -> bool:
        """Whether it has as many visitors as it can."""
        listener = self._own.get(name)
        return isinstance(listener, UdpListener) and listener.full
