// Package requests serves machine requests: what a person or a program asks of the machine itself, beside what the session of the host says
// of its containers. It is the same on every listener: a vsock port, of which only the host's connections come here, and a unix socket.
//
// # A connection
//
//	          request             answer
//	waiting ----------> serving ----------> waiting
//	   |                   |  ^
//	   |           started |  | exited
//	   |                   v  |
//	   |                commanding <---+ stdin, resize
//	   |                   |     \_____/
//	   v                   v
//	 closed <--------------+   the client is gone: the command is killed, an upload's staging file removed
//
// Requests of one connection are served one at a time and in order. The next one is read while one is served, and no more, which is how it
// is noticed that a client goes away. JSON that makes no sense is answered by an error and changes nothing, and so is a message that is too
// large, whose bytes are read and dropped.
//
// # A command
//
// A command is a program in the machine itself (vm_exec) or a container of an image (run). Both are started by package container: its
// streams are pipes within the agent, and what they bring is collected (captured), sent as it comes (interactive), or not wanted (in the
// background). A captured command that says more than one response can carry is killed, and the answer an error: nothing is cut off in
// silence.
package requests
