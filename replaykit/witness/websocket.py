"""What was said after a switch to WebSocket, by wsproto's frames."""

from __future__ import annotations

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, ParseFailed, RsvBits

from replaykit.witness.conversations import Direction
from replaykit.witness.reading import Exchange, Undecided


class _AsItIs(Extension):
    """Lets compressed payload pass as it was sent: sizes are compared, not contents."""

    name = "as-it-is"

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        return RsvBits(True, False, False)


def messages(side: Direction, at: int, target: str, from_server: bool) -> list[Exchange]:
    """Each message and each control frame from `at` on. Raises Undecided."""
    decoder = FrameDecoder(client=from_server, extensions=[_AsItIs()])
    decoder.receive_bytes(side.data[at:])
    out: list[Exchange] = []
    kind, header, body, first = Opcode.CONTINUATION, 0, 0, at
    try:
        while (frame := decoder.process_buffer()) is not None:
            if not frame.frame_finished:
                raise Undecided("a frame that is not whole")
            payload = bytes(frame.payload)  # type: ignore[arg-type]  # a decoder of frames hands out bytes alone
            size = len(payload)
            head = 2 + (0 if size < 126 else 2 if size < 65_536 else 8) + (0 if from_server else 4)
            if frame.opcode.iscontrol():
                code = int.from_bytes(payload[:2]) if frame.opcode is Opcode.CLOSE else 0
                out.append(_exchange(frame.opcode, target, code, head, size, from_server, side.packet(at)))
            else:
                if (frame.opcode is Opcode.CONTINUATION) == (kind is Opcode.CONTINUATION):
                    raise Undecided("a message begins amid another, or goes on without one")
                if frame.opcode is not Opcode.CONTINUATION:
                    kind, header, body, first = frame.opcode, 0, 0, at
                header, body = header + head, body + size
                if frame.message_finished:
                    out.append(_exchange(kind, target, 0, header, body, from_server, side.packet(first)))
                    kind = Opcode.CONTINUATION
            at += head + size
    except ParseFailed as error:
        raise Undecided(f"wsproto: {error}") from None
    if at != len(side.data):
        raise Undecided("a frame that is not whole, or longer than it need be")
    return out


def _exchange(
    kind: Opcode, target: str, status: int, header: int, body: int, from_server: bool, packet: int
) -> Exchange:
    sizes = (0, 0, header, body) if from_server else (header, body, 0, 0)
    return Exchange(kind.name, target, status, *sizes, (0, packet) if from_server else (packet, 0))
