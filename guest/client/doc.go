// Package client is the host's half of a session with a guest's agent.
//
// A Session takes the connections that the agent dials, one after the other, and makes one conversation of them:
//
//	          Accept           hello, auth, auth_ok, ready
//	waiting ----------> shaking hands ----------> connected
//	   ^                     |                        |
//	   | refused, or 10 s    |                        |
//	   +---------------------+                        |
//	   +----------------------------------------------+
//	            connection lost, or guest silent
//
//	from everywhere, once: Close, the transport failed, the first agent to call was refused, or one
//	that was connected has not called again for a minute -> over
//
// After the first one only a connection whose hello has the agent's boot id is taken, and it replaces the one in use once its
// handshake is done: a stranger in the guest that dials learns nothing and ends nothing.
//
// A call is known by its call id, and lives until it is answered or its context ends. When a connection replaces another, the
// calls without an answer are sent again; the agent does none of them twice. Exits and stream ends are numbered: the session
// gives each to its Handler once and in order, acknowledges them, and drops the ones that the agent sends again.
package client
