// Package protocol is the language that the host and the guest's agent speak: frames, messages, limits and ports. Both sides
// import it; it imports nothing of limpet.
//
// # Layers
//
//   - Header, Reader and Writer carry frames (a binary header and a payload of at most 32 MiB) over any byte stream.
//   - A Codec turns one union of messages (HostMessage, GuestMessage, AgentRequest, AgentResponse) into JSON and back, strictly:
//     names are case-sensitive and unique, text is valid UTF-8, numbers are in range, what is required is there.
//   - Conn joins the two: a session's commands, responses and notifications, with keep-alive.
//   - ReadMessage and WriteMessage carry machine requests, which have a length in front and no header.
//   - Preamble opens a byte stream, which then is a plain pipe, or a Duplex where both directions carry data and end one by one;
//     Join joins a Duplex to a socket.
//
// # A session
//
//	guest                              host
//	  | ---- hello (notification) ---->  |   dialled by the guest; 10 s for all of this
//	  | <--- auth (command) ------------ |
//	  | ---- auth_ok (response) ------>  |   or an error response and auth_failed, then close
//	  | ---- ready (notification) ---->  |
//	  | <--- commands ------------------ |   answered by their call id, in any order
//	  | ---- exit, stream_end, ... --->  |   numbered by sequence until acknowledged
//	  | <--> ping, pong <------------->  |   when nothing arrived for 10 s
//	  | <--> bye <-------------------->  |   on purpose; without it the guest dials again
//
// Both sides treat a session that breaks in the same way: the guest dials again, the host sends again the commands that have
// no answer (same call id, not done twice), the guest sends again the exits and stream ends that were not acknowledged.
package protocol
