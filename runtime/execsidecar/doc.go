// Package execsidecar runs a program for a client that is connected to a local socket, with the client's own descriptors as its standard
// streams. Server and client speak in datagrams over a unix socket of type SOCK_SEQPACKET:
//
//	client                                       server
//	  request: exec, size of the next ───────────▶
//	  command, with 0 to 3 descriptors ──────────▶  starts it
//	  ◀──────────────────── started, or why not ──  (in which case all is said)
//	  signal ────────────────────────────────────▶  passes it on, any number of times
//	  ◀───────────────────────────────── result ──  it has ended
//	  request: stop ─────────────────────────────▶  in place of all that: the server ends
//
// The integers are little endian and of fixed width, a text or list begins with its length in 64 bits, a variant with its number in 32.
//
// A command that runs for a client:
//
//	         Starter                 its end
//	request ────────▶ running ─────────────────────▶ ended ──▶ result sent
//	   │                 │ client or server gone:        ▲
//	   └─▶ refused       └──▶ hanging up ────────────────┘
//	                          the hang-up signal is sent
//
// Where the command runs is the Starter's affair: StartLocal runs it on this machine, as a child of this process; a sandbox's door runs it
// in the sandbox.
package execsidecar
