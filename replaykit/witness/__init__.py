"""The second opinion: capture files read by other people's libraries, slowly and simply.

It shares no code with the engine, so that a misreading is not in both: packets by dpkt, HTTP/1 by h11, HTTP/2
by hyperframe and hpack, WebSocket by wsproto. It reads whole conversations and sizes only, and says
"undecided" where something is missing or a library refuses.
"""
